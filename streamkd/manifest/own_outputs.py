"""What we wrote is no class: outputs among the class folders are refused, or else left out.

refuse_among_classes(images, "photos/runs/a", kind="run directory", flag="--out")
holds_only_outputs(b"photos/runs")               # True: runs, stores or pixel caches, and no image
"""

from __future__ import annotations

import os
import re
from typing import Any

from streamkd.errors import OutputError
from streamkd.manifest.listing import EXTENSIONS, is_left_out

# Names in a run directory; config.json is written first.
_CONFIG, _BESIDE_CONFIG = "config.json", ("checkpoints", "student.keras")
# Files of pixel caches, of stores (by their first bytes) and of TensorBoard.
_OUTPUT_FILE = re.compile(r"[0-9a-f]{24}\.(pixels|records)|events\.out\.tfevents\..*")
_STORE_ENDING, _STORE_MAGIC = ".h5", b"streamkd"
# Folders that are looked into below one that may hold outputs alone.
_MAX_FOLDERS = 1000


def refuse_among_classes(
    images: Any, path: str | os.PathLike[str] | bytes, *, kind: str, flag: str
) -> None:
    """Refuses an output directory among class folders, where the next scan would find it.

    Args:
      images: `Manifest`. Only a directory of class folders is no place for outputs: the images of
        a table, of a manifest file or of a list of labels may lie anywhere.
      path: the directory that will be made.
      kind, flag: what the message calls it, and the flag that gives another path.

    Raises:
      OutputError: the directory lies in that of the images.
    """
    root = os.path.realpath(images.root)
    target = os.path.realpath(os.fsencode(path))
    if target != root and not target.startswith(os.path.join(root, b"")):
        return
    below = os.path.relpath(target, root).split(b"/")
    if any(part != b"." and is_left_out(part) for part in below) or not images.has_class_folders:
        return
    name = "runs" if target == root else os.fsdecode(os.path.basename(target))
    outside = os.path.join(os.path.dirname(os.fsdecode(root)), name)
    raise OutputError(
        f"The {kind} lies in the directory of the images, where a scan would take it for a class.\n"
        f"  images: {os.fsdecode(root)}\n"
        f"  {kind}: {os.fsdecode(target)}\n"
        f"Give a directory outside, such as `{flag} {outside}`."
    )


def refuse_store_in_class(images: Any, path: str | os.PathLike[str] | bytes) -> None:
    """Refuses a new store in a class folder; in an empty one it would end the class.

    Raises:
      OutputError: the path lies in a class folder of the images.
    """
    root = os.path.realpath(images.root)
    folder, name = os.path.split(os.fsencode(os.path.abspath(os.fsdecode(path))))
    below = os.path.relpath(os.path.realpath(folder), root)
    first = below.split(b"/")[0]
    if not images.has_class_folders or first in (b".", b"..") or os.path.lexists(path):
        return
    is_class = os.fsdecode(first) in (images.class_names or ())
    if not is_class and not any(key.startswith(first + b"/") for key in images.keys):
        return
    outside = os.fsdecode(os.path.join(os.path.dirname(root), name))
    raise OutputError(
        f"The store lies in the folder of a class, {os.fsdecode(first)!r}.\n"
        f"  images: {os.fsdecode(root)}\n"
        f"  store: {os.fsdecode(path)}\n"
        f"Give a path outside, such as `--out {outside}`."
    )


def holds_only_outputs(folder: bytes) -> bool:
    """Returns whether a folder holds runs, stores or pixel caches at any depth, and no image."""
    found = False
    for number, (path, folders, files) in enumerate(os.walk(os.fsdecode(folder))):
        lowered = [os.fsencode(name).lower() for name in files]
        if number == _MAX_FOLDERS or any(name.endswith(EXTENSIONS) for name in lowered):
            return False
        found |= _CONFIG in files and any(n in (*folders, *files) for n in _BESIDE_CONFIG)
        found |= any(_is_output(os.path.join(path, name)) for name in files)
    return found


def _is_output(path: str) -> bool:
    """Returns whether a file is one of a pixel cache, a store, or a log of TensorBoard."""
    if not path.endswith(_STORE_ENDING):
        return bool(_OUTPUT_FILE.fullmatch(os.path.basename(path)))
    try:
        if not os.path.isfile(path):  # a pipe would wait for a writer
            return False
        with open(path, "rb") as file:
            return file.read(len(_STORE_MAGIC)) == _STORE_MAGIC
    except OSError:
        return False

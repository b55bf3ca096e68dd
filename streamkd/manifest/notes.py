"""Notes: what a scan passed over, and what looks odd in its folders.

    for note in notes_of(images): note.code, note.count, note.examples, note.advice

A second walk over the directory entries finds them, so that a plain listing costs no more.
"""

from __future__ import annotations

import dataclasses
import os
from collections import defaultdict
from typing import Any

from streamkd.errors import readable_key
from streamkd.manifest import listing, look_alikes, own_outputs, wrapper
from streamkd.manifest.manifest import Manifest
from streamkd.manifest.sources import check_root

MAX_EXAMPLES = 5
# Images whose files are compared: a `stat` for each takes longer than the listing.
MAX_COMPARED = 200_000
ADVICE = {
    "files_not_listed": "These files have no ending that is listed; convert them, or leave them.",
    "system_folders": "A system made these folders; they are left out.",
    "own_outputs": "streamkd wrote the runs, stores or caches in these folders; they are left out.",
    "links_passed_over": "These links lead to folders or nowhere; --follow-links enters folders.",
    "loose_images": "These images lie beside the class folders and are left out; move them.",
    "empty_classes": "These classes have no image; move the folders away, or fill them.",
    "wrapper_folder": "The one class has folders below it; did you mean this directory?",
    "names_look_equal": "These class names look the same; rename one of them, or move its images.",
    "same_file_two_labels": "The same file (by a link) has two labels; keep one of them.",
    "same_content_two_labels": "Files with the same bytes have two labels; keep one of them.",
}


@dataclasses.dataclass(frozen=True)
class Note:
    """One kind of oddity: its code, how often it occurs, examples, and what to do."""

    code: str
    count: int
    examples: list[str]
    advice: str

    def fields(self) -> dict[str, Any]:
        """Returns the note as a JSON object."""
        return dataclasses.asdict(self)

    def __str__(self) -> str:
        return f"{self.code}: {self.count:,} ({', '.join(self.examples)}). {self.advice}"


def notes_of(images: Manifest) -> list[Note]:
    """Returns the notes of a manifest, in the order of `ADVICE`.

    Raises:
      ImagesNotFoundError: the root of the images is gone.
    """
    check_root(images.root)
    found: dict[str, list[str]] = defaultdict(list)
    _walk(images, set(images.keys), found)
    found["empty_classes"] = list(images.empty_classes or [])
    found["names_look_equal"] = look_alikes.pairs(images.class_names or [])
    found["same_file_two_labels"] = _files_with_two_labels(images)
    directory = wrapper.wrapped_directory(images)
    if directory is not None:
        found["wrapper_folder"] = [readable_key(directory)]
    return [
        Note(code, len(found[code]), found[code][:MAX_EXAMPLES], advice)
        for code, advice in ADVICE.items()
        if found[code]
    ]


def _walk(images: Manifest, keys: set[bytes], found: dict[str, list[str]]) -> None:
    """Collects the files, folders and links of the directory that are not listed."""
    lists_root = any(b"/" not in key for key in keys)
    for folder, folders, files in os.walk(images.root):
        below = os.path.relpath(folder, images.root)
        kept = []
        for name in folders:
            path = os.path.join(folder, name)
            key = os.path.normpath(os.path.join(below, name))
            if name.lower() in listing.SYSTEM_FOLDERS:
                found["system_folders"].append(readable_key(key))
            elif os.path.islink(path) and below != b".":
                if not any(listed.startswith(key + b"/") for listed in keys):
                    found["links_passed_over"].append(readable_key(key))
            elif below == b"." and own_outputs.holds_only_outputs(path):
                found["own_outputs"].append(readable_key(key))
            elif not name.startswith(b"."):
                kept.append(name)
        folders[:] = kept
        for name in files:
            key = os.path.normpath(os.path.join(below, name))
            if not name.startswith(b".") and key not in keys:
                code = _code_of_file(folder, name, in_root=below == b".")
                if code is not None and not (code == "loose_images" and lists_root):
                    found[code].append(readable_key(key))


def _code_of_file(folder: bytes, name: bytes, *, in_root: bool) -> str | None:
    """Returns the code of a file that is not listed; None for an image left out on purpose.

    A split, a part of a pass or a class map leaves out images of the class folders.
    """
    is_image = name.lower().endswith(listing.EXTENSIONS)
    if is_image and not in_root:
        return None
    if not os.path.exists(os.path.join(folder, name)):
        return "links_passed_over"
    return "loose_images" if is_image else "files_not_listed"


def _files_with_two_labels(images: Manifest) -> list[str]:
    """Returns pairs of keys that are one file on the disk and have different labels."""
    if images.num_classes in (None, 0, 1) or len(images) > MAX_COMPARED:
        return []
    first: dict[tuple[int, int], int] = {}
    pairs = []
    for index, path in enumerate(images.each_path()):
        try:
            same = first.setdefault(listing.identity(path), index)
        except OSError:
            continue
        if images.labels[same] != images.labels[index]:
            keys = images.keys[same], images.keys[index]
            pairs.append(" and ".join(map(readable_key, keys)) + " are the same file")
    return pairs

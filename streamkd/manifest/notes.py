"""Notes: what a scan passed over, and what looks odd in its folders.

    for note in notes_of(images): note.code, note.count, note.examples, note.advice

The walk of the listing has met most of it; only folders that were not listed are walked here.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import os
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator
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
    _look_at_entries(images, found)
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


def _look_at_entries(images: Manifest, found: dict[str, list[str]]) -> None:
    """Collects the files, folders and links of the directory that are not listed."""
    # Made when they are needed: most folders have nothing odd.
    keys = functools.cache(lambda: set(images.keys))
    lists_root = functools.cache(lambda: any(b"/" not in key for key in keys()))
    walked = images.passed_over or listing.PassedOver(frozenset(), [])
    for key in itertools.chain(walked.entries, _unlisted_entries(images.root, walked.folders)):
        code = _code_of(images.root, key, keys)
        if code is not None and not (code == "loose_images" and lists_root()):
            found[code].append(readable_key(key))


def _unlisted_entries(root: bytes, listed: Collection[bytes]) -> Iterator[bytes]:
    """Yields keys of what may be odd outside of the folders that were listed.

    Images below the root are none of it: a split, a part of a pass or a class map leaves them out.
    """
    if b"" in listed:
        return
    for folder, folders, files in os.walk(root):
        below = b"" if folder == root else os.path.relpath(folder, root)
        kept = []
        for name in folders:
            key, path = os.path.join(below, name), os.path.join(folder, name)
            if name.startswith(b".") or (not below and name in listed):
                continue
            is_odd = listing.is_left_out(name) or (below and os.path.islink(path))
            if is_odd or (not below and own_outputs.holds_only_outputs(path)):
                yield key
            else:
                kept.append(name)
        folders[:] = kept
        for name in files:
            is_image = name.lower().endswith(listing.EXTENSIONS)
            if not name.startswith(b".") and not (is_image and below):
                yield os.path.join(below, name)


def _code_of(root: bytes, key: bytes, keys: Callable[[], set[bytes]]) -> str | None:
    """Returns the code of an entry that may be odd, or None."""
    path, in_root = os.path.join(root, key), b"/" not in key
    if os.path.isdir(path):
        if listing.is_left_out(os.path.basename(key)):
            return "system_folders"
        if in_root:
            return "own_outputs" if own_outputs.holds_only_outputs(path) else None
        is_listed = any(listed.startswith(key + b"/") for listed in keys())
        return "links_passed_over" if os.path.islink(path) and not is_listed else None
    is_image = key.lower().endswith(listing.EXTENSIONS)
    if (is_image and not in_root) or key in keys():
        return None
    if not os.path.exists(path):
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

"""Finds files with the same bytes under different labels; `scan --check` notes them.

    notes_of_content(scan("photos/train"))      # [] or a Note with the code same_content_two_labels

Files of different sizes differ: only files whose size another label has too are read.
"""

from __future__ import annotations

import os

import numpy as np

from streamkd.manifest.contradictions import contradictions, described
from streamkd.manifest.manifest import Manifest
from streamkd.manifest.notes import ADVICE, MAX_EXAMPLES, Note
from streamkd.pixels.content_digest import digest_files

_CODE = "same_content_two_labels"


def notes_of_content(images: Manifest) -> list[Note]:
    """Returns the note of images that have the same bytes and different labels, if there are any.

    Files that cannot be read are left out.
    """
    sizes = np.array([_size(path) for path in images.each_path()], np.int64)
    sizes[images.labels < 0] = -1
    by_size = contradictions(images.labels, sizes.astype(np.uint64))
    suspects = np.flatnonzero((sizes >= 0) & np.isin(sizes, sizes[by_size[:, 0]]))
    if not len(suspects):
        return []
    digests, readable = digest_files(images.paths(suspects))
    chosen = images.select(suspects[readable])
    pairs = contradictions(chosen.labels, digests[readable])
    if not len(pairs):
        return []
    examples = described(chosen.keys, chosen.labels, chosen.class_names, pairs[:MAX_EXAMPLES])
    return [Note(_CODE, len(pairs), examples, ADVICE[_CODE])]


def _size(path: bytes) -> int:
    try:
        return os.stat(path).st_size
    except OSError:
        return -1

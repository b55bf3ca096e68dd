"""Teacher passes over the numbered images of `helpers.py`, and a directory that changes.

store, teacher = run_pass(images, tmp_path / "s.h5")
store, teacher = run_pass(change(directory), tmp_path / "s.h5")     # a delta beside the store
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import helpers

from streamkd.manifest.manifest import Manifest, scan


def run_pass(images: Manifest, path: Path | str, **options: Any) -> tuple[Any, Any]:
    """Teaches at 8×8 in blocks of 7 images; returns the store and the teacher.

    Args:
      images: of `draw_image`.
      path: of the store.
      options: of `teach`; `teacher` is an `EncodingTeacher` by default.
    """
    teacher = options.pop("teacher", None) or helpers.EncodingTeacher()
    return helpers.teach_small(images, teacher, path, **options), teacher


def change(directory: Path) -> Manifest:
    """Adds two images, changes one, renames one and removes one; returns the manifest."""
    helpers.draw_image(directory / "ant" / "new.png", 500, 0)
    helpers.draw_image(directory / "cat" / "new.png", 501, 2)
    helpers.draw_image(directory / "bee" / "00011.png", 502, 1)
    (directory / "ant" / "00001.png").rename(directory / "ant" / "renamed.png")
    (directory / "cat" / "00025.png").unlink()
    return scan(directory)

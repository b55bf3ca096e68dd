"""Fixtures that several test modules share: a tiny directory, its manifest, a store of it.

The images and the teacher are those of `helpers.py`: both carry the number of the image.
"""

from __future__ import annotations

import importlib
import os

import pytest

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

# Class names and images of `directory`: uneven, and no multiple of a batch.
COUNTS = {"ant": 11, "bee": 9, "cat": 10}


@pytest.fixture
def directory(tmp_path):
    """A directory of 30 PNG images of 8×8 pixels in 3 class folders; see `helpers.draw_image`."""
    from helpers import draw_directory

    return draw_directory(tmp_path / "images", COUNTS)


@pytest.fixture
def images(directory):
    """The manifest of `directory`."""
    from streamkd.images.manifest import scan

    return scan(directory)


@pytest.fixture
def teacher():
    """A teacher of 3 classes whose logits hold the number of the image; it counts its calls."""
    from helpers import EncodingTeacher

    return EncodingTeacher(num_classes=len(COUNTS))


@pytest.fixture
def store(images, teacher, tmp_path):
    """A finished store of `images`, taught by `teacher` at 8×8 in blocks of 7 images."""
    from streamkd.teachers.teaching import teach

    path = tmp_path / "teacher.h5"
    return teach(images, teacher, path, image_size=(8, 8), batch_size=7, progress=False)


@pytest.fixture(params=["tf_keras", "keras"])
def family(request):
    """The module of each Keras family in turn: `tf_keras`, then Keras 3."""
    return importlib.import_module(request.param)

"""Every store gets the same last checks, however it was made."""

import os

import numpy as np
import pytest
from helpers import EncodingTeacher, draw_image

import streamkd as kd
from streamkd.errors import DamagedStoreError, MissingLogitsError

SMALL = {"image_size": (8, 8), "progress": False}


def right(images):
    """Returns logits that are right on every image, float32 `[num_images, 3]`."""
    return np.eye(3, dtype=np.float32)[images.labels] * 9


def shuffled(images):
    """Returns right logits in a wrong order, for which no label is right."""
    return right(images)[np.roll(np.arange(len(images)), len(images) // 3 + 1)]


@pytest.mark.parametrize("rows", ["right", "wrong"])
def test_imported_logits_in_a_wrong_order_are_warned_of(images, tmp_path, rows, recwarn):
    logits = right(images) if rows == "right" else shuffled(images)
    kd.import_logits(logits, images.keys.tolist(), images, tmp_path / "s.h5", **SMALL)
    codes = [w.message.code for w in recwarn if isinstance(w.message, kd.StreamkdWarning)]
    assert codes == ([] if rows == "right" else ["teacher_at_chance"])


def test_written_logits_in_a_wrong_order_are_warned_of(images, tmp_path):
    logits = shuffled(images)
    with pytest.warns(kd.StreamkdWarning, match="of imported logits, also the order of the rows"):
        kd.write_store(
            images, tmp_path / "s.h5", lambda batch: logits[batch.indices], teacher="t", **SMALL
        )


def test_a_class_whose_files_were_all_refused_is_named(directory, tmp_path):
    for path in (directory / "bee").iterdir():
        path.write_bytes(b"no image")
    with (
        pytest.warns(kd.StreamkdWarning, match="cannot be decoded"),
        pytest.warns(kd.StreamkdWarning, match="No image of these classes has logits .*: 'bee'"),
    ):
        kd.teach(directory, EncodingTeacher(), tmp_path / "s.h5", on_bad="skip", **SMALL)


@pytest.mark.parametrize("num_bytes", [0, 5000])
def test_a_store_that_is_cut_short_while_it_is_read_is_an_error(images, tmp_path, num_bytes):
    path = tmp_path / "s.h5"
    kd.teach(images, EncodingTeacher(), path, **SMALL)
    store = kd.open_store(path)
    store.gather(np.arange(3))
    os.truncate(path, num_bytes)
    with pytest.raises(DamagedStoreError, match=rf"it was cut short to {num_bytes:,} of [\d,]+ by"):
        store.gather(np.arange(12))


def test_images_that_came_later_are_answered_by_the_same_command(directory, tmp_path):
    path = tmp_path / "s.h5"
    kd.teach(directory, EncodingTeacher(), path, **SMALL)
    draw_image(directory / "cat" / "new.png", 30, 2)
    words = "(?s)1 of 31 .*`teach` command of this store again, and only these .*s[.]h5`"
    with pytest.raises(MissingLogitsError, match=words):
        kd.join(directory, path, batch_size=6, seed=1)
    kd.teach(directory, EncodingTeacher(), path, **SMALL)
    assert len(kd.join(directory, path, batch_size=6, seed=1).images) == 31

"""Refusals of images that came or changed after the pass name the command that answers them."""

import os

import helpers
import numpy as np
import pytest
from delta_helpers import run_pass
from helpers import draw_image, teach_small

import streamkd as kd
from streamkd.errors import ChangedImageError, MissingLogitsError, OtherImagesError
from streamkd.manifest.manifest import scan


def draw_over(directory):
    draw_image(directory / "bee" / "00015.png", 16, 1)


def append(directory):
    with open(directory / "bee" / "00015.png", "ab") as file:
        file.write(b"\0")


def add(directory):
    draw_image(directory / "bee" / "new.png", 40, 1)


def add_below(directory):
    (directory / "bee" / "more").mkdir()
    draw_image(directory / "bee" / "more" / "new.png", 41, 1)


def add_many(directory):
    for number in range(42, 47):
        draw_image(directory / "cat" / f"{number}.png", number, 2)


def rename_and_change(directory):
    (directory / "ant" / "00003.png").unlink()
    draw_image(directory / "ant" / "renamed.png", 48, 0)


@pytest.mark.parametrize(
    "change",
    [
        *(draw_over, add, rename_and_change),
        *(pytest.param(change, marks=pytest.mark.slow) for change in (append, add_below, add_many)),
    ],
)
def test_the_command_that_a_refusal_names_answers_what_came_or_changed(
    store, directory, tmp_path, change
):
    change(directory)
    images, path = scan(directory), tmp_path / "teacher.h5"

    def read():
        stream = kd.join(images, path, batch_size=len(images), progress=False)
        return list(stream.batches(0, stream.end_of_epoch(1)))

    with pytest.raises((ChangedImageError, MissingLogitsError)) as refusal:
        read()
    text = str(refusal.value)
    assert "`teach` command of" in text and "again" in text and "teach … --out NEW" not in text
    run_pass(images, path)
    assert read()


def test_a_cut_pass_says_how_it_goes_on_with_images_that_came(images, directory, tmp_path):
    path = tmp_path / "cut.h5"
    with pytest.raises(helpers.TeacherFailedError):
        teach_small(images, helpers.EncodingTeacher(fail_at=3), path)
    add(directory)
    with pytest.raises(
        OtherImagesError, match=r"The pass of this store was cut\. Move the new images away and"
    ):
        teach_small(scan(directory), helpers.EncodingTeacher(), path)
    new = directory / "bee" / "new.png"
    os.rename(new, tmp_path / "new.png")
    teach_small(scan(directory), helpers.EncodingTeacher(), path)
    os.rename(tmp_path / "new.png", new)
    taught, _ = run_pass(scan(directory), path)
    assert taught.num_images == 31


def test_a_store_of_imported_logits_is_imported_again(images, directory, tmp_path):
    numbers = np.arange(len(images))
    logits = helpers.encoded_logits(numbers, images.labels, 3)
    options = {"image_size": (8, 8), "progress": False}
    kd.import_logits(logits, images.keys.tolist(), images, tmp_path / "i.h5", **options)
    add(directory)
    with pytest.raises(MissingLogitsError, match=r"made elsewhere.*`streamkd import … --images "):
        kd.join(scan(directory), tmp_path / "i.h5", batch_size=8, progress=False)

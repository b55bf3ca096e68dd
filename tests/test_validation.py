"""Validation after every epoch: the numbers of Keras' own `evaluate`."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import draw_directory
from run_helpers import dense_student, fit

from streamkd.errors import BadImageError, ClassNamesError, OptionError
from streamkd.image_options import ImageOptions
from streamkd.manifest.manifest import scan
from streamkd.stream.join import join
from streamkd.training.validation import Validation

OPTIONS = ImageOptions(image_size=(8, 8))


def validate(images, *, class_names=None, batch_size=8, model=None):
    model = model or dense_student(activation=None)
    return Validation(
        model,
        images,
        class_names=class_names or images.class_names,
        options=OPTIONS,
        batch_size=batch_size,
    ).run()


def keras_numbers(directory, family, model, class_names=None):
    """Loss and accuracy by the model's own `evaluate` on Keras' own loader."""
    data = family.utils.image_dataset_from_directory(
        directory, image_size=(8, 8), shuffle=False, batch_size=7, class_names=class_names
    )
    loss = family.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(loss=loss, metrics=["accuracy"])
    return model.evaluate(data, verbose=0)


@pytest.mark.parametrize("batch_size", [1, 8, 30, 99])
def test_the_numbers_are_those_of_keras(directory, images, family, batch_size, capsys):
    model = dense_student(family, activation=None)
    loss, accuracy = keras_numbers(directory, family, model)
    metrics = validate(images, batch_size=batch_size, model=model)
    assert metrics["val_loss"] == pytest.approx(loss, rel=1e-5)
    assert metrics["val_accuracy"] == pytest.approx(accuracy, rel=1e-6)


def test_classes_are_matched_by_name(directory, images, capsys):
    import tf_keras

    names, model = ["cat", "ant", "bee"], dense_student(activation=None)
    loss, accuracy = keras_numbers(directory, tf_keras, model, names)
    metrics = validate(images, class_names=names, model=model)
    assert metrics["val_loss"] == pytest.approx(loss, rel=1e-5)
    assert metrics["val_accuracy"] == pytest.approx(accuracy, rel=1e-6)


def test_an_unknown_class_is_refused(images):
    with pytest.raises(ClassNamesError, match=r"first of 1 unknown to the student: 'bee'"):
        validate(images, class_names=["ant", "cat", "dog"])


def test_images_without_labels_are_refused(directory):
    with pytest.raises(OptionError, match=r"validation images .* have no labels\.\nGive a dir"):
        validate(scan(directory, labels=None))


def test_an_image_without_a_label_does_not_count(tmp_path):
    images = scan(draw_directory(tmp_path / "images", {"ant": 4, "bee": 3, "cat": 3}))
    labelled = np.array([0, 2, 5, 8])
    expected = validate(images.select(labelled))
    images.labels[np.setdiff1d(np.arange(10), labelled)] = -1
    assert validate(images) == pytest.approx(expected, rel=1e-5)
    images.labels[:] = -1
    assert validate(images) == {"val_loss": None, "val_accuracy": None}


def test_a_bad_image_is_named(directory, images):
    (directory / "bee" / "00014.png").write_bytes(b"no image")
    with pytest.raises(BadImageError, match=r"'bee/00014\.png' cannot be decoded") as info:
        validate(images)
    assert info.value.key == b"bee/00014.png"


def test_a_bad_validation_image_is_named_also_where_bad_images_are_skipped(
    shared, directory, images, tmp_path
):
    """Numbers of fewer images would not be those that were asked for."""
    (directory / "bee" / "00014.png").write_bytes(b"no image")
    stream = join(scan(shared[0]), shared[1], batch_size=8, on_bad="skip")
    with pytest.raises(BadImageError, match=r"'bee/00014\.png' cannot be decoded") as info:
        fit(stream, run=tmp_path / "run", validation=images)
    assert info.value.key == b"bee/00014.png"
    assert not (tmp_path / "run").exists()

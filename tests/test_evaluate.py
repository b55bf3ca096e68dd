"""An evaluation: every number against scikit-learn or plain NumPy."""

from __future__ import annotations

import json

import numpy as np
import pytest
import tf_keras
from helpers import draw_directory, draw_noise, small_model
from run_helpers import EVALUATION_KEYS, cross_entropy, dense_student, distillation, snapshot

from streamkd.errors import (
    BadImageError,
    ClassNamesError,
    MissingLogitsError,
    OptionError,
    StudentError,
)
from streamkd.manifest.manifest import scan
from streamkd.results.evaluate import evaluate
from streamkd.stream.join import join
from streamkd.teachers.teach import teach
from streamkd.training.distiller import Distiller

sklearn_metrics = pytest.importorskip("sklearn.metrics")


@pytest.fixture
def directory(shared):
    return shared[0]


@pytest.fixture
def store(shared):
    return shared[1]


def report_on(model, images, **options):
    """The report without the one number that a clock makes."""
    report = evaluate(model, images, progress=False, **options).to_dict()
    assert set(report) == EVALUATION_KEYS and report.pop("latency_ms") > 0
    return report


def pixels_of(images):
    batch = join(images, None, image_size=(8, 8), batch_size=len(images), shuffle=False)
    return next(iter(batch.batches(0, 1)))[0].numpy()


def logits_of(model, images):
    """The logits of a `dense_student`, float64, whatever its activation."""
    kernel, bias = model.get_weights()
    return pixels_of(images).reshape(len(images), -1).astype(np.float64) / 255 @ kernel + bias


@pytest.mark.parametrize("activation", [None, "softmax"])
def test_numbers_are_those_of_scikit_learn_and_float64(images, store, family, activation):
    model = dense_student(family, activation=activation)
    logits, labels = logits_of(model, images), images.labels
    report = report_on(model, images, store=store, batch_size=7)
    choices = logits.argmax(axis=1)
    assert report["num_images"] == 30 and report["top5_accuracy"] is None
    assert report["accuracy"] == pytest.approx(sklearn_metrics.accuracy_score(labels, choices))
    assert report["num_errors"] == np.sum(choices != labels)
    assert report["nll"] == pytest.approx(cross_entropy(labels, logits).mean(), rel=1e-5)
    teacher_logits = store.gather(store.images_of_keys(images.keys))
    assert report["agreement"] == np.mean(choices == teacher_logits.argmax(axis=1))
    expected = distillation(teacher_logits, logits, 1.0).mean()
    assert report["kl_to_teacher"] == pytest.approx(expected, rel=1e-5)
    assert report["teacher_accuracy"] == 1.0
    assert report["num_parameters"] == 8 * 8 * 3 * 3 + 3


def test_a_report_is_read_as_attributes_as_keys_and_as_a_dict(images):
    report = evaluate(dense_student(), images, progress=False)
    assert report.accuracy == report["accuracy"] == report.to_dict()["accuracy"]
    assert set(report) == EVALUATION_KEYS and report.agreement is None
    assert report == report.to_dict() and {**report} == report.to_dict()
    assert json.loads(json.dumps(report)) == report
    with pytest.raises(AttributeError, match="Set a key instead"):
        report.accuracy = 1.0


def test_a_store_with_a_delta_answers_for_all_images(tmp_path, teacher):
    for first, count in ((0, 3), (100, 2)):
        counts = {"ant": count, "bee": count, "cat": count}
        images = scan(draw_directory(tmp_path / "images", counts, first=first))
        store = teach(images, teacher, tmp_path / "s.h5", image_size=(8, 8), progress=False)
    assert len(store.stores) == 2
    model = dense_student()
    report = report_on(model, images, store=tmp_path / "s.h5")
    logits = logits_of(model, images)
    teacher_logits = teacher(pixels_of(images))
    assert (report["num_images"], report["teacher_accuracy"]) == (15, 1.0)
    assert report["agreement"] == np.mean(logits.argmax(axis=1) == teacher_logits.argmax(axis=1))
    expected = distillation(teacher_logits, logits, 1.0).mean()
    assert report["kl_to_teacher"] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("num_classes", [5, 6])
def test_top5_is_known_with_more_than_five_classes(tmp_path, num_classes):
    counts = {f"class{i}": 4 for i in range(num_classes)}
    images = scan(draw_directory(tmp_path / "images", counts))
    model = dense_student(num_classes=num_classes)
    report = report_on(model, images)
    if num_classes == 5:
        assert report["top5_accuracy"] is None
        return
    expected = sklearn_metrics.top_k_accuracy_score(
        images.labels, logits_of(model, images), k=5, labels=range(6)
    )
    assert report["top5_accuracy"] == pytest.approx(expected)


def test_without_a_store_nothing_is_said_of_the_teacher(images):
    report = report_on(dense_student(), images)
    assert [report[k] for k in ("agreement", "kl_to_teacher", "teacher_accuracy")] == [None] * 3
    assert report["accuracy"] is not None


def test_the_batch_size_changes_nothing(images):
    reports = [report_on(dense_student(), images, batch_size=size) for size in (1, 7, 30, 64)]
    for name, value in reports[0].items():
        for report in reports[1:]:
            assert report[name] == (value if value is None else pytest.approx(value, rel=1e-5))


@pytest.fixture
def run(tmp_path):
    """A run directory whose student was trained on the classes in another order."""
    path = tmp_path / "run"
    path.mkdir()
    dense_student().save(path / "student.keras")
    (path / "config.json").write_text(json.dumps({"class_names": ["cat", "ant", "bee"]}))
    return path


def test_a_run_directory_and_its_file_give_the_same(images, run):
    names = ["cat", "ant", "bee"]
    expected = report_on(dense_student(), images, class_names=names)
    assert report_on(run, images) == expected
    assert report_on(run / "student.keras", images, class_names=names) == expected


def test_class_names_of_another_order_are_matched_by_name(images, store, run):
    """Outputs 0, 1, 2 of the student are cat, ant, bee; those of the teacher ant, bee, cat."""
    logits = logits_of(dense_student(), images)
    in_folder_order = logits[:, [1, 2, 0]]
    report = report_on(run, images, store=store)
    choices = in_folder_order.argmax(axis=1)
    assert report["accuracy"] == np.mean(choices == images.labels)
    assert report["nll"] == pytest.approx(cross_entropy(images.labels, in_folder_order).mean())
    teacher_logits = store.gather(store.images_of_keys(images.keys))
    assert report["teacher_accuracy"] == 1.0
    assert report["agreement"] == np.mean(choices == teacher_logits.argmax(axis=1))
    expected = distillation(teacher_logits, in_folder_order, 1.0).mean()
    assert report["kl_to_teacher"] == pytest.approx(expected, rel=1e-5)


def test_a_store_of_another_class_order_is_matched_by_name(images, tmp_path, teacher):
    names = ["cat", "ant", "bee"]

    def answer(pixels):
        return teacher(pixels)[:, [2, 0, 1]]

    path = tmp_path / "other.h5"
    store = teach(images, answer, path, image_size=(8, 8), class_names=names, progress=False)
    model = dense_student()
    report = report_on(model, images, store=path)
    logits = logits_of(model, images)  # without names of its own, the model has the store's
    labels = np.array([1, 2, 0])[images.labels]
    assert report["teacher_accuracy"] == 1.0
    assert report["accuracy"] == np.mean(logits.argmax(axis=1) == labels)
    assert report["agreement"] == np.mean(
        logits.argmax(axis=1) == store.gather(store.images_of_keys(images.keys)).argmax(axis=1)
    )


def test_unlabelled_images_have_agreement_and_no_accuracy(directory, store):
    images = scan(directory, labels=None)
    report = report_on(dense_student(), images, store=store)
    unknown = ("accuracy", "top5_accuracy", "nll", "ece", "num_errors", "teacher_accuracy")
    assert [report[name] for name in unknown] == [None] * 6
    assert report["num_images"] == 30 and report["agreement"] is not None


def test_some_unlabelled_images_are_left_out_of_what_needs_labels(images, store):
    model, labels = dense_student(), images.labels.copy()
    images.labels[::3] = -1
    known = images.labels >= 0
    report = report_on(model, images, store=store)
    choices = logits_of(model, images).argmax(axis=1)
    assert report["accuracy"] == np.mean((choices == labels)[known])
    assert report["num_errors"] == np.sum((choices != labels)[known])
    assert report["num_images"] == 30


def test_probabilities_of_a_subclassed_model_are_read_as_such(images, family):
    class Subclassed(family.Model):
        def __init__(self):
            super().__init__()
            self.inner = dense_student(family)

        def call(self, inputs):
            return self.inner(inputs)

    model = Subclassed()
    model(np.zeros((1, 8, 8, 3), np.float32))
    report = report_on(model, images, image_size=(8, 8))
    expected = report_on(dense_student(family), images)
    assert report["nll"] == pytest.approx(expected["nll"], rel=1e-4)
    assert report["accuracy"] == expected["accuracy"]


def test_images_are_read_as_the_teacher_saw_them(tmp_path, teacher):
    """Not square: what is cropped and what is squeezed differ."""
    for seed, name in enumerate(("ant", "bee", "cat")):
        (tmp_path / "images" / name).mkdir(parents=True)
        draw_noise(tmp_path / "images" / name / "1.png", (8, 24), seed)
    images = scan(tmp_path / "images")
    options = {"image_size": (8, 8), "crop_to_aspect_ratio": True}
    store = teach(
        images,
        lambda pixels: np.eye(3)[np.arange(len(pixels)) % 3],
        tmp_path / "s.h5",
        progress=False,
        **options,
    )
    model = dense_student()
    cropped = report_on(model, images, crop_to_aspect_ratio=True)
    assert report_on(model, images, store=store)["nll"] == cropped["nll"]
    assert report_on(model, images)["nll"] != cropped["nll"]


def test_a_model_of_other_outputs_is_refused(images, store):
    model = dense_student(num_classes=4)
    with pytest.raises(StudentError, match=r"model has 4 outputs, and there are 3 classes\.\n"):
        evaluate(model, images, progress=False)
    unlabelled = scan(images.root, labels=None)
    with pytest.raises(StudentError) as info:
        evaluate(model, unlabelled, store=store, progress=False)
    assert str(info.value) == (
        "The model's output disagrees with the store.\n"
        "  model: 4 outputs\n"
        f"  store: 3 classes ({store.path})\n"
        "Give the store the model was distilled from, or leave `--store` out."
    )


def test_an_unknown_class_is_refused(images):
    with pytest.raises(ClassNamesError, match="first of 1 unknown to the model: 'bee'"):
        evaluate(dense_student(), images, class_names=["ant", "cat", "dog"], progress=False)


def test_images_without_logits_are_refused(store, tmp_path):
    other = scan(draw_directory(tmp_path / "other", {"ant": 2, "bee": 1}, first=500))
    with pytest.raises(MissingLogitsError, match=r"3 of 3 images have no logits in the store"):
        evaluate(dense_student(), other, store=store, progress=False)


def test_a_bad_image_is_named(tmp_path):
    images = scan(draw_directory(tmp_path / "images", {"ant": 14, "bee": 2, "cat": 2}))
    (tmp_path / "images" / "bee" / "00014.png").write_bytes(b"no image")
    with pytest.raises(BadImageError, match=r"'bee/00014\.png' cannot be decoded"):
        evaluate(dense_student(), images, progress=False)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"color_mode": "grayscale"},
            "The model takes images in rgb, and --color-mode is grayscale",
        ),
        ({"color_mode": "rgba"}, "Leave --color-mode out, or give `--color-mode rgb`"),
        ({"image_size": (9, 8)}, "The model takes images of 8x8 pixels, and --image-size is 9x8"),
        ({"image_size": (16, 16)}, "Leave --image-size out, or give `--image-size 8x8`"),
    ],
)
def test_pixels_that_the_model_does_not_take_are_refused(images, family, options, message):
    model = small_model(family)
    with pytest.raises(OptionError, match=message):
        evaluate(model, images, progress=False, **options)


def test_a_model_of_any_size_needs_to_be_told_one(images):
    layers = tf_keras.layers
    model = tf_keras.Sequential(
        [tf_keras.Input((None, None, 3)), layers.GlobalAveragePooling2D(), layers.Dense(3)]
    )
    with pytest.raises(OptionError, match=r"takes images of any size; add --image-size HEIGHTx"):
        evaluate(model, images, progress=False)
    assert report_on(model, images, image_size=(4, 4))["num_images"] == 30


@pytest.mark.parametrize("batch_size", [0, -1])
def test_a_batch_size_that_cannot_be_is_refused(images, batch_size):
    with pytest.raises(
        OptionError, match=rf"batch_size is {batch_size}; it must be a positive whole number"
    ):
        evaluate(dense_student(), images, batch_size=batch_size)


def test_a_directory_without_a_student_is_refused(images, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(
        StudentError, match=r"empty is a directory without student\.keras, .*\nGive"
    ):
        evaluate(tmp_path / "empty", images)


def test_an_evaluation_writes_nothing(images, run, tmp_path):
    before = snapshot(tmp_path)
    report_on(run, images)
    assert snapshot(tmp_path) == before


def test_a_run_is_evaluated_on_pixels_made_as_in_training(tmp_path):
    root = tmp_path / "wide"
    for name in ("a", "b"):
        (root / name).mkdir(parents=True)
        for number in range(3):
            draw_noise(root / name / f"{number}.png", (9, 21), seed=number)
    images = scan(root)
    stream = join(images, None, image_size=(8, 8), batch_size=2, crop_to_aspect_ratio=True)
    distiller = Distiller(dense_student(num_classes=2), label_weight=1.0)
    distiller.fit(stream, epochs=1, run=tmp_path / "run", progress=False)
    of_run = evaluate(tmp_path / "run", images, progress=False)
    cropped = evaluate(distiller.student, images, crop_to_aspect_ratio=True, progress=False)
    stretched = evaluate(distiller.student, images, progress=False)
    assert of_run["nll"] == pytest.approx(cropped["nll"], abs=1e-6)
    assert of_run["nll"] != pytest.approx(stretched["nll"], abs=1e-4)

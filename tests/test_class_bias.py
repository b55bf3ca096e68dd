"""Biases of classes that the transfer set lacks: fitted without labels, reported, folded in."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from helpers import COUNTS, draw_directory
from run_helpers import dense_student, softmax, weights_of

import streamkd as kd
from streamkd.results.missing_classes import missing_classes

pytestmark = pytest.mark.filterwarnings("ignore:.*images are too few to fit a bias well")
NAMES = list(COUNTS)


@pytest.fixture(scope="module")
def images(shared):
    return kd.scan(shared[0])


@pytest.fixture(scope="module")
def store(shared):
    return shared[1]


@pytest.fixture(scope="module")
def transfer(images):
    """The images without any cat."""
    return images.select(np.flatnonzero(images.labels != 2))


def student_logits(model, images):
    """The logits of a `dense_student`, float64; images of one colour each."""
    kernel, bias = (np.asarray(w, np.float64) for w in model.get_weights())
    numbers = [int(key.split(b"/")[1][:5]) for key in images.keys]
    colors = np.array([[n % 256, n // 256, c] for n, c in zip(numbers, images.labels, strict=True)])
    pixels = np.broadcast_to(colors[:, None, :], (len(colors), 64, 3))
    return pixels.reshape(len(colors), -1) / 255 @ kernel + bias


def fit(model, images, **options):
    return kd.fit_class_bias(model, images, progress=False, **options)


@pytest.mark.parametrize("activation", [None, "softmax"])
def test_the_student_expects_the_missing_class_as_often_as_the_teacher(
    family, images, store, transfer, activation
):
    model = dense_student(family, activation=activation)
    before = weights_of(model)
    report = fit(model, images, transfer=transfer, store=store, batch_size=7)
    answers = store.gather(store.images_of_keys(images.keys))
    wanted = softmax(answers)[:, 2].mean()
    logits = student_logits(model, images)
    biased = logits + np.array([0, 0, report.bias["cat"]])
    assert report.classes == ["cat"] and report.method == "teacher" and report.num_images == 30
    assert report.frequencies == {"cat": pytest.approx(wanted)}
    assert report.mean_before == {"cat": pytest.approx(softmax(logits)[:, 2].mean(), rel=1e-4)}
    assert softmax(biased)[:, 2].mean() == pytest.approx(wanted, rel=1e-4)
    assert report.mean_after == {"cat": pytest.approx(wanted)}
    choices = logits.argmax(axis=1), biased.argmax(axis=1)
    assert report.chosen_before == {"cat": np.mean(choices[0] == 2)}
    assert report.chosen_after == {"cat": np.mean(choices[1] == 2)}
    assert report.num_changed == np.sum(choices[0] != choices[1])
    assert report.logit_bias == [0, 0, report.bias["cat"]]
    assert all(map(np.array_equal, weights_of(model), before))
    folded = kd.fold_class_bias(model, json.loads(json.dumps(report)))
    assert student_logits(folded, images) == pytest.approx(biased, abs=1e-5)


def test_labels_do_not_matter(images, store, transfer, shared):
    """With another order of labels, and with none, the bias is the same."""
    model = dense_student()
    unlabelled = kd.scan(shared[0], labels=None)
    reports = [
        fit(model, given, transfer=transfer, store=store, class_names=NAMES)
        for given in (images, unlabelled)
    ]
    assert reports[0] == reports[1]


def test_given_frequencies_are_reached_and_equal_ones_are_parts_of_all_classes(images, transfer):
    model = dense_student("keras")
    report = fit(model, images, transfer=transfer, frequencies={"cat": 0.25})
    biased = student_logits(model, images) + report.logit_bias
    assert softmax(biased)[:, 2].mean() == pytest.approx(0.25, rel=1e-4)
    assert report.method == "given" and report.frequencies == {"cat": 0.25}
    everything = {"ant": 0.4, "bee": 0.35, "cat": 0.25}
    assert fit(model, images, transfer=transfer, frequencies=everything) == report
    equal = fit(model, images, classes=["bee", "cat"], frequencies="equal")
    assert equal.frequencies == {"bee": 1 / 3, "cat": 1 / 3} and equal.method == "equal"
    biased = student_logits(model, images) + equal.logit_bias
    assert softmax(biased).mean(axis=0) == pytest.approx([1 / 3] * 3, rel=1e-4)


def test_the_teachers_answers_tell_what_an_unlabelled_transfer_set_lacks(shared, store, transfer):
    unlabelled = kd.scan(shared[0], labels=None)
    keys = set(transfer.keys)
    kept = unlabelled.select(np.array([i for i, key in enumerate(unlabelled.keys) if key in keys]))
    assert missing_classes(NAMES, transfer=kept, store=store).tolist() == [2]
    with pytest.raises(
        kd.StreamkdError, match=r"lacks no class, by the teacher's answers in .*s.h5"
    ):
        missing_classes(NAMES, transfer=unlabelled, store=store)


def test_a_run_directory_knows_its_classes_and_how_images_are_read(tmp_path, images, transfer):
    run = tmp_path / "run"
    run.mkdir()
    dense_student("keras").save(run / "student.keras")
    options = {"image_size": [8, 8], "color_mode": "rgb", "interpolation": "nearest"}
    config = {"class_names": ["cat", "ant", "bee"], "image_options": options}
    (run / "config.json").write_text(json.dumps(config))
    report = fit(run, images, transfer=transfer, frequencies="equal")
    assert report.classes == ["cat"] and report.logit_bias[1:] == [0, 0]
    folded = kd.fold_class_bias(run, report)
    assert student_logits(folded, images)[:, 0].mean() == pytest.approx(
        student_logits(dense_student("keras"), images)[:, 0].mean() + report.bias["cat"], abs=1e-5
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "Nothing says which classes the transfer set lacks.\nGive the labelled images"),
        ({"classes": ["cat"]}, "Nothing says how often the missing classes occur among the images"),
        ({"classes": ["cow"]}, "The model has no class 'cow'.\n  the model: 'ant', 'bee', 'cat'"),
        ({"classes": NAMES}, "The transfer set lacks every class of the model, by classes="),
        (
            {"classes": ["cat"], "frequencies": {"ant": 0.2}},
            "the missing class 'cat' is not named\nGive a number for each missing class: 'cat'",
        ),
        (
            {"classes": ["cat"], "frequencies": {"cat": 0.2, "cow": 0.1}},
            "the model has no class 'cow'\nGive a number",
        ),
        (
            {"classes": ["cat"], "frequencies": {"cat": 1.5}},
            "with the sum 1.5.\nGive parts of all images, above 0",
        ),
        (
            {"classes": ["cat"], "frequencies": {"cat": 0.5, "ant": 0.2, "bee": 0.2}},
            "with the sum 0.9.\nGive parts of all images",
        ),
        ({"classes": ["cat"], "frequencies": {"cat": -0.5}}, "with the sum -0.5.\nGive parts"),
        ({"classes": ["cat"], "frequencies": {"cat": 10**400}}, "with the sum nan.\nGive parts"),
        ({"classes": ["cat"], "frequencies": {"cat": [0.5]}}, "with the sum nan.\nGive parts"),
        (
            {"classes": ["cat"], "frequencies": "known"},
            "frequencies is 'known'; choose one of equal",
        ),
        (
            {"classes": ["cat"], "frequencies": {"cat": 0.1}},
            "30 images are too few to fit a bias: 0.1 of them are of the missing class 'cat'.\n"
            "Give at least 50 images of all classes, without labels",
        ),
        (
            {"classes": ["cat"], "frequencies": "equal", "class_names": ["ant", "cat"]},
            "has 3 outputs, and nothing names as many classes.\n  class_names: 'ant', 'cat'",
        ),
    ],
)
def test_what_cannot_be_fitted_is_refused(images, options, message):
    with pytest.raises(kd.StreamkdError) as caught:
        fit(dense_student(), images, **options)
    assert message in str(caught.value)


def test_images_that_lack_the_class_too_are_refused(images, transfer, tmp_path):
    model = dense_student()
    with pytest.raises(kd.StreamkdError, match="The transfer set lacks no class, by the labels of"):
        fit(model, images, transfer=images, frequencies="equal")
    with pytest.raises(kd.StreamkdError, match=r"The images are those of the transfer set .*'cat'"):
        fit(model, transfer, transfer=transfer, frequencies="equal")
    others = kd.scan(draw_directory(tmp_path / "others", {"ant": 20, "bee": 20}, first=100))
    with pytest.raises(kd.StreamkdError, match="lack the class 'cat', as the transfer set does"):
        fit(model, others, transfer=transfer, frequencies="equal")
    (tmp_path / "empty").mkdir()
    with pytest.raises(kd.StreamkdError, match="no images"):
        fit(model, tmp_path / "empty", transfer=transfer, frequencies="equal")


def test_few_images_and_given_frequencies_are_warned_of(images):
    with pytest.warns(kd.StreamkdWarning, match="30 images are too few .* by given freq") as caught:
        fit(dense_student(), images, classes=["cat"], frequencies="equal")
    assert caught[0].message.code == "few_images_for_bias"
    assert "Give 600 or more images; or the teacher's logits" in str(caught[0].message)


def test_a_file_that_changed_since_the_teacher_answered_is_refused(shared, store, tmp_path):
    root = shutil.copytree(shared[0], tmp_path / "images")
    ant, cat = sorted(root.glob("*/*.png"))[0], sorted(root.glob("*/*.png"))[-1]
    shutil.copyfile(cat, ant)
    with pytest.raises(kd.StreamkdError, match=r"ant/00000.png") as caught:
        fit(dense_student(), kd.scan(root), classes=["cat"], store=store)
    assert caught.value.code == "changed_image"


@pytest.mark.parametrize("activation", ["sigmoid", "relu"])
def test_a_model_that_is_not_of_one_softmax_is_refused(family, images, activation):
    words = {
        "sigmoid": "has 3 independent outputs, and a bias of classes is for one softmax",
        "relu": "do not show where a bias is added to each logit.\nEnd the model in a Dense layer",
    }
    with pytest.raises(kd.StreamkdError, match=words[activation]):
        fit(dense_student(family, activation=activation), images, classes=["cat"])


def test_a_store_that_does_not_know_a_class_is_refused(images, store):
    names = ["ant", "bee", "cow"]
    with pytest.raises(kd.StreamkdError, match=r"s.h5 does not know the model's class 'cow'"):
        fit(dense_student(), images, classes=["cow"], store=store, class_names=names)


@pytest.mark.parametrize(
    "bias",
    [{"cat": 1.0}, "cat", [[0.0, 1.0, 2.0]], [0.0, np.nan, 1.0], [0, 0, 10**400], None],
)
def test_what_is_no_bias_is_refused(bias):
    with pytest.raises(kd.StreamkdError, match="it must be the report of `fit_class_bias`, or one"):
        kd.fold_class_bias(dense_student(), bias)

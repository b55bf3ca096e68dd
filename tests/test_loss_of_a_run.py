"""Runs with the losses of the literature, or with one's own: the loss, the record, the refusals."""

from __future__ import annotations

import functools
import json

import numpy as np
import pytest
from loss_helpers import dkd
from run_helpers import (
    command,
    cross_entropy,
    dense_student,
    distillation,
    fit,
    refusal,
    same_weights,
)

from streamkd.codes import StreamkdWarning
from streamkd.errors import OptionError, ResumeError
from streamkd.losses.logit_losses import dkd_loss
from streamkd.manifest.manifest import scan
from streamkd.stream.join import join


@pytest.fixture(scope="module")
def stream(shared):
    return join(scan(shared[0]), shared[1], batch_size=10, seed=3)


def loss_of_first_epoch(stream, student, compare, label_weight):
    """In float64, of a student whose weights never move."""
    kernel, bias = student.get_weights()
    batches = list(stream.dataset(0, stream.end_of_epoch(1)))
    losses = []
    for pixels, targets, _ in batches:
        logits = pixels.numpy().reshape(len(pixels), -1).astype(np.float64) / 255 @ kernel + bias
        labels = targets["labels"].numpy()[:, 0]
        teacher = targets["teacher_logits"].numpy().astype(np.float64)
        on_teacher = compare(teacher, logits, labels)
        losses.append(
            label_weight * cross_entropy(labels, logits) + (1 - label_weight) * on_teacher
        )
    return np.concatenate(losses).mean()


@pytest.mark.parametrize(
    ("settings", "compare", "label_weight"),
    [
        ({"loss": "dkd"}, dkd, 0.5),
        (
            {"loss": functools.partial(dkd_loss, temperature=2.0, other_weight=3.0)},
            functools.partial(dkd, temperature=2.0, beta=3.0),
            0.1,
        ),
    ],
    ids=["dkd", "own"],
)
def test_the_loss_of_a_run_is_that_of_numpy(stream, settings, compare, label_weight):
    student = dense_student()
    expected = loss_of_first_epoch(stream, student, compare, label_weight)
    _, history = fit(stream, student, learning_rate=1e-12, **settings)
    assert history.last["loss"] == pytest.approx(expected, rel=1e-4)


def test_a_run_goes_on_with_the_loss_that_it_has(stream, tmp_path):
    fit(stream, run=tmp_path / "run", loss="nkd", standardize=True)
    recorded = json.loads((tmp_path / "run/config.json").read_text())
    assert (recorded["loss"], recorded["standardize"]) == ("nkd", True)
    with pytest.raises(ResumeError, match="loss"):
        fit(stream, run=tmp_path / "run", loss="kd", temperature=1, label_weight=0.5)
    _, history = fit(stream, run=tmp_path / "run", loss="nkd", standardize=True)
    assert len(history.epochs) == 1


def test_a_loss_that_needs_labels_is_refused_without_any(images, store):
    images.labels[:] = -1
    with pytest.raises(OptionError) as info:
        fit(join(images, store, batch_size=10), loss="dkd", label_weight=0)
    assert str(info.value) == (
        "The loss dkd compares the class of each image's label with the others, and none of the "
        "images has a label.\nGive images in one folder a class, or another loss: `--loss kd`."
    )


def test_a_loss_that_needs_labels_warns_of_images_without_one(images, store):
    images.labels[:3] = -1
    with pytest.warns(StreamkdWarning, match=r"3 of 30 images have no label, and the loss nkd"):
        fit(join(images, store, batch_size=10), loss="nkd")


def test_a_loss_between_classes_is_refused_for_independent_labels(stream):
    student = dense_student(activation="sigmoid")
    with pytest.raises(OptionError, match=r"softmax: `--loss` is dist"):
        fit(stream, student, loss="dist")


def test_the_command_line_takes_a_loss(directory, store, tmp_path, capsys):
    words = ["train", directory, "--store", store.path, "--epochs", 1, "--batch-size", 10]
    words += ["--optimizer", "sgd", "--jit", "off"]
    dense_student().save(tmp_path / "student.keras")
    words += ["--student", tmp_path / "student.keras"]
    said = refusal(capsys, *words, "--out", tmp_path / "a", "--loss", "mse", "--temperature", 3)
    assert "temperature is 3.0, and the loss mse has none to set." in said
    code, answer, _ = command(
        capsys, *words, "--out", tmp_path / "b", "--loss", "ttm", "--standardize"
    )
    assert code == 0 and answer["loss"] > 0
    config = json.loads((tmp_path / "b/config.json").read_text())
    assert (config["loss"], config["temperature"], config["standardize"]) == ("ttm", 10.0, True)


def test_a_label_weight_over_the_run_is_that_of_numpy(stream):
    """Three batches an epoch, two epochs: the weight of step n is that of n / 6 of the run."""
    student = dense_student()
    num_steps = stream.end_of_epoch(2)
    kernel, bias = student.get_weights()
    losses = []
    for step, (pixels, targets, _) in enumerate(stream.dataset(0, num_steps)):
        logits = pixels.numpy().reshape(len(pixels), -1).astype(np.float64) / 255 @ kernel + bias
        weight = np.interp(step / num_steps, [0.25, 0.75], [0.1, 1])
        temperature = 4.0 if step / num_steps < 0.5 else 2.0
        on_labels = cross_entropy(targets["labels"].numpy()[:, 0], logits)
        on_teacher = distillation(targets["teacher_logits"], logits, temperature)
        losses.append(np.mean(weight * on_labels + (1 - weight) * on_teacher))
    settings = {
        "label_weight": [(0.25, 0.1), (0.75, 1)],
        "temperature": [(0, 4), (0.5, 4), (0.5, 2)],
    }
    _, history = fit(stream, student, epochs=2, learning_rate=1e-12, **settings)
    expected = [np.mean(losses[:3]), np.mean(losses[3:])]
    assert [epoch["loss"] for epoch in history.epochs] == pytest.approx(expected, rel=1e-4)


def test_a_run_with_a_label_weight_over_the_run_resumes_to_the_same_weights(stream, tmp_path):
    settings = {"epochs": 2, "label_weight": {0: 0, 1: 1}, "save_every": 1}
    whole, _ = fit(stream, **settings)
    calls = iter([False, False, True])
    fit(stream, run=tmp_path / "run", stop=lambda: next(calls), steps_per_call=1, **settings)
    resumed, _ = fit(stream, run=tmp_path / "run", **settings)
    assert same_weights(whole.student, resumed.student)


def test_the_command_line_takes_values_over_the_run(directory, store, tmp_path, capsys):
    dense_student().save(tmp_path / "student.keras")
    words = ["train", directory, "--store", store.path, "--student", tmp_path / "student.keras"]
    words += ["--epochs", 1, "--batch-size", 10, "--out", tmp_path / "run"]
    words += ["--optimizer", "sgd", "--jit", "off"]
    said = refusal(capsys, *words, "--label-weight", "0:0.1,x")
    assert "'0:0.1,x'; give a number, or values at fractions of the run such as" in said
    code, _, _ = command(capsys, *words, "--label-weight", "0:0.1,0.5:0.1,1:1")
    assert code == 0
    config = json.loads((tmp_path / "run/config.json").read_text())
    assert config["label_weight"] == [[0.0, 0.1], [0.5, 0.1], [1.0, 1.0]]

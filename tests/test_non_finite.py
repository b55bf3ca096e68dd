"""Steps that are not finite: named, or left out, and the weights are as they were."""

from __future__ import annotations

import json

import numpy as np
import pytest
import tensorflow as tf
import tf_keras
from helpers import encoded_logits, pixel_numbers
from run_helpers import (
    SAME_LINES_FOR_BOTH,
    dense_student,
    fit,
    in_pairs,
    make_steps,
    weights_of,
)

from streamkd.errors import DamagedStoreError, NonFiniteError
from streamkd.manifest.manifest import scan
from streamkd.store import checksums, writer
from streamkd.stream.join import join
from streamkd.teachers import teacher_pass
from streamkd.teachers.teach import teach

BATCH_SIZE = 6  # of 30 images: five steps an epoch, none of which straddles two
BAD_IMAGE = b"bee/00014.png"
BAD_NUMBER = 14


def spoilt_teacher(value):
    """A teacher with one bad answer, for the image of that number."""

    def answer(images):
        numbers = pixel_numbers(images)
        logits = encoded_logits(numbers[:, 0], numbers[:, 1], 3)
        logits[numbers[:, 0] == BAD_NUMBER, 1] = value
        return logits

    return answer


@pytest.fixture(scope="module")
def with_nan(shared, tmp_path_factory):
    """A stream whose store holds a row of NaN."""
    images, path = scan(shared[0]), tmp_path_factory.mktemp("nan") / "nan.h5"
    with pytest.MonkeyPatch.context() as patch:
        for module in (teacher_pass, writer):
            patch.setattr(module, "check_range", lambda *_: None)
        patch.setattr(checksums, "impossible_rows", lambda *_: {})  # of what the pass looks at
        options = {"image_size": (8, 8), "codec": "float32", "progress": False}
        store = teach(images, spoilt_teacher(np.nan), path, **options)
    return join(images, store, batch_size=BATCH_SIZE, seed=3)


@pytest.fixture
def spoilt(with_nan, monkeypatch):
    """A stream whose store holds a row of NaN, which no check of rows refuses."""
    monkeypatch.setattr(checksums, "impossible_rows", lambda *_: {})
    return with_nan


def step_of(stream, key):
    """The first step with an image."""
    index = list(stream.images.keys).index(key)
    return next(step for step in range(5) if index in stream.indices(step))


@pytest.mark.parametrize("value", [70_000.0, np.nan, np.inf])
def test_no_such_row_gets_into_a_store(images, tmp_path, value):
    with pytest.raises(NonFiniteError, match=r"logits of 'bee/00014\.png', view 0, hold") as info:
        teach(images, spoilt_teacher(value), tmp_path / "s.h5", image_size=(8, 8), progress=False)
    assert info.value.key == BAD_IMAGE
    assert ("Give `--codec float32`" in str(info.value)) == (value == 70_000)


def test_no_such_row_comes_out_of_a_store(with_nan, images):
    words = "no teacher gave it: its logits are not finite"
    with pytest.raises(DamagedStoreError, match=words) as info:
        list(join(images, with_nan.store.path, batch_size=BATCH_SIZE, seed=3).batches(0, 5))
    assert info.value.key == BAD_IMAGE


@SAME_LINES_FOR_BOTH
def test_an_image_whose_loss_is_not_finite_is_named(spoilt, tmp_path, family):
    student = dense_student(family)
    step = step_of(spoilt, BAD_IMAGE)
    with pytest.raises(NonFiniteError) as info:
        fit(spoilt, student, tmp_path / "run", epochs=2)
    assert str(info.value) == (
        f"The loss or the gradient of step {step} is not a finite number.\n"
        "  images whose loss is not finite: 'bee/00014.png'\n"
        "Look at these images and their logits, or leave such steps out: "
        "`--on-nonfinite skip`. Earlier checkpoints are kept."
    )
    assert info.value.key == BAD_IMAGE
    assert all(np.isfinite(weight).all() for weight in weights_of(student))
    assert not (tmp_path / "run").exists()


def test_weights_are_those_of_before_the_step(spoilt, family):
    """Steps before the bad one count, and it leaves weights and statistics alone."""
    layers = family.layers
    step = step_of(spoilt, BAD_IMAGE)
    students = []
    for stop_at in (None, step):
        family.utils.set_random_seed(1)
        parts = [layers.Flatten(), layers.BatchNormalization(), layers.Dense(3)]
        student = family.Sequential([family.Input((8, 8, 3)), *parts])
        steps = make_steps(student, family.optimizers.Adam(0.01))
        state = steps.state
        done, finite, _ = steps.run(
            iter(spoilt.dataset(0, 5)), tf.constant(5 if stop_at is None else stop_at)
        )
        assert (int(done), bool(finite)) == (step, stop_at is not None)
        assert state.num_steps == step and np.isfinite(state.sums).all()
        students.append([*weights_of(student), *(np.array(v) for v in state.changed_by_a_step())])
    for one, other in zip(*students, strict=True):
        np.testing.assert_array_equal(one, other)


@SAME_LINES_FOR_BOTH
def test_skip_leaves_the_step_out_and_says_so(spoilt, tmp_path, family):
    step, run = step_of(spoilt, BAD_IMAGE), tmp_path / "run"
    options = {"on_nonfinite": "skip", "learning_rate": 0.01, "epochs": 2}
    _, history = fit(spoilt, dense_student(family), run, **options)
    assert history.step == 10 and np.isfinite(history.last["loss"])
    lines = [json.loads(line) for line in (run / "nonfinite.jsonl").read_text().splitlines()]
    assert lines[0] == {"step": step, "whole_batch": False, "images": [{"key": BAD_IMAGE.decode()}]}
    assert len(lines) == 2, "once an epoch"
    assert json.loads((run / "config.json").read_text())["on_nonfinite"] == "skip"


def test_an_eleventh_step_in_a_row_is_not_skipped(spoilt):
    """Weights that are spoilt make every loss so."""
    stream = join(spoilt.images, spoilt.store, batch_size=2)
    student = dense_student()
    student.layers[-1].kernel.assign(tf.fill([192, 3], np.nan))
    with pytest.raises(NonFiniteError, match=r"step 10 is not") as info:
        fit(stream, student, on_nonfinite="skip")
    assert "It is the 11th step in a row.\nLower the learning rate" in str(info.value)


def scaled(layers):
    """The layers of a student before its weights."""
    return [layers.Rescaling(1 / 255), layers.Flatten()]


@in_pairs("jit", ("tf_keras", "off"), ("keras", "on"))
def test_a_gradient_that_is_not_finite_is_found_where_the_loss_is(images, shared, jit, family):
    """As of the square root at zero, where the loss does not see it."""
    layers = family.layers

    @tf.custom_gradient
    def without_slope(values):
        return tf.identity(values), lambda slopes: slopes * np.nan

    class Root(layers.Layer):
        def call(self, inputs):
            return without_slope(inputs)

    student = family.Sequential([family.Input((8, 8, 3)), *scaled(layers), layers.Dense(3), Root()])
    before = weights_of(student)
    stream = join(images, shared[1], batch_size=BATCH_SIZE, seed=3)
    with pytest.raises(NonFiniteError, match=r"step 0 is not a finite .*\n  the images of its b"):
        fit(stream, student, optimizer="adamw", jit=jit)
    for one, other in zip(before, weights_of(student), strict=True):
        np.testing.assert_array_equal(one, other)


@SAME_LINES_FOR_BOTH
def test_a_loss_that_is_not_finite_is_found_where_the_gradient_is(images, shared, family):
    """As of a penalty that depends on no weight."""
    layers = family.layers

    class Penalty(layers.Layer):
        def call(self, inputs):
            self.add_loss(tf.constant(np.nan))
            return inputs

    student = family.Sequential(
        [family.Input((8, 8, 3)), Penalty(), *scaled(layers), layers.Dense(3)]
    )
    before = weights_of(student)
    stream = join(images, shared[1], batch_size=BATCH_SIZE, seed=3)
    with pytest.raises(NonFiniteError, match="The loss or the gradient of step 0 is not a finite"):
        fit(stream, student)
    for one, other in zip(before, weights_of(student), strict=True):
        np.testing.assert_array_equal(one, other)


def test_terminate_on_nan_ends_the_run_without_an_error(spoilt):
    student = dense_student()
    callbacks = [tf_keras.callbacks.TerminateOnNaN()]
    _, history = fit(spoilt, student, epochs=2, callbacks=callbacks)
    assert len(history.epochs) == 1 and history.step == step_of(spoilt, BAD_IMAGE)
    assert all(np.isfinite(weight).all() for weight in weights_of(student))

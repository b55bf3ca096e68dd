"""A run has one label weight; another weight is another part, which goes on from the weights."""

from __future__ import annotations

import pytest
import tf_keras
from run_helpers import dense_student, fit, same_weights
from stream_helpers import joined

import streamkd as kd
from streamkd.errors import OptionError
from streamkd.manifest.manifest import scan


@pytest.fixture(scope="module")
def stream(shared):
    return joined(scan(shared[0]), shared[1])


def test_a_callback_that_changes_the_recipe_is_refused_and_not_ignored(stream):
    distiller = kd.Distiller(dense_student(), label_weight=0.1, jit="off", optimizer="sgd")

    class Rising(tf_keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            distiller.recipe.label_weight = 1.0

    with pytest.raises(OptionError) as info:
        distiller.fit(stream, epochs=2, callbacks=[Rising()], progress=False)
    assert str(info.value) == (
        "label_weight is set to 1.0, and a recipe is not changed: its run has it in compiled "
        "steps.\nTrain in parts instead, each with its own value: `kd.Distiller(student, "
        "label_weight=…).fit(stream, epochs=…)` goes on from the student's weights."
    )


def test_a_recipe_cannot_be_exchanged(stream):
    distiller = kd.Distiller(dense_student())
    with pytest.raises(OptionError, match=r"^The recipe of a Distiller cannot be exchanged\.\n"):
        distiller.recipe = kd.Distiller(dense_student(), label_weight=1.0).recipe
    assert distiller.recipe.label_weight == 0.1


def test_parts_with_their_own_weights_go_on_from_the_students(stream):
    student, steps = dense_student(), []
    for label_weight in (0.0, 0.5):
        first, _ = fit(stream, student, label_weight=label_weight, schedule="constant")
        steps.append([weight.copy() for weight in student.get_weights()])
    assert first.student is student and not (steps[0][0] == steps[1][0]).all()
    # The second part is the run of a student that begins where the first part ended.
    other = dense_student()
    other.set_weights(steps[0])
    fit(stream, other, label_weight=0.5, schedule="constant")
    assert same_weights(other, student)

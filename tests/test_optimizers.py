"""The optimizer of a run: a name with a cosine, or the user's own."""

from __future__ import annotations

import importlib
import math

import pytest
import tensorflow as tf
import tf_keras

from streamkd.errors import OptionError
from streamkd.models.families import FAMILIES
from streamkd.training import optimizers
from streamkd.training.optimizers import learning_rate_of
from streamkd.training.recipe import Recipe


def build_optimizer(optimizer, family, *, learning_rate=0.1, num_steps=100, **options):
    """An optimizer of one variable."""
    by_name = {"learning_rate": learning_rate} if isinstance(optimizer, str) else {}
    recipe = Recipe(optimizer=optimizer, **by_name)
    variables = [family.Variable(1.0)] if hasattr(family, "Variable") else [tf.Variable(1.0)]
    return optimizers.build_optimizer(
        recipe, FAMILIES[family.__name__], num_steps=num_steps, variables=variables, **options
    )


def schedule_of(optimizer):
    return optimizer._learning_rate


def test_a_name_rises_over_a_twentieth_and_falls_along_a_cosine_to_zero(family):
    optimizer = build_optimizer("sgd", family, learning_rate=0.4, num_steps=200)
    schedule = schedule_of(optimizer)
    assert float(schedule(0)) == 0
    assert float(schedule(5)) == pytest.approx(0.2)
    assert float(schedule(10)) == pytest.approx(0.4)
    for step in (50, 105, 190):
        cosine = 0.2 * (1 + math.cos(math.pi * (step - 10) / 190))
        assert float(schedule(step)) == pytest.approx(cosine, rel=1e-4)
    assert float(schedule(200)) == pytest.approx(0, abs=1e-7)


@pytest.mark.parametrize("num_steps", [1, 2, 3])
def test_a_run_of_a_few_steps_learns_something(family, num_steps):
    schedule = schedule_of(build_optimizer("sgd", family, learning_rate=0.4, num_steps=num_steps))
    assert max(float(schedule(step)) for step in range(num_steps)) == pytest.approx(0.4)


@pytest.mark.parametrize("name", ["adamw", "adam", "sgd", "rmsprop"])
def test_a_name_keeps_the_other_settings_of_keras(family, name):
    built = build_optimizer(name, family, learning_rate=0.1, num_steps=100).get_config()
    default = family.optimizers.get(name).get_config()
    for changed in ("name", "learning_rate"):
        built.pop(changed), default.pop(changed)
    assert built == default


def test_the_users_own_optimizer_is_used_as_it_is(family):
    own = family.optimizers.SGD(0.3, momentum=0.9)
    assert build_optimizer(own, family, learning_rate=9.0, num_steps=100) is own
    assert learning_rate_of(own) == pytest.approx(0.3)


def test_the_learning_rate_is_that_of_the_next_step(family):
    optimizer = build_optimizer("sgd", family, learning_rate=0.4, num_steps=200)
    optimizer.iterations.assign(10)
    assert learning_rate_of(optimizer) == pytest.approx(0.4)


@pytest.mark.parametrize(("own", "other"), [("tf_keras", "keras"), ("keras", "tf_keras")])
def test_an_optimizer_of_the_other_family_is_refused(own, other):
    optimizer = importlib.import_module(other).optimizers.SGD(0.1)
    with pytest.raises(
        OptionError, match=rf"SGD belongs to {other}, and the student to {own}\.\n.*of {own}"
    ):
        build_optimizer(optimizer, importlib.import_module(own), learning_rate=1, num_steps=1)


def test_an_object_that_is_no_optimizer_is_refused(family):
    with pytest.raises(OptionError, match="belongs to no Keras family"):
        build_optimizer(object(), family, learning_rate=1, num_steps=1)


def test_a_class_in_place_of_an_optimizer_is_refused(family):
    words = r"The optimizer is the class SGD, and no optimizer\.\nGive an object, such as `SGD\("
    with pytest.raises(OptionError, match=words):
        build_optimizer(family.optimizers.SGD, family, learning_rate=1, num_steps=1)


def test_an_unknown_name_is_refused(family):
    with pytest.raises(OptionError, match=r"no optimizer 'adamm' in .*keras\.\n.*adamw, adam, sgd"):
        build_optimizer("adamm", family, learning_rate=1, num_steps=1)


def test_a_legacy_optimizer_is_refused(family):
    legacy = tf_keras.optimizers.legacy.SGD(0.1)
    with pytest.raises(
        OptionError, match=rf"SGD is one of tf_keras' legacy .*\.\nGive {family.__name__}\.optimi"
    ):
        build_optimizer(legacy, family)

"""Settings that cannot be, and settings that exclude each other."""

from __future__ import annotations

import pytest
import tf_keras

from streamkd.cli import train_flags
from streamkd.errors import OptionError
from streamkd.training.recipe import LOSSES, Recipe

NOT_BELOW_ONE = r"; it must be at least 0 and below 1\."


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"ema": 1}, "ema is 1" + NOT_BELOW_ONE),
        ({"ema": -0.1}, r"ema is -0\.1" + NOT_BELOW_ONE),
        ({"ema": float("nan")}, "ema is nan" + NOT_BELOW_ONE),
        ({"label_smoothing": 1.0}, r"label_smoothing is 1\.0" + NOT_BELOW_ONE),
        ({"weight_decay": -0.1}, r"weight_decay is -0\.1; it must be zero or a positive number\."),
        ({"weight_decay": float("inf")}, "weight_decay is inf; it must be zero or a positive"),
        ({"clip_norm": 0}, r"clip_norm is 0; it must be a positive number\."),
        ({"clip_norm": -1.0}, r"clip_norm is -1\.0; it must be a positive number\."),
        ({"accumulate": 0}, r"accumulate is 0; it must be a positive whole number\."),
        ({"accumulate": 1.5}, r"accumulate is 1\.5; it must be a positive whole number\."),
        ({"warm_up": 2}, r"warm_up is 2; it must lie between 0 and 1\."),
        ({"schedule": "linear"}, r"schedule is 'linear'; choose one of cosine, constant\."),
        ({"jit": "maybe"}, r"jit is 'maybe'; choose one of auto, on, off\."),
        ({"on_nonfinite": "ignore"}, r"on_nonfinite is 'ignore'; choose one of raise, skip\."),
    ],
    ids=lambda value: str(value).split(" at 0x")[0],
)
def test_a_setting_that_cannot_be_is_refused(options, words):
    with pytest.raises(OptionError, match=words):
        Recipe(**options)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *[("schedule", "cosine"), ("weight_decay", 0.1), ("clip_norm", 1.0), ("ema", 0.9)],
        *[("learning_rate", 0.5), ("learning_rate", 1e-3), ("warm_up", 0.0), ("warm_up", 0.5)],
    ],
)
def test_a_setting_of_an_optimizer_by_name_is_refused_with_ones_own_optimizer(name, value):
    optimizer = tf_keras.optimizers.SGD(0.1)
    with pytest.raises(OptionError) as info:
        Recipe(optimizer=optimizer, **{name: value})
    assert str(info.value) == (
        f"{name} is {value!r}, and the optimizer is your own SGD, which is used as it is.\n"
        f"Give the optimizer by name, or leave {name} out and set it in the optimizer."
    )
    assert Recipe(**{name: value}) and Recipe(optimizer=optimizer)


def test_an_optimizer_by_name_has_the_defaults_that_its_run_records():
    recipe = Recipe()
    assert (recipe.learning_rate, recipe.warm_up) == (1e-3, 0.05)
    assert recipe.described()["learning_rate"] == 1e-3 and "warm_up" not in recipe.described()
    assert Recipe(warm_up=0.0).described()["warm_up"] == 0.0
    own = Recipe(optimizer=tf_keras.optimizers.SGD(0.1))
    assert own.learning_rate is None and own.warm_up is None


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("label_weight", [0.0, 0.5], "label_weight is a list, and it must be one number, or pairs"),
        ("label_weight", lambda step: 0.5, "label_weight is a function, and it must be"),
        ("temperature", tf_keras.optimizers.schedules.CosineDecay(1.0, 9), "temperature is a func"),
        ("temperature", (4.0, 1.0), "temperature is a tuple, and it must be one number, or pairs"),
        ("label_weight", [], "label_weight is a list, and it must be"),
        (
            "label_weight",
            [(0, 0.1), (1, 1.2)],
            r"label_weight is 1\.2; it must lie between 0 and 1",
        ),
        ("temperature", {0: 4, 1: 0}, r"temperature is 0; it must be a positive number\."),
        ("temperature", [("0", 4)], r"temperature has the fraction '0' of a run; it must be"),
        (
            "label_weight",
            [(0.5, 0.1), (0, 1)],
            r"fractions 0\.5, 0 of a run; they must rise from 0",
        ),
        ("label_weight", [(0, 0.1), (2, 1)], "fractions 0, 2 of a run; they must rise from 0 to 1"),
    ],
    ids=lambda value: str(value).split(" at 0x")[0].split(" object")[0],
)
def test_values_over_a_run_that_cannot_be_are_refused(name, value, words):
    with pytest.raises(OptionError, match=words):
        Recipe(**{name: value})


def test_values_over_a_run_are_recorded_as_pairs():
    recipe = Recipe(label_weight={0: 0.1, 0.5: 1}, temperature=[(0, 4), (1, 1)])
    assert recipe.described()["label_weight"] == [[0.0, 0.1], [0.5, 1.0]]
    assert recipe.described()["temperature"] == [[0.0, 4.0], [1.0, 1.0]]


def test_a_schedule_of_the_learning_rate_belongs_to_an_optimizer():
    with pytest.raises(OptionError, match="Give an optimizer that has the schedule"):
        Recipe(learning_rate=tf_keras.optimizers.schedules.CosineDecay(1.0, 10))


def test_a_recipe_cannot_be_changed():
    recipe = Recipe(label_weight=0.1)
    with pytest.raises(OptionError) as info:
        recipe.label_weight = 1.0
    assert str(info.value).startswith(
        "label_weight is set to 1.0, and a recipe is not changed: its run has it in compiled steps."
        "\nTrain in parts instead"
    )
    assert recipe.label_weight == 0.1


@pytest.mark.parametrize(
    ("loss", "temperature", "label_weight"),
    [
        *[("auto", 4.0, 0.1), ("kd", 4.0, 0.1), ("kl", 4.0, 0.1), ("bce", 4.0, 0.1)],
        *[("dkd", 4.0, 0.5), ("nkd", 1.0, 0.5), ("ttm", 10.0, 1 / 46), ("wttm", 5.0, 0.2)],
        *[("dist", 1.0, 0.5), ("hard", 4.0, 0.5), ("mse", 4.0, 0.1), ("mlkd", 4.0, 0.1)],
    ],
)
def test_a_loss_has_the_settings_of_its_paper_where_none_are_given(loss, temperature, label_weight):
    recipe = Recipe(loss=loss)
    assert (recipe.temperature, recipe.label_weight) == (temperature, label_weight)
    assert Recipe(loss=loss, label_weight=0.3).label_weight == 0.3
    recorded = {"loss": loss} if loss not in ("auto", "kd", "kl", "bce") else {}
    assert {n: v for n, v in recipe.described().items() if n == "loss"} == recorded
    assert Recipe(loss=loss, standardize=True).described()["standardize"] is True


@pytest.mark.parametrize("loss", ["mse", "hard", "mlkd", lambda t, s, labels: t])
def test_a_temperature_is_refused_for_a_loss_that_has_none(loss):
    with pytest.raises(OptionError, match=r"temperature is 2, and the loss .* has none to set\."):
        Recipe(loss=loss, temperature=2)


def test_a_loss_of_ones_own_is_recorded_by_its_name():
    assert Recipe(loss=_own_loss).described()["loss"].endswith(":_own_loss")


def _own_loss(teacher_logits, student_logits, labels):
    return student_logits[:, 0]


def test_a_loss_that_nobody_knows_is_refused_with_those_that_there_are():
    with pytest.raises(OptionError, match=r"loss is 'kld'; choose one of auto, bce, kd, kl, mse,"):
        Recipe(loss="kld")


def test_the_command_line_has_all_losses():
    assert set(train_flags.LOSSES) == set(LOSSES)

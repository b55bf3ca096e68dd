"""The budget of a job, and the settings that are chosen from what is known: pure functions."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from streamkd.errors import OptionError
from streamkd.whole_job.budget import Budget, as_time, parse_budget
from streamkd.whole_job.recipe_choice import (
    Facts,
    choose_recipe,
    validation_split,
    values_of,
)

FACTS = Facts(
    num_images=2_000,
    num_outputs=10,
    is_labelled=True,
    image_size=(224, 224),
    num_channels=3,
    file_size=400,
    teacher_confidence=0.7,
    teacher_accuracy=0.95,
    mirror_agreement=0.98,
    is_trained=False,
)


def chosen(given=None, **changes):
    return choose_recipe(dataclasses.replace(FACTS, **changes), given or {})


@pytest.mark.parametrize(
    ("text", "seconds", "epochs"),
    [
        ("10m", 600, None),
        ("1h", 3600, None),
        ("1.5 h", 5400, None),
        ("90s", 90, None),
        ("2d", 172_800, None),
        ("30 epochs", None, 30),
        ("1 Epoch", None, 1),
    ],
)
def test_a_budget_is_a_time_or_a_number_of_epochs(text, seconds, epochs):
    assert parse_budget(text) == Budget(text, seconds=seconds, epochs=epochs)


@pytest.mark.parametrize(
    "text", ["30", "", "0m", "0 epochs", "-1h", "1e9m", "ten minutes", "1h30m"]
)
def test_another_budget_is_refused_with_what_fits(text):
    with pytest.raises(OptionError, match="must be a time or a number of epochs") as info:
        parse_budget(text)
    assert "`--budget 10m`" in str(info.value) and repr(text) in str(info.value)


def test_times_are_said_in_words():
    said = [as_time(seconds) for seconds in (0.2, 40, 89, 90, 600, 5400, 36_000)]
    assert said == [
        *("less than a second", "40 seconds", "89 seconds", "1.5 minutes", "10 minutes"),
        *("1.5 hours", "10 hours"),
    ]


def test_every_setting_has_a_value_and_a_sentence():
    recipe = chosen()
    assert set(recipe) == {
        *("views", "crop", "flip", "canonical_size", "codec", "batch_size", "epochs"),
        *("learning_rate", "temperature", "label_weight", "cache"),
    }
    for name, setting in recipe.items():
        assert setting.reason.endswith(".") and len(setting.reason) < 120, name
    assert choose_recipe(FACTS, {}) == recipe, "the same facts give the same settings"
    assert values_of(recipe)["canonical_size"] == (256, 256)


def test_what_is_given_is_kept_and_others_follow_it():
    recipe = chosen({"views": 0, "temperature": 7.0, "color": 0.3})
    assert recipe["temperature"].value == 7.0 and recipe["temperature"].reason == "As given."
    assert recipe["color"].value == 0.3
    assert recipe["crop"].value is None and not recipe["flip"].value
    assert recipe["canonical_size"].value is None
    assert 3 * recipe["epochs"].value == chosen()["epochs"].value, "views need more updates"


def test_plain_images_are_left_on_the_disk_for_a_student_that_sees_the_teachers_size():
    def cache(**changes):
        return chosen({"views": 0}, free_disk=10**9, **changes)["cache"]

    assert cache(student_size=(224, 224)).value == "disk"
    assert "287 MB of pixels: each file is decoded once" in cache(student_size=(224, 224)).reason
    assert cache(student_size=(160, 160)).value == cache().value == "memory"
    assert "kept after the first epoch" in cache().reason
    full = chosen({"views": 0}, student_size=(224, 224))["cache"]
    assert full.value == "memory" and "has little room for 287 MB" in full.reason
    assert chosen({"cache": "disk"})["cache"].reason == "As given."


def test_no_more_views_are_asked_than_epochs_show():
    assert chosen({"epochs": 3})["views"].value == 3
    assert chosen({"epochs": 3, "views": 5})["views"].value == 5


@pytest.mark.parametrize(
    ("name", "changes", "value"),
    [
        ("temperature", {"teacher_confidence": 0.995}, 2.0),
        ("temperature", {"teacher_confidence": 0.6}, 4.0),
        ("label_weight", {"teacher_accuracy": 0.5}, 0.5),
        ("label_weight", {"is_labelled": False, "teacher_accuracy": None}, 0.0),
        ("label_weight", {"teacher_accuracy": None}, 0.1),
        ("learning_rate", {"is_trained": True}, 1e-3),
        ("learning_rate", {"is_trained": False}, 4e-3),
        ("flip", {"mirror_agreement": 0.4}, False),
        ("flip", {"mirror_agreement": None}, False),
        ("flip", {"mirror_agreement": 0.9}, True),
        ("crop", {"image_size": (32, 32)}, (0.6, 1.0)),
        ("canonical_size", {"file_size": 200}, (224, 224)),
        ("canonical_size", {"file_size": None}, (256, 256)),
        ("cache", {"free_disk": 10**9}, "disk"),
        ("cache", {"free_disk": 4000 * 256 * 256 * 3 - 1}, "memory"),
        ("views", {"num_images": 50_000}, 4),
        ("views", {"num_images": 1_000_000}, 2),
        ("codec", {"num_images": 1_000_000, "num_outputs": 1000}, "packed:8"),
        ("codec", {}, "float16"),
        ("batch_size", {"num_images": 7}, 7),
        ("batch_size", {"num_images": 50_000}, 64),
        ("epochs", {"num_images": 500}, 180),
        ("epochs", {"num_images": 50_000}, 30),
        ("epochs", {"budget": Budget("5 epochs", epochs=5)}, 5),
    ],
)
def test_settings_follow_what_is_known(name, changes, value):
    assert chosen(**changes)[name].value == value


@pytest.mark.parametrize(
    ("loss", "temperature", "label_weight"),
    [("dkd", "auto", 0.5), ("wttm", "auto", 0.2), ("hard", "auto", 0.5)],
)
def test_a_loss_of_a_paper_has_the_settings_of_its_paper(loss, temperature, label_weight):
    recipe = chosen({"loss": loss})
    assert recipe["loss"].value == loss and recipe["loss"].reason == "As given."
    assert recipe["temperature"].value == temperature
    assert recipe["label_weight"].value == label_weight
    assert recipe["temperature"].reason == f"That of the paper of {loss}."
    assert chosen({"loss": loss}, is_labelled=False)["label_weight"].value == 0.0
    assert chosen({"loss": loss, "label_weight": 0.3})["label_weight"].value == 0.3


@pytest.mark.parametrize("loss", ["auto", "kd", "kl", "bce"])
def test_a_common_loss_has_the_settings_that_are_chosen_without_it(loss):
    recipe = chosen({"loss": loss})
    assert {name: setting for name, setting in recipe.items() if name != "loss"} == chosen()


def test_the_rate_of_another_optimizer_must_be_given():
    with pytest.raises(OptionError) as info:
        chosen({"optimizer": "sgd"})
    assert str(info.value) == (
        "--optimizer is 'sgd', and the rate that is chosen fits adamw.\n"
        "Give the rate, too, such as `--learning-rate 0.1` for sgd."
    )
    assert chosen({"optimizer": "sgd", "learning_rate": 0.1})["learning_rate"].value == 0.1
    assert chosen({"optimizer": "Nadam"})["learning_rate"] == chosen()["learning_rate"]


def test_a_time_is_spent_on_answers_and_epochs():
    times = {"teacher_seconds": 0.01, "student_seconds": 0.001}
    budget = Budget("20m", seconds=1200)
    recipe = chosen(budget=budget, **times)
    # 30 % of 1,200 s are 36,000 answers, 18 for each of the 2,000 images: enough for 16 views.
    assert recipe["views"].value == 16
    assert recipe["epochs"].value == (1200 - 2000 * 17 * 0.01 - 10) // (2000 * 0.001 + 0.1) == 404
    assert "about 5.7 minutes, an epoch 2 seconds" in recipe["epochs"].reason
    slow = chosen(budget=budget, teacher_seconds=0.05, student_seconds=0.001)
    assert slow["views"].value == 2 and "30% of the 20m" in slow["views"].reason


@pytest.mark.parametrize(
    ("seconds", "epochs", "words"),
    [(1, 2, "fewer epochs are no training"), (1e6, 600, "more epochs are of no use")],
)
def test_the_epochs_of_a_time_have_bounds_that_are_said(seconds, epochs, words):
    budget = Budget("t", seconds=seconds)
    recipe = chosen({"views": 0}, budget=budget, teacher_seconds=1e-4, student_seconds=1e-3)
    assert recipe["epochs"].value == epochs and words in recipe["epochs"].reason


def test_large_sets_hold_out_as_many_images_as_measure_well():
    assert validation_split(1_000)[0] == 0.2
    split, reason = validation_split(1_000_000)
    assert split == 0.01 and "10,000 images" in reason


def test_the_table_of_the_docs_is_what_is_chosen():
    text = (Path(__file__).parents[1] / "docs" / "recipes.md").read_text(encoding="utf-8")
    rows = [
        [int(cell.replace(",", "")) for cell in line.strip("|").split("|")]
        for line in text.partition("| images |")[2].partition("\n\n")[0].splitlines()[2:]
    ]
    assert len(rows) > 3
    for num_images, views, batch_size, epochs, updates in rows:
        values = values_of(chosen(num_images=num_images))
        assert (values["views"], values["batch_size"]) == (views, batch_size), num_images
        assert values["epochs"] == epochs, num_images
        assert round(epochs * num_images / batch_size) == updates, num_images

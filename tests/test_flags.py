"""Flags reach the library: each command beside the same call in Python."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import tf_keras
from helpers import draw_image, draw_noise
from run_helpers import command, dense_student, exact_teacher, refusal, same_weights

import streamkd as kd
from streamkd.cli.main import main
from streamkd.models.families import load_model

CLASSES = {"ant": 5, "bee": 4, "cat": 6}
# What a random teacher is told.
UNLEARNED = "ignore:The teacher .* is right on"


def any_size_model():
    """A model of any size whose loading runs code."""
    layers = tf_keras.layers
    average = layers.GlobalAveragePooling2D()
    inputs = [tf_keras.Input((None, None, 3)), layers.Lambda(lambda x: x / 255), average]
    return tf_keras.Sequential([*inputs, layers.Dense(3)])


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """images, 8×12 pixels, with a link in class ant; square, and s.h5, a store of those; models."""
    root = tmp_path_factory.mktemp("work")
    number = 0
    for class_number, (name, count) in enumerate(CLASSES.items()):
        for folder in ("images", "square"):
            (root / folder / name).mkdir(parents=True)
        if name == "ant":
            (root / "elsewhere").mkdir()
            (root / "images" / "ant" / "more").symlink_to(root / "elsewhere")
        for _ in range(count):
            folder = root / "images" / name / ("more" if number < 3 else "")
            draw_noise(folder / f"{number:02d}.png", (8, 12), seed=number)
            draw_image(root / "square" / name / f"{number:02d}.png", number, class_number)
            number += 1
    exact_teacher().save(root / "teacher.keras")
    dense_student(num_channels=1, seed=1).save(root / "grey-teacher.keras")
    dense_student(num_channels=1, seed=2).save(root / "grey-student.keras")
    dense_student().save(root / "student.keras")
    any_size_model().save(root / "any-size.keras")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        teach = ["teach", "square", "--teacher", "teacher.keras", "--out", "s.h5", "--quiet"]
        assert main(teach) == 0
    return root


@pytest.fixture
def succeed(work, monkeypatch, capsys, tmp_path):
    """A function that runs a command in `work` and returns its answer; outputs go to `tmp_path`."""
    monkeypatch.chdir(work)

    def run(words):
        code, answer, errors = command(capsys, *words.format(tmp=tmp_path).split())
        assert code == 0, (answer, errors)
        return answer

    return run


GREY = "--color-mode grayscale --pad-to-aspect-ratio --interpolation nearest"
TEACH = (
    "teach images --follow-links --teacher grey-teacher.keras --out {tmp}/s.h5 --batch-size 4 "
    f"--seed 3 --views 2 --crop 0.5 1 --erase {GREY}"
)
GREY_OPTIONS = {
    "color_mode": "grayscale",
    "pad_to_aspect_ratio": True,
    "interpolation": "nearest",
}


@pytest.mark.filterwarnings(UNLEARNED)
def test_teach_makes_the_store_that_python_makes(succeed, tmp_path):
    answer = succeed(TEACH)
    assert answer["num_images"] == 15 and answer["views"]["erase"] == 0.25
    kd.teach(
        kd.scan("images", follow_links=True),
        "grey-teacher.keras",
        tmp_path / "python.h5",
        batch_size=4,
        views=kd.Views(2, crop=(0.5, 1.0), erase=0.25, seed=3),
        progress=False,
        **GREY_OPTIONS,
    )
    assert (tmp_path / "s.h5").read_bytes() == (tmp_path / "python.h5").read_bytes()
    assert succeed("scan images")["num_images"] == 12


TRAIN = "train images --follow-links --student grey-student.keras --out {tmp}/run --epochs 1 "
TRAIN += "--batch-size 6 --optimizer sgd --jit off --seed 3 --color-mode grayscale --quiet "


@pytest.mark.filterwarnings(UNLEARNED)
@pytest.mark.parametrize(
    ("words", "options"),
    [
        (
            f"--store {{tmp}}/s.h5 --views-per-decode 2 {GREY}",
            {"views_per_decode": 2, **GREY_OPTIONS},
        ),
        (
            "--label-weight 1 --image-size 8x8 --crop-to-aspect-ratio --balance",
            {
                "image_size": (8, 8),
                "crop_to_aspect_ratio": True,
                "balance": True,
                "color_mode": "grayscale",
            },
        ),
    ],
    ids=["replayed views", "labels alone"],
)
def test_train_trains_the_student_that_python_trains(succeed, tmp_path, words, options):
    has_store = "--store" in words
    if has_store:
        succeed(TEACH)
    answer = succeed(TRAIN + words)
    images = kd.scan("images", follow_links=True)
    store = tmp_path / "s.h5" if has_store else None
    stream = kd.join(images, store, batch_size=6, seed=3, progress=False, **options)
    student = load_model("grey-student.keras")
    label_weight = 0.1 if has_store else 1.0
    distiller = kd.Distiller(student, optimizer="sgd", jit="off", label_weight=label_weight)
    history = distiller.fit(stream, epochs=1, progress=False)
    assert answer["steps"] == history.step and answer["loss"] == history.last["loss"]
    assert same_weights(load_model(tmp_path / "run" / "student.keras"), student)


def test_plan_recommends_by_max_kl(succeed):
    words = "plan images --teacher grey-teacher.keras --color-mode grayscale --sample 5 --max-kl "
    strict, loose = (succeed(f"{words} {max_kl}") for max_kl in ("1e-30", "1000"))
    assert (strict["max_kl"], strict["recommended"]) == (1e-30, "float32")
    assert (loose["max_kl"], loose["recommended"]) == (1000, "float16")
    assert strict["num_sampled"] == 5


def test_import_makes_the_store_that_python_makes(succeed, tmp_path):
    images = kd.scan("square", labels=None)
    rng = np.random.default_rng(0)
    probabilities = rng.dirichlet(np.ones(3), len(images)).astype(np.float32)
    np.save(tmp_path / "l.npy", probabilities)
    lines = "".join(json.dumps(key.decode()) + "\n" for key in images.keys)
    (tmp_path / "k.jsonl").write_text(lines)
    (tmp_path / "names.txt").write_text("x\ny\nz\n")
    answer = succeed(
        "import {tmp}/l.npy --keys {tmp}/k.jsonl --images square --out {tmp}/i.h5 --labels none "
        "--codec float32 --batch-size 4 --teacher-output probabilities --teacher-name them "
        "--class-names {tmp}/names.txt --image-size 8x12 --color-mode grayscale "
        "--interpolation area --crop-to-aspect-ratio"
    )
    assert (answer["teacher"], answer["codec"]) == ("them", "float32")
    store = kd.import_logits(
        tmp_path / "l.npy",
        tmp_path / "k.jsonl",
        images,
        tmp_path / "python.h5",
        output="probabilities",
        teacher="them",
        class_names=["x", "y", "z"],
        batch_size=4,
        codec="float32",
        image_size=(8, 12),
        color_mode="grayscale",
        interpolation="area",
        crop_to_aspect_ratio=True,
        progress=False,
    )
    assert (tmp_path / "i.h5").read_bytes() == (tmp_path / "python.h5").read_bytes()
    assert store.class_names == ["x", "y", "z"] and store.header.images["image_size"] == [8, 12]
    np.testing.assert_allclose(store.gather(np.arange(15)), np.log(probabilities), rtol=1e-6)


@pytest.mark.parametrize(
    ("words", "scanned", "options"),
    [
        ("--class-names {tmp}/names.txt", {}, {"class_names": ["cat", "ant", "bee"]}),
        ("--labels none --store s.h5", {"labels": None}, {"store": "s.h5"}),
        (
            "--validation-split 0.4 --subset validation --stratify --seed 2 --batch-size 2",
            {"validation_split": 0.4, "subset": "validation", "stratify": True, "seed": 2},
            {},
        ),
        (
            "--image-size 8x8 --color-mode rgb --interpolation nearest --pad-to-aspect-ratio "
            "--max-pixels 64 --trust",
            {},
            {"interpolation": "nearest", "pad_to_aspect_ratio": True},
        ),
    ],
    ids=["class names", "no labels", "a side of a split", "pixels"],
)
def test_evaluate_says_what_python_says(succeed, tmp_path, words, scanned, options):
    (tmp_path / "names.txt").write_text("cat\nant\nbee\n")
    answer = succeed(f"evaluate student.keras square {words}")
    report = kd.evaluate("student.keras", kd.scan("square", **scanned), progress=False, **options)
    assert {**answer, "latency_ms": 0} == {**report, "latency_ms": 0, "warnings": []}


@pytest.mark.filterwarnings("ignore:.*would be refused without --trust")
def test_a_model_of_any_size_that_runs_code_is_evaluated_and_exported_with_both_flags(
    succeed, capsys, tmp_path
):
    for words in (
        ["evaluate", "any-size.keras", "square"],
        ["export", "any-size.keras", "--out", tmp_path / "out.keras"],
    ):
        message = refusal(capsys, *words)
        assert "add `--trust` if the file is your own." in message
        assert "add --image-size HEIGHTxWIDTH" in refusal(capsys, *words, "--trust")
    both = "--trust --image-size 8x8"
    assert succeed(f"evaluate any-size.keras square {both}")["num_images"] == 15
    assert succeed(f"export any-size.keras --out {{tmp}}/out.keras {both} --format keras")["parity"]
    assert (tmp_path / "out.keras").exists()


def test_verify_with_a_sample_and_images_looks_at_some_rows_and_every_file(
    work, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(work)
    words = ["verify", "s.h5", "--images", tmp_path / "square", "--sample", 2]
    for name, count in CLASSES.items():
        (tmp_path / "square" / name).mkdir(parents=True)
        paths = sorted((work / "square" / name).iterdir())
        assert len(paths) == count
        for path in paths:
            (tmp_path / "square" / name / path.name).write_bytes(path.read_bytes())
    code, answer, _ = command(capsys, *words)
    assert code == 0 and 2 <= answer["rows_checked"] <= 15 and answer["rows_total"] == 15
    for path in Path(tmp_path / "square").glob("*/*.png"):
        draw_image(path, 99)
    code, answer, _ = command(capsys, *words)
    assert code == 1 and answer["num_problems"] == 15
    assert {problem["reason"] for problem in answer["problems"]} == {
        "the image was changed since the teacher saw it"
    }

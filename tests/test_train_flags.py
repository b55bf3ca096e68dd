"""From the flags of `train` to the arguments of `Distiller` and `fit`; what is refused early."""

from __future__ import annotations

import dataclasses
import importlib
import importlib.util
import inspect
import json
import os
import signal
import sys
from pathlib import Path

import pytest
from helpers import small_model
from run_helpers import command, dense_student, refusal

from streamkd.cli import train_flags
from streamkd.cli.arguments import Parser
from streamkd.cli.files import read_class_weight
from streamkd.cli.main import build_parser
from streamkd.cli.train import DISTILLER_FLAGS, JOIN_FLAGS
from streamkd.errors import OptionError
from streamkd.stream.join import join
from streamkd.training.distiller import Distiller
from streamkd.training.recipe import LEARNING_RATE, WARM_UP

TRAIN = ["train", "images", "--store", "teacher.h5", "--student", "student.keras", "--out", "run"]
TRAIN += ["--batch-size", "8"]


@pytest.fixture
def workdir(directory, store, monkeypatch):
    """The working directory, with images, teacher.h5 and student.keras."""
    monkeypatch.chdir(directory.parent)
    dense_student().save("student.keras")
    return directory.parent


@dataclasses.dataclass
class StubHistory:
    """As much of a history as the command reads."""

    run: str
    stopped: bool = False
    step: int = 12
    num_skipped: int = 0
    epochs: tuple = ({"step": 12, "loss": 1.0},)
    outcome: str = "new"
    began_at_step: int = 0

    @property
    def last(self):
        return self.epochs[-1]


@pytest.fixture
def called(workdir, monkeypatch):
    """A function: runs `train` with some words and no training; returns the arguments of the calls.

    The returned dict has the arguments of `Distiller` and of `fit`, and `exit`, `answer`, `errors`.
    """

    def run(capsys, *words, stopped=False, step=12, during_fit=lambda: None):
        call = {}

        class Stub:
            def __init__(self, student, **arguments):
                call.update(student=student, **arguments)

            def fit(self, stream, **arguments):
                during_fit()
                call.update(stream=stream, **arguments)
                return StubHistory(arguments["run"], stopped, step)

        monkeypatch.setattr("streamkd.Distiller", Stub)
        code, answer, errors = command(capsys, *TRAIN, *words)
        return {**call, "exit": code, "answer": answer, "errors": errors}

    return run


def test_flags_that_are_left_out_have_the_defaults_of_python():
    parser = Parser()
    train_flags.add_train(parser)
    args = vars(parser.parse_args(TRAIN[1:]))
    distiller_parameters = inspect.signature(Distiller).parameters
    defaults = {name: distiller_parameters[name].default for name in DISTILLER_FLAGS}
    # None in Python, where an optimizer of the user's own takes neither.
    defaults |= {"learning_rate": LEARNING_RATE, "warm_up": WARM_UP}
    assert {name: args[name] for name in DISTILLER_FLAGS} == defaults
    assert set(distiller_parameters) - set(DISTILLER_FLAGS) == {
        *("student", "metrics"),
        "model_output",  # --output, as of every command that opens a model
    }
    join_parameters = inspect.signature(join).parameters
    same = [name for name in JOIN_FLAGS if name not in ("batch_size", "seed")]
    assert {name: args[name] for name in same} == {
        name: join_parameters[name].default for name in same
    }
    fit_parameters = inspect.signature(Distiller.fit).parameters
    for name in ("class_weight", "save_every", "resume"):
        assert args[name] == fit_parameters[name].default


def test_flags_become_arguments_of_the_same_name(called, capsys):
    words = (
        "--schedule constant --warm-up 0.1 --weight-decay 0.01 --clip-norm 1 --accumulate 2 "
        "--ema 0.99 --label-smoothing 0.05 --jit on --steps-per-call 4 --on-nonfinite skip "
        "--optimizer sgd --learning-rate 0.5 --temperature 2 --label-weight 0.3 --loss bce "
        "--student-preprocess scale --save-every 7 --class-weight balanced --no-resume --epochs 3 "
        "--extend"
    )
    call = called(capsys, *words.split())
    assert call["exit"] == 0, call["answer"]
    assert {name: call[name] for name in DISTILLER_FLAGS} == {
        "schedule": "constant",
        "warm_up": 0.1,
        "weight_decay": 0.01,
        "clip_norm": 1.0,
        "accumulate": 2,
        "ema": 0.99,
        "label_smoothing": 0.05,
        "loss": "bce",
        "jit": "on",
        "steps_per_call": 4,
        "on_nonfinite": "skip",
        "optimizer": "sgd",
        "learning_rate": 0.5,
        "temperature": 2.0,
        "label_weight": 0.3,
        "student_preprocess": "scale",
        "standardize": False,
    }
    assert (call["epochs"], call["save_every"], call["class_weight"]) == (3, 7, "balanced")
    assert (call["resume"], call["run"], call["validation"]) == (False, "run", None)
    assert call["extend"] is True
    assert call["callbacks"] == [] and call["stop"]() is False


def test_every_flag_is_recorded_those_of_the_file_too(called, capsys):
    Path("c.toml").write_text('[train]\nema = 0.9\nimage-size = "8x8"\n')
    call = called(capsys, "--config", "c.toml", "--epochs", "2")
    arguments = json.loads(json.dumps(call["arguments"]))
    assert arguments["ema"] == 0.9 and arguments["image_size"] == [8, 8]
    assert (arguments["epochs"], arguments["images"], arguments["jit"]) == (2, "images", "auto")
    every = set(vars(build_parser().parse_args(TRAIN)))
    assert set(arguments) == every - {"command", "run", "config", "json", "quiet"}


@pytest.mark.parametrize("family", ["tf_keras", "keras"])
def test_early_stopping_is_keras_own_of_the_students_family(called, capsys, family):
    dense_student(family).save("student.keras")
    words = ("--early-stopping", 3, "--validation-split", 0.2)
    (callback,) = called(capsys, *words)["callbacks"]
    assert type(callback) is importlib.import_module(family).callbacks.EarlyStopping
    assert (callback.monitor, callback.patience) == ("val_loss", 3)
    assert callback.restore_best_weights


@pytest.mark.parametrize("family", ["tf_keras", "keras"])
def test_tensorboard_is_keras_own_of_the_students_family(called, capsys, family):
    dense_student(family).save("student.keras")
    (callback,) = called(capsys, "--tensorboard", "logs")["callbacks"]
    assert type(callback) is importlib.import_module(family).callbacks.TensorBoard
    assert (callback.log_dir, callback.write_graph) == ("logs", False)


def test_tensorboard_reads_the_metrics_and_no_graph(workdir, capsys):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    words = ("--tensorboard", "logs", "--validation", "images", "--epochs", 2, "--jit", "off")
    code, _, errors = command(capsys, *TRAIN, *words, "--quiet")
    assert code == 0, errors
    events = {
        folder.name: EventAccumulator(str(folder)).Reload() for folder in Path("logs").iterdir()
    }
    assert set(events) == {"train", "validation"}
    assert {"epoch_loss", "epoch_accuracy"} <= set(events["train"].Tags()["tensors"])
    assert len(events["validation"].Tensors("epoch_accuracy")) == 2
    assert not any(run.Tags()["graph"] for run in events.values())


def test_a_missing_tensorboard_is_one_line(workdir, capsys, monkeypatch):
    real = importlib.util.find_spec
    absent = lambda name: None if name == "tensorboard" else real(name)  # noqa: E731
    monkeypatch.setattr(importlib.util, "find_spec", absent)
    assert refusal(capsys, *TRAIN, "--tensorboard", "logs") == (
        "--tensorboard needs the package tensorboard, which is not installed.\n"
        "Install it: `pip install 'streamkd[tensorboard]'`.\n"
    )
    assert not Path("logs").exists()


BUILDERS = """
import tf_keras, keras

def build(family, num_classes, shape):
    layers = [family.layers.Flatten(), family.layers.Dense(num_classes)]
    return family.Sequential([family.Input(shape), *layers])

def old(num_classes, image_shape): return build(tf_keras, num_classes, image_shape)
def new(num_classes, image_shape): return build(keras, num_classes, image_shape)
"""


class TestPrecision:
    @pytest.mark.parametrize("builder", ["old", "new"])
    @pytest.mark.parametrize("name", ["float32", "mixed_float16", "mixed_bfloat16"])
    def test_a_function_builds_by_the_policy(self, called, capsys, monkeypatch, builder, name):
        import keras
        import tf_keras

        monkeypatch.syspath_prepend(os.getcwd())
        Path("builders.py").write_text(BUILDERS)
        monkeypatch.delitem(sys.modules, "builders", raising=False)
        call = called(capsys, "--student", f"builders:{builder}", "--precision", name)
        assert call["exit"] == 0, call["answer"]
        assert call["student"].layers[-1].dtype_policy.name == name
        for family in (tf_keras, keras):
            assert family.mixed_precision.global_policy().name == "float32"

    @pytest.mark.parametrize("family", ["tf_keras", "keras"])
    def test_a_saved_student_of_another_precision_is_refused(self, called, capsys, family):
        dense_student(family).save("student.keras")
        call = called(capsys, "--precision", "mixed_bfloat16")
        assert call["exit"] == 2 and call["answer"]["error"]["code"] == "student"
        message = call["answer"]["error"]["message"]
        assert "\n  student:     float32\n  --precision: mixed_bfloat16\n" in message
        assert called(capsys, "--precision", "float32")["exit"] == 0

    @pytest.mark.parametrize("family", ["tf_keras", "keras"])
    def test_a_saved_student_keeps_its_own_precision(self, called, capsys, family):
        mixed_precision = importlib.import_module(family).mixed_precision
        mixed_precision.set_global_policy("mixed_bfloat16")
        try:
            small_model(family).save("student.keras")
        finally:
            mixed_precision.set_global_policy("float32")
        assert called(capsys, "--precision", "mixed_bfloat16")["exit"] == 0
        assert called(capsys)["student"].layers[-1].dtype_policy.name == "mixed_bfloat16"
        call = called(capsys, "--precision", "float32")
        assert "student:     mixed_bfloat16" in call["answer"]["error"]["message"]


def test_a_class_weight_is_balanced_or_a_table_in_a_file(workdir, called, capsys):
    Path("w.json").write_text('{"ant": 2.5, "b e": 0}')
    Path("w.toml").write_text('ant = 2.5\n"b e" = 0\n')
    assert read_class_weight(None) is None and read_class_weight("balanced") == "balanced"
    assert read_class_weight("w.json") == read_class_weight("w.toml") == {"ant": 2.5, "b e": 0}
    assert called(capsys, "--class-weight", "w.toml")["class_weight"] == {"ant": 2.5, "b e": 0}


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "none.json",
            None,
            "--class-weight none.json cannot be read: No such file or directory.\n",
        ),
        ("w.json", "ant = 1", "--class-weight w.json cannot be read: Expecting value: line 1 col"),
        ("w.toml", '{"ant": 1}', "--class-weight w.toml cannot be read: Invalid"),
        (
            "w.json",
            "[1, 2]",
            "--class-weight w.json holds a list, not a table from class names to",
        ),
    ],
)
def test_a_class_weight_that_cannot_be_read_is_refused(workdir, name, content, message):
    if content is not None:
        Path(name).write_text(content)
    with pytest.raises(OptionError) as refused:
        read_class_weight(name)
    assert str(refused.value).startswith(message)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--early-stopping 2", "--early-stopping watches the loss on validation images, and there"),
        (
            "--subset training",
            "train uses both sides of --validation-split: one to train, the",
        ),
        ("--augment independent", "--augment independent draws new views; say which: `--crop 0.35"),
        (
            "--flip",
            "The views belong to the store: the student sees what the teacher saw.\nGive",
        ),
        ("--early-stopping 0", "argument --early-stopping: '0'; give a whole number from 1"),
        ("--save-every -1", "argument --save-every: expected one argument|'-1'; give a whole"),
        ("--accumulate 0.5", "argument --accumulate: '0.5'; give a whole number from 1"),
        ("--steps-per-call 0", "argument --steps-per-call: '0'; give a whole number from 1"),
        ("--jit maybe", "argument --jit: invalid choice: 'maybe'"),
        ("--precision float16", "argument --precision: invalid choice: 'float16'"),
        ("--distribute tpu", "argument --distribute: invalid choice: 'tpu'"),
        ("--tensorboard teacher.h5", "--tensorboard teacher.h5 is a file.\nGive the path of a dir"),
        ("--class-weight no.json", "--class-weight no.json cannot be read"),
    ],
)
def test_impossible_flags_are_refused_before_tensorflow_is_imported(
    workdir, capsys, monkeypatch, words, message
):
    def fail():
        raise AssertionError("TensorFlow was asked for")

    monkeypatch.setattr("streamkd.cli.train.import_tensorflow", fail)
    text = refusal(capsys, *TRAIN, *words.split())
    assert any(part.lower() in text.lower() for part in message.split("|")), text
    assert not Path("run").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "which is not set.\n"),
        ("{", "which cannot be read: Expecting property name"),
        ("[]", "which cannot be read: list indices must be"),
        ('{"cluster": {"worker": ["a:1"]}}', "which has no 'task'.\n"),
        ('{"cluster": {"worker": []}, "task": {"type": "worker", "index": 0}}', "is not complete"),
    ],
)
def test_machines_that_are_not_named_are_refused(workdir, capsys, monkeypatch, content, message):
    monkeypatch.delenv("TF_CONFIG", raising=False)
    if content is not None:
        monkeypatch.setenv("TF_CONFIG", content)
    text = refusal(capsys, *TRAIN, "--distribute", "multi-worker")
    assert message in text
    example = text[text.index("TF_CONFIG='") + 11 : text.rindex("'")]
    assert set(json.loads(example)) == {"cluster", "task"}


@pytest.mark.parametrize(
    ("number", "code", "word"),
    [(signal.SIGINT, 130, "Interrupted"), (signal.SIGTERM, 143, "Terminated")],
)
def test_a_run_that_a_signal_stopped_says_where_it_is_saved(called, capsys, number, code, word):
    def arrive():
        os.kill(os.getpid(), number)

    call = called(capsys, stopped=True, step=7, during_fit=arrive)
    assert call["exit"] == code and call["stop"]() is True
    assert call["answer"]["error"] == {
        "code": "interrupted",
        "message": f"{word}. The run is saved at step 7 in run; the same command resumes it.",
        "key": None,
    }
    call = called(capsys, stopped=True, step=0, during_fit=arrive)
    assert "No step was taken yet" in call["answer"]["error"]["message"]


def test_a_signal_that_came_after_the_last_step_changes_nothing(called, capsys):
    call = called(capsys, during_fit=lambda: os.kill(os.getpid(), signal.SIGINT))
    assert call["exit"] == 0 and call["answer"]["run"] == "run"

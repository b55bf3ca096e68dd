"""A resumed run is checked first: damage is noticed, and a run begun otherwise is refused."""

from __future__ import annotations

import dataclasses
import json
import shutil

import numpy as np
import pytest
import tensorflow as tf
import tf_keras
from helpers import EncodingTeacher, truncate
from resume_helpers import (
    after,
    checkpoints_of,
    digest_of,
    fit,
    tensors_of,
    what_remains,
)
from run_helpers import KilledError, dense_student, snapshot

from streamkd.errors import ResumeError
from streamkd.manifest.manifest import scan
from streamkd.models.precision import precision
from streamkd.runs.run_directory import RunDirectory
from streamkd.stream.join import join
from streamkd.teachers.load_teacher import load_teacher
from streamkd.teachers.teach import teach
from streamkd.training.recipe import Recipe


@pytest.fixture(scope="module")
def stream(shared):
    return join(scan(shared[0]), shared[1], batch_size=8, seed=3)


@pytest.fixture(scope="module")
def begun(stream, tmp_path_factory):
    """A run with two checkpoints, of steps 4 and 6 of 12, and the same run to its end."""
    root = tmp_path_factory.mktemp("begun")
    fit(stream, dense_student(), root / "whole", **begun_with())
    _, history = fit(stream, dense_student(), root / "run", stop=after(6), **begun_with())
    assert history.stopped
    return root


def begun_with():
    """The options of `begun`."""
    stopping = tf_keras.callbacks.EarlyStopping("loss", patience=9, restore_best_weights=True)
    return {"optimizer": "adamw", "callbacks": [stopping]}


@pytest.fixture
def run(begun, tmp_path):
    return shutil.copytree(begun / "run", tmp_path / "run")


def change_a_digit(path):
    text = path.read_text()
    index = next(i for i, c in enumerate(text) if c.isdigit() and i > text.index("loss"))
    path.write_text(text[:index] + str((int(text[index]) + 1) % 10) + text[index + 1 :])
    json.loads(path.read_text())


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("state.json", change_a_digit),
        ("arrays.npz", lambda path: path.write_bytes(path.read_bytes()[:-1] + b"?")),
        ("arrays.npz", lambda path: path.unlink()),
        ("tensors.data-00000-of-00001", truncate),
    ],
    ids=["a digit", "arrays changed", "arrays gone", "tensors cut"],
)
def test_a_damaged_checkpoint_is_noticed_and_the_one_before_taken(stream, begun, run, name, damage):
    damage(run / "checkpoints" / "step-0000000006" / name)
    with pytest.warns(
        UserWarning, match=r"is damaged \(step-0000000006: .*resumes from .*, step-0000000004\."
    ):
        fit(stream, dense_student(seed=5), run, **begun_with())
    assert what_remains(run) == what_remains(begun / "whole")


def test_a_damaged_checkpoint_does_not_take_the_place_of_a_sound_one(stream, run):
    truncate(run / "checkpoints" / "step-0000000006" / "tensors.index")
    with pytest.warns(UserWarning, match="is damaged"):
        fit(stream, dense_student(), run, stop=after(1), **begun_with())
    assert [path.name for path in checkpoints_of(run)] == ["step-0000000004", "step-0000000005"]


def test_leftovers_of_a_kill_are_removed(stream, begun, run):
    expected = {path.name for path in (begun / "whole").iterdir()}
    for name in ("config.json.tmp", "metrics.csv.tmp", ".student.tmp.keras", ".writable"):
        (run / name).write_text("half")
    for name in ("step-0000000007.tmp", "step-0000000003.old.tmp"):
        shutil.copytree(run / "checkpoints" / "step-0000000006", run / "checkpoints" / name)
    # Between two renamings: one more than is kept.
    shutil.copytree(
        run / "checkpoints" / "step-0000000004", run / "checkpoints" / "step-0000000003"
    )
    fit(stream, dense_student(), run, stop=after(1), **begun_with())
    assert [path.name for path in checkpoints_of(run)] == ["step-0000000006", "step-0000000007"]
    assert {path.name for path in run.iterdir()} == expected


def test_other_versions_other_weights_and_another_place_are_no_other_run(stream, begun, run):
    config = json.loads((run / "config.json").read_text())
    first = config["initial_weights"]
    config["versions"] = {"tensorflow": "9.9", "python": "4"}
    config["student"]["layers"]["1 Rescaling"] = "as another Keras describes it"
    config["platform"], config["arguments"] = "elsewhere", {"student": "x"}
    (run / "config.json").write_text(json.dumps(config))
    run = run.rename(run.parent / "moved")
    fit(stream, dense_student(seed=5), run, **begun_with())
    assert what_remains(run) == what_remains(begun / "whole")
    config = json.loads((run / "config.json").read_text())
    assert config["versions"]["tensorflow"] == tf.__version__
    assert config["initial_weights"] == first, "those that the run began with"


def test_other_callbacks_are_no_other_run(stream, begun, run):
    callbacks = [tf_keras.callbacks.TerminateOnNaN(), *begun_with()["callbacks"]]
    fit(stream, dense_student(), run, **{**begun_with(), "callbacks": callbacks})
    assert what_remains(run)[1] == what_remains(begun / "whole")[1]
    assert callbacks[1].best < 1e9 and callbacks[1].best_weights is not None


OTHERWISE = [
    ("optimizer", {"optimizer": "sgd"}),
    ("optimizer", {"optimizer": tf_keras.optimizers.AdamW(1e-3)}),
    ("learning_rate", {"learning_rate": 0.5}),
    ("schedule", {"schedule": "constant"}),
    ("warm_up", {"warm_up": 0.5}),
    ("weight_decay", {"weight_decay": 0.5}),
    ("clip_norm", {"clip_norm": 1.0}),
    ("accumulate", {"accumulate": 2}),
    ("ema", {"ema": 0.9}),
    ("temperature", {"temperature": 2.0}),
    ("label_weight", {"label_weight": 0.5}),
    ("label_weight", {"label_weight": [(0, 0.1), (1, 1)]}),
    ("label_smoothing", {"label_smoothing": 0.1}),
    ("loss", {"loss": "mse"}),
    ("standardize", {"standardize": True}),
    ("on_nonfinite", {"on_nonfinite": "skip"}),
    ("jit", {"jit": "on"}),
    ("epochs", {"epochs": 5}),
    ("class_weights", {"class_weight": {"ant": 2.0}}),
    ("metrics", {"metrics": ["sparse_categorical_crossentropy"]}),
    ("student", {"student_preprocess": "scale"}),
]
# Settings that a resumed run need not repeat: the last bits are the same with any of them.
FREE = {"steps_per_call"}


@pytest.mark.filterwarnings("ignore:The pixels of the student are preprocessed twice")
@pytest.mark.parametrize(("name", "options"), OTHERWISE, ids=lambda value: str(value)[:40])
def test_a_run_does_not_resume_with_another_option(stream, run, name, options):
    before = snapshot(run)
    words = {"class_weights": "other class_weights", "metrics": "other metrics"}
    words["epochs"] = r"\d epochs, and 5 are asked for now"
    wanted = words.get(name, f"another {name}")
    with pytest.raises(ResumeError, match=rf"{run} was started with {wanted}\.\n") as info:
        fit(stream, dense_student(), run, **{**begun_with(), **options})
    if name == "epochs":
        assert str(info.value).endswith("to start again, add `--no-resume`.")
        assert snapshot(run) == before
        return
    _, was, now, advice = str(info.value).splitlines()
    assert was.startswith("  run: ") and now.startswith("  now: ") and "`--no-resume`" in advice
    assert was[7:] != now[7:]
    assert snapshot(run) == before


@pytest.mark.parametrize("change", [{"seed": 4}, {"batch_size": 6}, {"shuffle": False}], ids=str)
def test_a_run_does_not_resume_with_another_stream(shared, run, change):
    before = snapshot(run)
    other = join(scan(shared[0]), shared[1], **{"batch_size": 8, "seed": 3, **change})
    with pytest.raises(ResumeError, match=f"started with another {next(iter(change))}"):
        fit(other, dense_student(), run, **begun_with())
    assert snapshot(run) == before


def test_a_run_does_not_resume_with_the_store_of_another_teacher(stream, run, tmp_path):
    teacher = load_teacher(EncodingTeacher(), name="another teacher")
    options = {"image_size": (8, 8), "progress": False}
    store = teach(stream.images, teacher, tmp_path / "other.h5", **options)
    other = join(stream.images, store, batch_size=8, seed=3)
    with pytest.raises(ResumeError, match="started with another store") as info:
        fit(other, dense_student(), run, **begun_with())
    assert "another teacher" in str(info.value)


def test_a_run_does_not_resume_with_a_student_of_another_family(stream, run):
    with pytest.raises(ResumeError, match="started with another student") as info:
        fit(stream, dense_student("keras"), run, optimizer="adamw")
    assert '"family": "keras"' in str(info.value)


def test_every_option_is_held_against_the_run():
    assert {name for name, _ in OTHERWISE} >= {
        field.name for field in dataclasses.fields(Recipe)
    } - FREE


def test_a_run_does_not_resume_with_other_validation_images(stream, run):
    with pytest.raises(ResumeError, match="started with another validation"):
        fit(stream, dense_student(), run, validation=stream.images, **begun_with())


def test_a_run_does_not_resume_in_another_precision(stream, run):
    with precision("mixed_bfloat16"):
        student = dense_student()
    with pytest.raises(ResumeError, match="started with another student") as info:
        fit(stream, student, run, **begun_with())
    assert '\n  run: {"precision": null}\n  now: {"precision": "mixed_bfloat16"}\n' in str(
        info.value
    )


def test_a_run_does_not_resume_with_layers_that_do_something_else(stream, run):
    with pytest.raises(ResumeError, match="started with another student") as info:
        fit(stream, dense_student(activation=None), run, **begun_with())
    _, was, now, _ = str(info.value).splitlines()
    sides = json.loads(was.removeprefix("  run: ")), json.loads(now.removeprefix("  now: "))
    assert [list(side["layers"]) for side in sides] == [["3 Dense"], ["3 Dense"]]


def test_a_run_without_a_record_of_its_layers_resumes(stream, begun, run):
    config = json.loads((run / "config.json").read_text())
    del config["student"]["layers"]
    (run / "config.json").write_text(json.dumps(config))
    fit(stream, dense_student(), run, **begun_with())
    assert what_remains(run) == what_remains(begun / "whole")


def test_a_start_over_that_is_killed_is_no_mixture(stream, run, monkeypatch):
    """The kill falls right after config.json says that the run has another temperature."""
    options = {**begun_with(), "temperature": 2.0}

    def student():
        return dense_student(seed=2)

    with monkeypatch.context() as patch:
        real = RunDirectory.write_config

        def killed(self, config):
            real(self, config)
            patch.setattr(shutil, "rmtree", killed_too)  # the process is gone: it tidies up nothing
            raise KilledError

        patch.setattr(RunDirectory, "write_config", killed)
        with pytest.raises(KilledError):
            fit(stream, student(), run, resume=False, **options)
    assert list((run / "checkpoints").glob("*.old.tmp"))
    _, history = fit(stream, student(), run, **options)
    assert history.step == 12 and len(history.epochs) == 3
    fit(stream, student(), run.parent / "fresh", **options)
    assert what_remains(run) == what_remains(run.parent / "fresh")


def killed_too(*_args, **_options):
    raise KilledError


def test_a_start_over_leaves_nothing_of_the_run_before(stream, run):
    """Stopped in its first epoch it has no student yet, and the old one is of another run."""
    assert (run / "student.keras").exists() and (run / "metrics.csv").exists()
    fit(stream, dense_student(), run, resume=False, stop=after(1), **begun_with())
    assert [path.name for path in checkpoints_of(run)] == ["step-0000000001"]
    assert {path.name for path in run.iterdir()} == {"checkpoints", "config.json"}


def test_a_digest_tells_any_two_tensors_apart(begun):
    """The comparisons above rest on it."""
    tensors = tensors_of(checkpoints_of(begun / "whole")[-1])
    assert len(tensors) > 8
    for name, array in tensors.items():
        changed = {**tensors, name: np.array(array + 1)}
        assert digest_of(changed) != digest_of(tensors), name

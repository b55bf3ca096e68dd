"""A run that is stopped anywhere and resumed ends as the run that never stopped: to the bit."""

from __future__ import annotations

import dataclasses
import json
import shutil
import sys

import numpy as np
import pytest
import tensorflow as tf
import tf_keras
from helpers import EncodingTeacher, draw_directory, truncate
from resume_helpers import (
    after,
    checkpoints_of,
    digest_of,
    fit,
    metrics_of,
    restless_student,
    tensors_of,
    what_remains,
)
from run_helpers import KilledError, dense_student, killed, same_weights, snapshot

from streamkd.errors import NonFiniteError, OptionError, ResumeError
from streamkd.manifest.manifest import scan
from streamkd.models.families import load_model
from streamkd.models.precision import precision
from streamkd.runs.run_directory import RunDirectory
from streamkd.stream.join import join
from streamkd.teachers.teach import teach
from streamkd.training import pacing
from streamkd.training.distiller import Distiller
from streamkd.training.recipe import Recipe
from streamkd.training.validation import Validation
from streamkd.views.views import Views

STEPS_AN_EPOCH = 4  # of 8 of 30 images: batches straddle the epochs


@pytest.fixture(scope="module")
def images(shared):
    return scan(shared[0])


@pytest.fixture(scope="module")
def store(shared):
    return shared[1]


@pytest.fixture(scope="module")
def stream(images, store):
    return join(images, store, batch_size=8, seed=3)


@pytest.fixture(scope="module")
def whole(stream, tmp_path_factory):
    """Returns the directory of a run of the dense student that nothing stopped, by its options;
    each is trained once."""
    root, names = tmp_path_factory.mktemp("whole"), {}

    def run_of(**options):
        key = json.dumps(options, sort_keys=True)
        if key not in names:
            names[key] = root / str(len(names))
            fit(stream, dense_student(), names[key], **options)
        return names[key]

    return run_of


def all_at_once(family, images):
    """Every setting of the loop that adds to its state."""
    return {
        "optimizer": "adamw",
        "learning_rate": 0.01,
        "ema": 0.8,
        "accumulate": 2,
        "clip_norm": 0.5,
        "label_weight": 0.3,
        "class_weight": {"bee": 2.0},
        "metrics": [family.metrics.SparseTopKCategoricalAccuracy(2, name="top2")],
        "validation": images,
    }


def assert_resumes(stream, make_student, make_options, root, *, stops, epochs=3):
    """Trains at once, and stopped after the steps in `stops`; both must leave the same.

    Lives after the first begin with other weights: all has to come from the checkpoint.
    """
    fit(stream, make_student(0), root / "whole", epochs=epochs, **make_options())
    for life, num_steps in enumerate(stops):
        options = make_options()
        _, history = fit(
            stream,
            make_student(life),
            root / "cut",
            epochs=epochs,
            stop=after(num_steps),
            **options,
        )
        assert history.stopped and history.step == sum(stops[: life + 1])
    _, history = fit(stream, make_student(9), root / "cut", epochs=epochs, **make_options())
    assert not history.stopped and len(history.epochs) == epochs
    assert what_remains(root / "cut") == what_remains(root / "whole")
    names = [path.name for path in checkpoints_of(root / "cut")]
    assert len(names) == 2 and names[-1] == checkpoints_of(root / "whole")[-1].name
    return history


def test_with_averages_accumulation_metrics_and_class_weights(stream, images, family, tmp_path):
    history = assert_resumes(
        stream,
        lambda seed: restless_student(family, seed=seed, dropout_seed=4 + seed),
        lambda: all_at_once(family, images),
        tmp_path,
        stops=(1, 2),
    )
    assert history.last["top2"] is not None and history.last["val_top2"] is not None
    tensors = tensors_of(checkpoints_of(tmp_path / "cut")[-1])
    kinds = ["random_states", "counters", "weights", "optimizer", "sums"]
    assert all(any(kind in name for name in tensors) for kind in kinds)
    students = [load_model(tmp_path / run / "student.keras") for run in ("cut", "whole")]
    assert same_weights(*students)


def test_with_xla(stream, images, tmp_path):
    assert_resumes(
        stream,
        lambda seed: restless_student(tf_keras, seed=seed),
        lambda: {**all_at_once(tf_keras, images), "jit": "on"},
        tmp_path,
        stops=(3,),
    )


def test_another_seed_of_what_is_dropped_is_another_run(stream, family, tmp_path):
    """Or else the lives above, each with a seed of its own, would prove nothing."""
    for seed in (4, 77):
        student = restless_student(family, dropout_seed=seed)
        fit(stream, student, tmp_path / str(seed), epochs=1, optimizer="sgd")
    assert what_remains(tmp_path / "4") != what_remains(tmp_path / "77")


def spoiling_layer(family, number):
    """Makes image `number` of `draw_image` NaN."""

    class Spoiling(family.layers.Layer):
        def call(self, inputs):
            is_it = tf.reduce_all(inputs[..., :1] == number, axis=(1, 2, 3), keepdims=True)
            return tf.where(is_it, np.nan, inputs)

    return Spoiling()


def test_with_steps_that_are_left_out(stream, tmp_path):
    history = assert_resumes(
        stream,
        lambda seed: restless_student(
            tf_keras, seed=seed, first=(spoiling_layer(tf_keras, number=14),)
        ),
        lambda: {"optimizer": "sgd", "on_nonfinite": "skip"},
        tmp_path,
        stops=(1, 4),
    )
    lines = [(tmp_path / run / "nonfinite.jsonl").read_text() for run in ("cut", "whole")]
    assert lines[0] == lines[1]
    steps = [json.loads(line) for line in lines[0].splitlines()]
    assert len(steps) == 3 and history.step == 12, "once an epoch"
    assert {step["images"][0]["key"] for step in steps} == {"bee/00014.png"}


def test_too_many_in_a_row_are_counted_over_a_stop(stream, tmp_path):
    """Six before, and the eleventh is the one too many."""

    def student():
        spoil = tf_keras.layers.Rescaling(np.nan)
        return restless_student(tf_keras, first=(spoil,))

    options = {"optimizer": "sgd", "on_nonfinite": "skip"}
    fit(stream, student(), tmp_path / "run", epochs=9, stop=after(6), **options)
    with pytest.raises(NonFiniteError, match=r"of step 10 is not .*\n(.*\n)*.*the 11th step in a"):
        fit(stream, student(), tmp_path / "run", epochs=9, **options)


def test_with_a_loss_scale(stream, family, tmp_path):
    """It doubles after every third step, so that count and scale must both be saved."""

    def student(seed):
        with precision("mixed_float16"):
            return restless_student(family, seed=seed)

    def options():
        inner = family.optimizers.SGD(0.01, momentum=0.9)
        scaling = family.mixed_precision.LossScaleOptimizer
        return {"optimizer": scaling(inner, initial_scale=16.0, dynamic_growth_steps=3)}

    assert_resumes(stream, student, options, tmp_path, stops=(4, 1))
    tensors = tensors_of(checkpoints_of(tmp_path / "cut")[-1])
    assert any(array.size == 1 and float(array) == 16.0 * 2**4 for array in tensors.values())


def plateau(family):
    """A stop that is near, and a learning rate that is halved after every epoch but the first:
    nothing gets better by so much."""
    callbacks = family.callbacks
    return [
        callbacks.EarlyStopping("loss", patience=30, mode="min", restore_best_weights=True),
        callbacks.ReduceLROnPlateau(
            "loss", factor=0.5, patience=1, min_delta=1e3, min_lr=1e-9, mode="min"
        ),
    ]


def found_out(callbacks):
    """What these callbacks know by now."""
    stopping, reducing = callbacks
    known = [float(stopping.best), stopping.wait, stopping.best_epoch]
    known += [float(reducing.best), reducing.wait, reducing.cooldown_counter]
    return known, [weight.tobytes() for weight in stopping.best_weights]


def test_with_callbacks_that_remember(stream, family, tmp_path):
    """An own optimizer, whose learning rate they set; stopped at the end of an epoch and in two."""
    whole, cut = tmp_path / "whole", tmp_path / "cut"

    def train(run, *, seed=0, stop=None):
        callbacks = plateau(family)
        optimizer = family.optimizers.SGD(0.1, momentum=0.9)
        options = {"optimizer": optimizer, "callbacks": callbacks, "stop": stop}
        fit(stream, dense_student(family, seed=seed), run, epochs=4, **options)
        return callbacks

    expected = train(whole)
    for stop in (4, 2, 3):
        train(cut, stop=after(stop))
    assert found_out(train(cut, seed=5)) == found_out(expected)
    assert what_remains(cut) == what_remains(whole)
    rates = [float(row["learning_rate"]) for row in metrics_of(cut)]
    assert rates == pytest.approx([0.1, 0.1, 0.05, 0.025]), "as in the epoch, before its end"


def test_a_learning_rate_that_is_set_as_an_epoch_begins_is_set_once(stream, family, tmp_path):
    def options():
        lower = family.callbacks.LearningRateScheduler(lambda epoch, rate: rate * 0.5)
        return {"optimizer": family.optimizers.SGD(0.4), "callbacks": [lower]}

    def student(seed):
        return dense_student(family, seed=seed)

    assert_resumes(stream, student, options, tmp_path, stops=(4, 2))
    rates = [float(row["learning_rate"]) for row in metrics_of(tmp_path / "cut")]
    assert rates == pytest.approx([0.2, 0.1, 0.05])


def test_the_same_distiller_resumes_after_its_learning_rate_was_set(stream, tmp_path):
    """As when a cell of a notebook is run again."""

    def distiller():
        optimizer = tf_keras.optimizers.SGD(0.1, momentum=0.9)
        return Distiller(dense_student(), optimizer=optimizer, steps_per_call=1, jit="off")

    def train(distiller, run, **options):
        callbacks = plateau(tf_keras)
        return distiller.fit(
            stream, epochs=4, run=run, callbacks=callbacks, progress=False, **options
        )

    train(distiller(), tmp_path / "whole")
    ours = distiller()
    assert train(ours, tmp_path / "cut", stop=after(13)).stopped
    assert float(ours.recipe.optimizer.learning_rate) < 0.1
    train(ours, tmp_path / "cut")
    assert what_remains(tmp_path / "cut") == what_remains(tmp_path / "whole")


def test_a_metric_that_waits_for_its_first_batch_is_saved_too(stream, family, tmp_path):
    assert_resumes(
        stream,
        lambda seed: dense_student(family, seed=seed),
        lambda: {"optimizer": "sgd", "metrics": [family.metrics.F1Score("macro", name="f1")]},
        tmp_path,
        stops=(2,),
        epochs=1,
    )


def test_a_metric_of_several_numbers_is_refused(stream, family):
    metric = family.metrics.F1Score(name="f1")
    with pytest.raises(OptionError, match=r"'f1' returns numbers of shape \[3\], "):
        fit(stream, dense_student(family), None, metrics=[metric])


def test_a_run_that_a_callback_ended_stays_ended_and_says_so(stream, tmp_path, capsys):
    class Ending(tf_keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            self.model.stop_training = True

    fit(stream, dense_student(), tmp_path / "run", callbacks=[Ending()])
    before = snapshot(tmp_path / "run")
    _, history = fit(stream, dense_student(seed=9), tmp_path / "run", progress=True)
    assert (len(history.epochs), history.step) == (1, 4) and not history.stopped
    assert capsys.readouterr().err == (
        "a callback ended this run after epoch 1; start again with `--no-resume`\n"
    )
    assert snapshot(tmp_path / "run") == before


def test_an_image_that_was_skipped_before_a_stop_is_listed_at_the_end(shared, tmp_path):
    """In a run of one epoch it is not met again."""
    shutil.copytree(shared[0], tmp_path / "broken")
    (tmp_path / "broken" / "bee" / "00014.png").write_bytes(b"no image")
    images = scan(tmp_path / "broken")

    def stream():
        options = {"image_size": (8, 8), "batch_size": 8, "shuffle": False, "on_bad": "skip"}
        return join(images, None, **options)

    options = {"label_weight": 1.0, "optimizer": "sgd", "epochs": 1}
    _, whole = fit(stream(), dense_student(), tmp_path / "whole", **options)
    fit(stream(), dense_student(), tmp_path / "cut", stop=after(3), **options)
    _, history = fit(stream(), dense_student(), tmp_path / "cut", **options)
    assert history.num_skipped == whole.num_skipped == 1
    lists = [(tmp_path / run / "skipped.jsonl").read_text() for run in ("cut", "whole")]
    assert lists[0] == lists[1] and '"bee/00014.png"' in lists[0]


# Other streams, and what may change between two lives.


STREAMS = {
    "balance": {"balance": True},
    "views per decode": {"views_per_decode": 2},
    "independent views": {"augment": "independent", "views": Views(1, flip=True)},
    "missing logits": {"missing": "label"},
}


@pytest.mark.filterwarnings("ignore::UserWarning")  # of images without logits, of other views
@pytest.mark.parametrize("kind", STREAMS)
def test_a_run_resumes_in_every_kind_of_stream(kind, tmp_path):
    """Classes are uneven; every life has a stream of its own, as a process has."""
    images = scan(draw_directory(tmp_path / "images", {"ant": 13, "bee": 7, "cat": 10}))
    taught = images.select(np.arange(0, 30, 2)) if kind == "missing logits" else images
    views = {"views": Views(2, flip=True)} if kind == "views per decode" else {}
    options = {"image_size": (8, 8), "progress": False, **views}
    store = teach(taught, EncodingTeacher(), tmp_path / "teacher.h5", **options)

    def stream():
        return join(images, store, batch_size=8, seed=3, progress=False, **STREAMS[kind])

    options = {"epochs": 2, "label_weight": 0.5}
    fit(stream(), dense_student(), tmp_path / "whole", **options)
    _, history = fit(stream(), dense_student(), tmp_path / "cut", stop=after(5), **options)
    assert history.stopped and history.step == 5
    fit(stream(), dense_student(seed=9), tmp_path / "cut", **options)
    assert what_remains(tmp_path / "cut") == what_remains(tmp_path / "whole")


@pytest.mark.parametrize("change", ["deleted", "grown"])
def test_a_run_resumes_with_a_disk_cache_that_changed_meanwhile(images, store, change, tmp_path):
    folder = tmp_path / "cache"

    def stream():
        options = {"cache": "disk", "cache_directory": folder, "progress": False}
        return join(images, store, batch_size=8, seed=3, **options)

    fit(stream(), dense_student(), tmp_path / "whole")
    shutil.rmtree(folder)
    fit(stream(), dense_student(), tmp_path / "cut", stop=after(2))
    if change == "deleted":
        shutil.rmtree(folder)
    else:
        for _ in stream().batches(0, 4):
            pass
    fit(stream(), dense_student(seed=9), tmp_path / "cut")
    assert what_remains(tmp_path / "cut") == what_remains(tmp_path / "whole")


def test_a_run_resumes_with_another_number_of_steps_between_checkpoints(stream, whole, tmp_path):
    options = {"optimizer": "sgd", "epochs": 2}
    run = tmp_path / "run"
    fit(stream, dense_student(), run, save_every=3, stop=after(4), **options)
    fit(stream, dense_student(seed=9), run, save_every=5, stop=after(2), **options)
    assert [path.name for path in checkpoints_of(run)] == ["step-0000000005", "step-0000000006"]
    fit(stream, dense_student(seed=8), run, **options)
    assert what_remains(run) == what_remains(whole(**options))


# When a run is saved, and which of its files count.


def test_a_run_is_saved_every_so_many_steps(stream, tmp_path, monkeypatch):
    steps = []
    real = RunDirectory.write_config
    monkeypatch.setattr(
        RunDirectory,
        "write_config",
        lambda self, config: (real(self, config), steps.append(next_step(self))),
    )

    def next_step(run):
        (path,) = run.checkpoints.glob("*.tmp")
        return int(path.name.removesuffix(".tmp").split("-")[1])

    fit(stream, dense_student(), tmp_path / "run", optimizer="sgd", epochs=2, save_every=3)
    assert steps == [3, 4, 6, 8]
    steps.clear()
    options = {"optimizer": "sgd", "epochs": 2, "save_every": 3, "steps_per_call": 32}
    fit(stream, dense_student(), tmp_path / "several", **options)
    assert steps == [3, 4, 6, 8]


def test_a_run_is_saved_after_so_many_seconds(stream, whole, tmp_path, monkeypatch):
    monkeypatch.setattr(pacing, "SAVE_SECS", -1.0)
    options = {"optimizer": "sgd", "epochs": 2}
    with pytest.raises(KilledError):
        fit(stream, dense_student(), tmp_path / "run", stop=raising(KilledError, 3), **options)
    assert [path.name for path in checkpoints_of(tmp_path / "run")] == [
        "step-0000000001",
        "step-0000000002",
    ]
    monkeypatch.setattr(pacing, "SAVE_SECS", 600.0)
    fit(stream, dense_student(seed=3), tmp_path / "run", **options)
    assert what_remains(tmp_path / "run") == what_remains(whole(**options))


def raising(error, num_calls):
    """Returns a `stop` for `fit` that raises at that call of it."""
    stop = after(num_calls)

    def raise_if():
        if stop():
            raise error
        return False

    return raise_if


def test_an_interrupt_saves_and_is_raised_in_a_script_and_returns_in_a_notebook(
    stream, whole, tmp_path, monkeypatch
):
    options = {"optimizer": "sgd", "epochs": 2}
    with pytest.raises(KeyboardInterrupt):
        fit(
            stream, dense_student(), tmp_path / "cut", stop=raising(KeyboardInterrupt, 2), **options
        )
    assert [path.name for path in checkpoints_of(tmp_path / "cut")] == ["step-0000000002"]
    monkeypatch.setattr(sys, "ps1", ">>> ", raising=False)
    _, history = fit(
        stream, dense_student(), tmp_path / "cut", stop=raising(KeyboardInterrupt, 3), **options
    )
    assert (history.stopped, history.step, len(history.epochs)) == (True, 5, 1)
    assert checkpoints_of(tmp_path / "cut")[-1].name == "step-0000000005"
    _, history = fit(stream, dense_student(), tmp_path / "cut", **options)
    assert not history.stopped
    assert what_remains(tmp_path / "cut") == what_remains(whole(**options))


def test_an_interrupt_between_two_epochs_resumes_from_the_checkpoint_before(
    stream, images, tmp_path, monkeypatch
):
    """The end of an epoch is done once, or not at all."""

    def options():
        return {"optimizer": "sgd", "validation": images, "save_every": 3}

    whole, cut = tmp_path / "whole", tmp_path / "cut"
    fit(stream, dense_student(), whole, **options())
    real = Validation.run

    def interrupted(self, *arguments):
        real(self, *arguments)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Validation, "run", interrupted)
        with pytest.raises(KeyboardInterrupt):
            fit(stream, dense_student(), cut, **options())
    assert [path.name for path in checkpoints_of(cut)] == ["step-0000000003"]
    fit(stream, dense_student(), cut, **options())
    assert what_remains(cut) == what_remains(whole)


@pytest.mark.parametrize("method", ["save_student", "write_metrics"])
def test_a_kill_after_the_last_checkpoint_hands_over_that_student_also_from_a_copy(
    stream, whole, tmp_path, method
):
    """In a copy all files are equally new."""
    options = {"optimizer": "sgd", "epochs": 2, "ema": 0.5}
    with killed(RunDirectory, method, call=2):
        fit(stream, dense_student(), tmp_path / "killed", **options)
    shutil.copytree(tmp_path / "killed", tmp_path / "copy", copy_function=shutil.copyfile)
    fit(stream, dense_student(seed=9), tmp_path / "copy", **options)
    assert what_remains(tmp_path / "copy") == what_remains(whole(**options))
    runs = tmp_path / "copy", whole(**options)
    assert same_weights(*(load_model(run / "student.keras") for run in runs))


def test_a_finished_run_hands_back_its_averages(stream, tmp_path):
    options = {"optimizer": "sgd", "ema": 0.9, "epochs": 1}
    first, _ = fit(stream, dense_student(), tmp_path / "run", **options)
    before = snapshot(tmp_path / "run")
    again, _ = fit(stream, dense_student(seed=7), tmp_path / "run", **options)
    assert same_weights(again.student, first.student)
    assert same_weights(load_model(tmp_path / "run" / "student.keras"), first.student)
    assert snapshot(tmp_path / "run") == before


def test_a_stop_at_the_end_of_an_epoch_and_its_end_are_two_checkpoints(stream, tmp_path):
    """Neither is written over the other: a kill meanwhile would leave none."""
    options = {"optimizer": "sgd", "epochs": 2}
    fit(stream, dense_student(), tmp_path / "run", stop=after(STEPS_AN_EPOCH), **options)
    assert [path.name for path in checkpoints_of(tmp_path / "run")] == ["step-0000000004"]
    assert not (tmp_path / "run" / "metrics.csv").exists()
    fit(stream, dense_student(), tmp_path / "run", stop=after(1), **options)
    assert [path.name for path in checkpoints_of(tmp_path / "run")] == [
        "step-0000000004-2",
        "step-0000000005",
    ]
    assert len(metrics_of(tmp_path / "run")) == 1


def test_epochs_without_a_step_of_their_own_resume_too(images, store, tmp_path):
    """One batch is an epoch, and three are a step: the second and third epoch take none."""
    stream = join(images, store, batch_size=30)
    options = {"optimizer": "sgd", "accumulate": 3, "epochs": 4}
    fit(stream, dense_student(), tmp_path / "whole", **options)
    with killed(RunDirectory, "save_student", call=3):
        fit(stream, dense_student(), tmp_path / "cut", **options)
    assert [path.name for path in checkpoints_of(tmp_path / "cut")] == ["step-0000000001-3"]
    _, history = fit(stream, dense_student(), tmp_path / "cut", **options)
    assert [epoch["step"] for epoch in history.epochs] == [1, 1, 1, 2]
    assert what_remains(tmp_path / "cut") == what_remains(tmp_path / "whole")


# Damage, and what a resumed run is compared with.


@pytest.fixture(scope="module")
def begun(stream, images, tmp_path_factory):
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
    ("label_smoothing", {"label_smoothing": 0.1}),
    ("on_nonfinite", {"on_nonfinite": "skip"}),
    ("jit", {"jit": "on"}),
    ("epochs", {"epochs": 5}),
    ("class_weights", {"class_weight": {"ant": 2.0}}),
    ("metrics", {"metrics": ["sparse_categorical_crossentropy"]}),
]
# Settings that a resumed run need not repeat: the last bits are the same with any of them.
FREE = {"steps_per_call"}


@pytest.mark.parametrize(("name", "options"), OTHERWISE, ids=lambda value: str(value)[:40])
def test_a_run_does_not_resume_with_another_option(stream, run, name, options):
    before = snapshot(run)
    with pytest.raises(ResumeError, match=rf"{run} was started with another {name}\.\n") as info:
        fit(stream, dense_student(), run, **{**begun_with(), **options})
    _, was, now, advice = str(info.value).splitlines()
    assert was.startswith("  run: ") and now.startswith("  now: ") and "`--no-resume`" in advice
    assert was[7:] != now[7:]
    assert snapshot(run) == before


def test_every_option_is_held_against_the_run():
    assert {name for name, _ in OTHERWISE} >= {
        field.name for field in dataclasses.fields(Recipe)
    } - FREE


def test_a_run_does_not_resume_with_other_validation_images(stream, images, run):
    with pytest.raises(ResumeError, match="started with another validation"):
        fit(stream, dense_student(), run, validation=images, **begun_with())


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
    """What the comparisons above rest on."""
    tensors = tensors_of(checkpoints_of(begun / "whole")[-1])
    assert len(tensors) > 8
    for name, array in tensors.items():
        changed = {**tensors, name: np.array(array + 1)}
        assert digest_of(changed) != digest_of(tensors), name

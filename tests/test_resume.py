"""A run that is stopped anywhere and resumed ends as the run that never stopped: to the bit."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import tensorflow as tf
import tf_keras
from helpers import EncodingTeacher, draw_directory
from resume_helpers import (
    after,
    checkpoints_of,
    fit,
    metrics_of,
    restless_student,
    tensors_of,
    what_remains,
)
from run_helpers import SAME_LINES_FOR_BOTH, dense_student, same_weights, snapshot

from streamkd.errors import NonFiniteError
from streamkd.manifest.manifest import scan
from streamkd.models.families import load_model
from streamkd.models.precision import precision
from streamkd.stream.join import join
from streamkd.teachers.teach import teach
from streamkd.training.distiller import Distiller
from streamkd.views.views import Views


@pytest.fixture(scope="module")
def images(shared):
    return scan(shared[0])


@pytest.fixture(scope="module")
def store(shared):
    return shared[1]


@pytest.fixture(scope="module")
def stream(images, store):
    return join(images, store, batch_size=8, seed=3)


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


@pytest.mark.parametrize(
    ("family", "jit", "stops"),
    [
        ("tf_keras", "off", (3,)),
        ("keras", "off", (1,)),
        # XLA changes no line of what is saved, and a third life none of how.
        pytest.param("tf_keras", "on", (3,), marks=pytest.mark.slow),
        pytest.param("tf_keras", "off", (1, 2), marks=pytest.mark.slow),
        pytest.param("keras", "off", (1, 2), marks=pytest.mark.slow),
    ],
    indirect=["family"],
)
def test_with_averages_accumulation_metrics_and_class_weights(
    stream, images, family, jit, stops, tmp_path
):
    history = assert_resumes(
        stream,
        lambda seed: restless_student(family, seed=seed, dropout_seed=4 + seed),
        lambda: {**all_at_once(family, images), "jit": jit},
        tmp_path,
        stops=stops,
    )
    assert history.last["top2"] is not None and history.last["val_top2"] is not None
    tensors = tensors_of(checkpoints_of(tmp_path / "cut")[-1])
    kinds = ["random_states", "counters", "weights", "optimizer", "sums"]
    assert all(any(kind in name for name in tensors) for kind in kinds)
    students = [load_model(tmp_path / run / "student.keras") for run in ("cut", "whole")]
    assert same_weights(*students)


@SAME_LINES_FOR_BOTH
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
        stops=(5,),
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


@SAME_LINES_FOR_BOTH
def test_with_a_loss_scale(stream, family, tmp_path):
    """It doubles after every third step, so that count and scale must both be saved."""

    def student(seed):
        with precision("mixed_float16"):
            return restless_student(family, seed=seed)

    def options():
        inner = family.optimizers.SGD(0.01, momentum=0.9)
        scaling = family.mixed_precision.LossScaleOptimizer
        return {"optimizer": scaling(inner, initial_scale=16.0, dynamic_growth_steps=3)}

    assert_resumes(stream, student, options, tmp_path, stops=(4,))
    tensors = tensors_of(checkpoints_of(tmp_path / "cut")[-1])
    assert any(array.size == 1 and float(array) == 16.0 * 2**4 for array in tensors.values())


def plateau(family):
    """A stop that keeps the weights of the first epoch, where the loss is largest; and a learning
    rate that is halved after every epoch but the first: nothing gets better by so much."""
    callbacks = family.callbacks
    return [
        callbacks.EarlyStopping("loss", patience=30, mode="max", restore_best_weights=True),
        callbacks.ReduceLROnPlateau(
            "loss", factor=0.5, patience=1, min_delta=1e3, min_lr=1e-9, mode="min"
        ),
    ]


def memory_of(callbacks):
    """Returns the numbers that the callbacks of `plateau` remember from epoch to epoch."""
    stopping, reducing = callbacks
    known = [float(stopping.best), stopping.wait, stopping.best_epoch]
    known += [float(reducing.best), reducing.wait, reducing.cooldown_counter]
    return known, [weight.tobytes() for weight in stopping.best_weights]


@SAME_LINES_FOR_BOTH
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
    assert memory_of(train(cut, seed=5)) == memory_of(expected)
    assert what_remains(cut) == what_remains(whole)
    rates = [float(row["learning_rate"]) for row in metrics_of(cut)]
    assert rates == pytest.approx([0.1, 0.1, 0.05, 0.025]), "as in the epoch, before its end"


@SAME_LINES_FOR_BOTH
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


@SAME_LINES_FOR_BOTH
def test_a_metric_that_waits_for_its_first_batch_is_saved_too(stream, family, tmp_path):
    assert_resumes(
        stream,
        lambda seed: dense_student(family, seed=seed),
        lambda: {"optimizer": "sgd", "metrics": [family.metrics.F1Score("macro", name="f1")]},
        tmp_path,
        stops=(2,),
        epochs=1,
    )


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
    "balance and missing logits": {"balance": True, "missing": "label"},
    "views per decode": {"views_per_decode": 2},
    "independent views": {"augment": "independent", "views": Views(1, flip=True)},
}


@pytest.mark.filterwarnings("ignore::UserWarning")  # of images without logits, of other views
@pytest.mark.parametrize("kind", STREAMS)
def test_a_run_resumes_in_every_kind_of_stream(kind, tmp_path):
    """Classes are uneven; every life has a stream of its own, as a process has."""
    images = scan(draw_directory(tmp_path / "images", {"ant": 13, "bee": 7, "cat": 10}))
    taught = images.select(np.arange(0, 30, 2)) if "missing" in STREAMS[kind] else images
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


def test_a_run_resumes_with_a_disk_cache_that_changed_meanwhile(images, store, tmp_path):
    """Deleted or grown."""
    folder = tmp_path / "cache"

    def stream():
        options = {"cache": "disk", "cache_directory": folder, "progress": False}
        return join(images, store, batch_size=8, seed=3, **options)

    fit(stream(), dense_student(), tmp_path / "whole")
    shutil.rmtree(folder)
    fit(stream(), dense_student(), tmp_path / "cut", stop=after(2))
    shutil.copytree(tmp_path / "cut", tmp_path / "other")
    for _ in stream().batches(0, 4):
        pass
    fit(stream(), dense_student(seed=9), tmp_path / "cut")
    shutil.rmtree(folder)
    fit(stream(), dense_student(seed=9), tmp_path / "other")
    for run in ("cut", "other"):
        assert what_remains(tmp_path / run) == what_remains(tmp_path / "whole"), run

"""Stock Keras callbacks: what they hear, do and write is what they do under Keras' own `fit`.

Both train the same student on the same batches from labels alone, with losses and metrics of
streamkd here and of Keras there.
"""

from __future__ import annotations

import csv
import importlib
import zipfile

import numpy as np
import pytest
import tensorflow as tf
from run_helpers import SAME_LINES_FOR_BOTH, averages_of, dense_student, same_weights, weights_of

from streamkd.errors import NonFiniteError, OptionError
from streamkd.manifest.manifest import scan
from streamkd.models.families import FAMILIES, load_model
from streamkd.stream.join import join
from streamkd.training.callback_checks import check_callbacks
from streamkd.training.distiller import Distiller
from streamkd.training.keras_callbacks import KerasCallbacks

BATCH_SIZE = 10
STEPS = 3  # an epoch, of 30 images
HOOKS = tuple(
    f"on_{what}_{when}"
    for what in ("train", "epoch", "train_batch", "test", "test_batch")
    for when in ("begin", "end")
)
pytestmark = [
    # Of Keras 3, about the stream in its own `fit`.
    pytest.mark.filterwarnings("ignore:.shuffle=True. was passed:UserWarning"),
    # Of tf_keras, about one of the formats that a callback may be told to write.
    pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5 file:UserWarning"),
]


@pytest.fixture
def directory(shared):
    return shared[0]


@pytest.fixture(scope="module")
def stream(shared):
    return join(scan(shared[0]), shared[1], batch_size=BATCH_SIZE, seed=3)


def linear(family):
    return dense_student(family, activation=None)


def checked(callbacks, family):
    return check_callbacks(callbacks, FAMILIES[family.__name__])


def keras_callbacks(callbacks, student, optimizer, family, *, epochs=1):
    return KerasCallbacks(callbacks, student, optimizer, FAMILIES[family.__name__], epochs=epochs)


def recorder(family):
    """A callback that writes down every call: hook, number or None, logs, learning rate."""

    def hook(name):
        def record(self, *arguments, logs=None):
            *number, given = (*arguments, logs) if logs is not None else arguments or (None,)
            rate = self.model.optimizer.learning_rate
            rate = float(np.asarray(rate(0) if callable(rate) else rate))
            self.calls.append((name, *number, dict(given or {}), rate))

        return record

    body = {name: hook(name) for name in HOOKS}
    callback = type("Recorder", (family.callbacks.Callback,), body)()
    callback.calls = []
    return callback


def fitted(stream, directory, family, callbacks, *, optimizer, epochs):
    """A student trained by its own `fit`: eagerly, as tracing it takes longer than these steps."""
    model = linear(family)
    loss = family.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer, loss=loss, metrics=["accuracy"], run_eagerly=True)
    validation = family.utils.image_dataset_from_directory(
        directory, image_size=(8, 8), shuffle=False, batch_size=BATCH_SIZE
    )
    batches = stream.dataset(0, epochs * STEPS).map(lambda x, y, w: (x, y["labels"][:, 0]))
    options = {"epochs": epochs, "steps_per_epoch": STEPS, "verbose": 0, "callbacks": callbacks}
    model.fit(batches, validation_data=validation, **options)
    return model


def distilled(stream, callbacks, *, epochs, student, run=None, validation=True, **options):
    """The history of a student trained by streamkd from labels alone."""
    distiller = Distiller(student, label_weight=1, jit="off", **options)
    images = stream.images if validation else None
    return distiller.fit(
        stream, epochs=epochs, validation=images, run=run, callbacks=callbacks, progress=False
    )


def compare_calls(ours, of_fit):
    """Asserts that the same hooks heard the same numbers, and at least the same logs."""
    assert [call[:-2] for call in ours] == [call[:-2] for call in of_fit]
    for (*call, logs, rate), (*_, expected, rate_of_fit) in zip(ours, of_fit, strict=True):
        assert rate == pytest.approx(rate_of_fit, rel=1e-5), call
        heard = {name: logs[name] for name in expected if name in logs}
        assert heard == pytest.approx(expected, rel=1e-4, abs=1e-6), call
        # The learning rate is added by those that set it.
        more = {"label_loss", "distillation_loss", "agreement", "lr", "learning_rate"}
        assert set(logs) - set(expected) <= more, call


def predictions(model, stream):
    images = next(iter(stream.batches(0, 1)))[0]
    return np.asarray(model(images))


ALL_EPOCHS = 2


@pytest.fixture(scope="module", params=["tf_keras", "keras"])
def both(request, shared, tmp_path_factory):
    """One training of each kind with all callbacks that do not end it: the family, a folder with
    the files of each, the callbacks of each, the history, the stream."""
    family = importlib.import_module(request.param)
    root = tmp_path_factory.mktemp(request.param)
    stream = join(scan(shared[0]), shared[1], batch_size=BATCH_SIZE, seed=3)
    callbacks = {name: all_callbacks(family, root / name) for name in ("fit", "ours")}
    fitted(
        *(stream, shared[0], family, callbacks["fit"]),
        optimizer=family.optimizers.SGD(0.04),
        epochs=ALL_EPOCHS,
    )
    history = distilled(
        *(stream, callbacks["ours"]),
        student=linear(family),
        optimizer="sgd",
        learning_rate=0.04,
        epochs=ALL_EPOCHS,
        run=root / "run",
    )
    return family, root, callbacks, history, stream


def all_callbacks(family, folder):
    folder.mkdir()
    keras = family.callbacks
    heard = []
    best = {"monitor": "val_accuracy", "save_best_only": True}
    callbacks = [
        recorder(family),
        keras.LearningRateScheduler(lambda epoch, rate: rate * 0.5),
        keras.ModelCheckpoint(str(folder / "epoch-{epoch}-{val_loss:.3f}.keras")),
        keras.ModelCheckpoint(str(folder / "batch-{epoch}-{batch}.keras"), save_freq=2),
        keras.ModelCheckpoint(str(folder / "{epoch}.weights.h5"), save_weights_only=True),
        keras.ModelCheckpoint(str(folder / "best.keras"), **best),
        keras.CSVLogger(str(folder / "log.csv")),
        keras.LambdaCallback(
            on_train_batch_end=lambda batch, logs: heard.append((batch, logs["loss"]))
        ),
        recorder(family),
    ]
    if family.__name__ == "tf_keras":
        callbacks.append(keras.ModelCheckpoint(str(folder / "{epoch}.h5")))
    callbacks[0].heard = heard
    return callbacks


class TestOneOfEach:
    def test_every_hook_hears_what_it_hears_under_fit(self, both):
        _, _, callbacks, _, _ = both
        for index in (0, 8):
            compare_calls(callbacks["ours"][index].calls, callbacks["fit"][index].calls)
        num_calls = len(callbacks["ours"][0].calls)
        assert num_calls == 2 + ALL_EPOCHS * (2 + 2 * STEPS + 2 + 2 * STEPS)

    def test_parameters_are_those_of_fit(self, both):
        _, _, callbacks, _, _ = both
        ours, of_fit = (callbacks[name][0].params for name in ("ours", "fit"))
        assert ours == of_fit == {"verbose": 0, "epochs": ALL_EPOCHS, "steps": STEPS}

    def test_a_lambda_on_batches_hears_every_single_one(self, both):
        _, _, callbacks, _, _ = both
        ours, of_fit = (callbacks[name][0].heard for name in ("ours", "fit"))
        assert [batch for batch, _ in ours] == list(range(STEPS)) * ALL_EPOCHS
        np.testing.assert_allclose(ours, of_fit, rtol=1e-4)

    def test_the_learning_rate_is_what_the_scheduler_says(self, both):
        _, root, _, history, _ = both
        expected = [0.02, 0.01]
        assert history.history["learning_rate"] == pytest.approx(expected)
        with open(root / "run" / "metrics.csv", newline="") as lines:
            rows = list(csv.DictReader(lines))
        assert [float(row["learning_rate"]) for row in rows] == pytest.approx(expected)
        assert "lr" not in rows[0] and "lr" not in history.epochs[0]

    def test_the_files_of_model_checkpoint_are_those_of_fit(self, both):
        family, root, _, _, stream = both
        names = {name: sorted(p.name for p in (root / name).iterdir()) for name in ("ours",)}
        names["fit"] = sorted(p.name for p in (root / "fit").iterdir())
        assert names["ours"] == names["fit"]
        files = [name for name in names["ours"] if not name.endswith((".csv", ".weights.h5"))]
        num_files = {"tf_keras": 2 * ALL_EPOCHS, "keras": ALL_EPOCHS}[family.__name__]
        assert len(files) == num_files + ALL_EPOCHS * STEPS // 2 + 1
        for name in files:
            ours, of_fit = (
                family.models.load_model(root / which / name) for which in ("ours", "fit")
            )
            answers, expected = (predictions(model, stream) for model in (ours, of_fit))
            np.testing.assert_allclose(answers, expected, atol=1e-5, err_msg=name)

    def test_weights_alone_are_loaded_by_keras(self, both):
        family, root, _, _, stream = both
        for epoch in range(1, ALL_EPOCHS + 1):
            models = [linear(family), linear(family)]
            for model, which in zip(models, ("ours", "fit"), strict=True):
                model.load_weights(root / which / f"{epoch}.weights.h5")
            answers, expected = (predictions(model, stream) for model in models)
            np.testing.assert_allclose(answers, expected, atol=1e-5)
        assert same_weights(models[0], load_model(root / "run" / "student.keras"))

    def test_saved_models_hold_no_optimizer_that_the_student_does_not_have(self, both, tmp_path):
        _, root, _, _, _ = both
        for path in (root / "run" / "student.keras", root / "ours" / "best.keras"):
            assert load_model(path).weights and not optimizer_names(path, tmp_path)

    def test_csv_logger_writes_the_same_numbers(self, both):
        _, root, _, _, _ = both
        rows = {}
        for which in ("ours", "fit"):
            with open(root / which / "log.csv", newline="") as lines:
                rows[which] = list(csv.DictReader(lines))
        assert len(rows["ours"]) == ALL_EPOCHS
        for ours, of_fit in zip(rows["ours"], rows["fit"], strict=True):
            numbers = {name: float(ours[name]) for name in of_fit}
            expected = {name: float(value) for name, value in of_fit.items()}
            assert numbers == pytest.approx(expected, rel=1e-4, abs=1e-6)


def optimizer_names(path, folder):
    """Returns the names in a saved model's file that belong to an optimizer."""
    import h5py

    with zipfile.ZipFile(path) as parts:
        weights = parts.extract("model.weights.h5", folder)
    names = []
    with h5py.File(weights) as file:
        file.visit(names.append)
    return [name for name in names if name.startswith("optimizer/vars/")]


def events_of(folder):
    """The scalars that TensorBoard would show, by (part, tag, step)."""
    events = {}
    for path in sorted(folder.rglob("*tfevents*")):
        for record in tf.data.TFRecordDataset(str(path)):
            event = tf.compat.v1.Event.FromString(record.numpy())
            for value in event.summary.value:
                array = tf.make_ndarray(value.tensor)
                if array.dtype == np.float32 and array.shape == ():
                    part = path.parent.name.partition(".")[0]
                    events[part, value.tag, event.step] = float(array)
    return events


def test_tensorboard_shows_what_it_shows_under_fit(stream, directory, family, tmp_path):
    events = {}
    for which in ("ours", "fit"):
        callbacks = [
            family.callbacks.TensorBoard(str(tmp_path / which), update_freq=2, histogram_freq=1),
            # tf_keras forgets TensorBoard where nobody else wants batches.
            family.callbacks.LambdaCallback(on_train_batch_end=lambda *_, **__: None),
        ]
        if which == "fit":
            optimizer = family.optimizers.SGD(0.01)
            fitted(stream, directory, family, callbacks, optimizer=optimizer, epochs=2)
        else:
            options = {"student": linear(family), "optimizer": "sgd", "learning_rate": 0.01}
            distilled(stream, callbacks, epochs=2, schedule="constant", **options)
        events[which] = events_of(tmp_path / which)
    shared = {key: events["ours"].get(key) for key in events["fit"]}
    assert shared == pytest.approx(events["fit"], rel=1e-4)
    tags = {tag for _, tag, _ in events["ours"]}
    assert {"epoch_loss", "evaluation_loss_vs_iterations"} <= tags
    steps = {step for _, tag, step in events["ours"] if tag == "batch_loss"}
    assert steps == {2, 4, 6}


@SAME_LINES_FOR_BOTH
def test_early_stopping_stops_and_restores_as_under_fit(stream, directory, family, tmp_path):
    """The student gets worse from the third epoch on, as its learning rate is then negative."""

    def callbacks():
        keras = family.callbacks
        return [
            keras.LearningRateScheduler(lambda epoch: 0.04 if epoch < 2 else -0.04),
            keras.EarlyStopping("val_accuracy", patience=50),
            keras.EarlyStopping("val_loss", patience=2, restore_best_weights=True),
            recorder(family),
        ]

    of_fit, ours = callbacks(), callbacks()
    model = fitted(
        stream, directory, family, of_fit, optimizer=family.optimizers.SGD(0.04), epochs=9
    )
    student, run = linear(family), tmp_path / "run"
    options = {"student": student, "optimizer": "sgd", "learning_rate": 0.04, "run": run}
    history = distilled(stream, ours, epochs=9, **options)
    assert ours[2].stopped_epoch == of_fit[2].stopped_epoch == 3
    assert len(history.epochs) == 4 and not history.stopped
    compare_calls(ours[3].calls, of_fit[3].calls)
    for weight, expected in zip(weights_of(student), weights_of(model), strict=True):
        np.testing.assert_allclose(weight, expected, atol=1e-5)
    assert np.argmin(history.history["val_loss"]) == 1, "there is something to restore"
    assert same_weights(load_model(run / "student.keras"), student)
    again = distilled(stream, callbacks(), epochs=9, **{**options, "student": linear(family)})
    assert again.epochs == history.epochs, "it is over"


@SAME_LINES_FOR_BOTH
def test_early_stopping_restores_the_averages_of_the_best_epoch(stream, family, tmp_path):
    keras, student = family.callbacks, linear(family)
    trajectory = [weights_of(student)]
    callbacks = [
        keras.LearningRateScheduler(lambda epoch: 0.04 if epoch < 2 else -0.04),
        keras.EarlyStopping("val_loss", patience=2, restore_best_weights=True),
        keras.ModelCheckpoint(str(tmp_path / "{epoch}.keras")),
        keras.LambdaCallback(
            on_train_batch_end=lambda *_, **__: trajectory.append(weights_of(student))
        ),
    ]
    options = {"optimizer": "sgd", "learning_rate": 0.04, "ema": 0.5}
    history = distilled(
        stream, callbacks, epochs=9, student=student, run=tmp_path / "run", **options
    )
    best = int(np.argmin(history.history["val_loss"])) + 1
    assert best < len(history.epochs) < 9
    expected = averages_of(family, trajectory, 0.5)[best * STEPS]
    for weight, average in zip(weights_of(student), expected, strict=True):
        np.testing.assert_allclose(weight, average, rtol=0, atol=1e-6)
    assert np.abs(trajectory[best * STEPS][0] - expected[0]).max() > 1e-4
    assert same_weights(student, load_model(tmp_path / f"{best}.keras"))
    assert same_weights(load_model(tmp_path / "run" / "student.keras"), student)


@SAME_LINES_FOR_BOTH
def test_a_plateau_lowers_the_learning_rate_as_under_fit(stream, directory, family):
    def callbacks():
        plateau = family.callbacks.ReduceLROnPlateau(
            "val_loss", factor=0.5, patience=1, min_delta=10, cooldown=1
        )
        return [plateau, recorder(family)]

    of_fit, ours = callbacks(), callbacks()
    optimizer = family.optimizers.SGD(0.04)
    fitted(stream, directory, family, of_fit, optimizer=optimizer, epochs=5)
    options = {"student": linear(family), "optimizer": "sgd", "learning_rate": 0.04}
    history = distilled(stream, ours, epochs=5, **options)
    compare_calls(ours[1].calls, of_fit[1].calls)
    # The rate that an epoch ended with, before the callback.
    assert history.history["learning_rate"] == pytest.approx([0.04, 0.04, 0.02, 0.01, 0.005])


@pytest.mark.parametrize(
    ("family", "hook", "num_steps"),
    [
        ("tf_keras", "on_train_batch_end", 2),
        pytest.param("keras", "on_train_batch_end", 2, marks=pytest.mark.slow),
        ("keras", "on_epoch_begin", STEPS + 1),
    ],
)
def test_a_callback_that_stops_is_heard_when_fit_would_hear_it(
    stream, directory, family, hook, num_steps
):
    family = importlib.import_module(family)

    def callbacks():
        record = recorder(family)

        def stop(self, number, logs=None):
            if number == 1:
                self.model.stop_training = True

        stopper = type("Stopper", (family.callbacks.Callback,), {hook: stop})()
        return [stopper] if hook == "on_epoch_begin" else [stopper, record]

    of_fit, ours = callbacks(), callbacks()
    optimizer = family.optimizers.SGD(0.04)
    model = fitted(stream, directory, family, of_fit, optimizer=optimizer, epochs=3)
    student = linear(family)
    options = {"optimizer": "sgd", "learning_rate": 0.04, "schedule": "constant"}
    history = distilled(stream, ours, epochs=3, student=student, **options)
    for weight, expected in zip(weights_of(student), weights_of(model), strict=True):
        np.testing.assert_allclose(weight, expected, atol=1e-5)
    if hook != "on_epoch_begin":
        compare_calls(ours[1].calls, of_fit[1].calls)
    assert history.step == num_steps and not history.stopped
    assert not getattr(student, "stop_training", False)


def fragile(family):
    """A student whose answers about image 17 of `helpers.draw_image` are no numbers."""

    class Fragile(family.Model):
        def __init__(self, **settings):
            super().__init__(**{"name": "fragile", **settings})
            self.flatten = family.layers.Flatten()
            self.dense = family.layers.Dense(3)

        def call(self, images):
            return self.dense(self.flatten(images / 255)) / tf.cast(
                images[:, 0, 0, :1] != 17, tf.float32
            )

    return Fragile()


@SAME_LINES_FOR_BOTH
def test_terminate_on_nan_ends_the_run_with_finite_weights(stream, family, tmp_path, capsys):
    student, record = fragile(family), recorder(family)
    callbacks = [record, family.callbacks.TerminateOnNaN()]
    options = {"optimizer": "sgd", "learning_rate": 0.01, "validation": False}
    history = distilled(stream, callbacks, epochs=3, student=student, run=tmp_path / "r", **options)
    step = next(i for i in range(STEPS) if 17 in stream.indices(i))
    assert history.step == step and len(history.epochs) == 1 and not history.stopped
    assert f"Batch {step}: Invalid loss, terminating training" in capsys.readouterr().out
    assert all(np.isfinite(weight).all() for weight in weights_of(student))
    assert np.isnan(history.last["loss"]) and (tmp_path / "r" / "student.keras").exists()
    names = [call[:-2] for call in record.calls]
    batches = [(f"on_train_batch_{when}", i) for i in range(step + 1) for when in ("begin", "end")]
    expected = [("on_train_begin",), ("on_epoch_begin", 0), *batches, ("on_epoch_end", 0)]
    assert names == [*expected, ("on_train_end",)]
    losses = [call[-2]["loss"] for call in record.calls if call[0] == "on_train_batch_end"]
    assert np.isnan(losses[-1]) and np.isfinite(losses[:-1]).all()


def test_terminate_on_nan_alone_hears_of_it_after_several_steps(stream, capsys):
    """A callback of the user's own beside it makes tf_keras measure the time of a batch."""
    family = importlib.import_module("tf_keras")
    own = type("Own", (family.callbacks.Callback,), {})()
    callbacks = [family.callbacks.TerminateOnNaN(), own]
    student = fragile(family)
    history = distilled(
        stream, callbacks, epochs=3, student=student, optimizer="sgd", validation=False
    )
    assert len(history.epochs) == 1 and "Invalid loss" in capsys.readouterr().out


def test_a_step_that_is_not_finite_is_refused_after_other_callbacks_heard_of_it(stream):
    tf_keras = importlib.import_module("tf_keras")
    record = recorder(tf_keras)
    with pytest.raises(NonFiniteError, match=r"'bee/00017\.png'"):
        distilled(stream, [record], epochs=1, student=fragile(tf_keras), validation=False)
    assert record.calls[-1][0] == "on_train_batch_end" and np.isnan(record.calls[-1][-2]["loss"])


@SAME_LINES_FOR_BOTH
def test_numbers_that_callbacks_add_are_in_history_and_metrics_csv(stream, family, tmp_path):
    def add(epoch, logs):
        logs |= {"extra": np.float32(epoch + 0.5), "words": "none", "pair": np.zeros(2)}
        logs |= {"epoch": 99, "accuracy": 0.25}
        if epoch == 1:
            logs["late"] = tf.constant(7.0)

    callbacks = [family.callbacks.LambdaCallback(on_epoch_end=add), recorder(family)]
    history = distilled(
        stream, callbacks, epochs=2, student=linear(family), run=tmp_path / "run", optimizer="sgd"
    )
    assert history.history["extra"] == [0.5, 1.5] and history.history["late"] == [None, 7.0]
    assert history.history["epoch"] == [1, 2] and history.history["accuracy"] == [0.25, 0.25]
    assert not {"words", "pair"} & set(history.last)
    with open(tmp_path / "run" / "metrics.csv", newline="") as lines:
        rows = list(csv.DictReader(lines))
    assert [row["extra"] for row in rows] == ["0.5", "1.5"]
    assert [row["late"] for row in rows] == ["", "7.0"]
    ends = [call for call in callbacks[1].calls if call[0] == "on_epoch_end"]
    assert ends[0][-2]["words"] == "none", "the next callback sees all"
    assert callbacks[1].calls[-1][-2]["late"] == 7.0, "and so does the end"


def test_callbacks_may_be_one_alone_nested_or_a_list_of_keras(family):
    keras = family.callbacks
    one, two, three = keras.EarlyStopping(), keras.TerminateOnNaN(), keras.History()
    assert checked(one, family) == [one]
    assert checked([one, [two, (three,)]], family) == [one, two, three]
    assert checked(keras.CallbackList([one, two]), family) == [one, two]
    assert checked([keras.CallbackList([one]), two], family) == [one, two]
    assert checked(None, family) == checked((), family) == []


def test_batches_come_several_at_a_time_where_nobody_wants_each(family, tmp_path):
    keras, path = family.callbacks, str(tmp_path / "file.keras")

    def wants(callback):
        return keras_callbacks([callback], linear(family), None, family, epochs=1).wants_batches

    def hook(self, batch, logs=None):
        pass

    own = type("Own", (keras.Callback,), {"on_train_batch_end": hook})
    more = type("More", (keras.ModelCheckpoint,), {"on_batch_end": hook})
    several = [keras.EarlyStopping(), keras.TerminateOnNaN(), keras.ModelCheckpoint(path)]
    several += [keras.TensorBoard(path), keras.LambdaCallback(on_epoch_end=print)]
    each = [keras.ModelCheckpoint(path, save_freq=4), keras.TensorBoard(path, update_freq="batch")]
    each += [keras.LambdaCallback(on_train_batch_begin=print), own(), more(path)]
    assert not any(map(wants, several)) and all(map(wants, each))


class TestCompiledStudent:
    """A student that the user compiled, and trained a little, stays as it was."""

    @pytest.fixture
    def compiled(self, family):
        student = linear(family)
        loss = family.losses.SparseCategoricalCrossentropy(from_logits=True)
        student.compile(family.optimizers.Adam(0.5), loss=loss, metrics=["accuracy"])
        student.fit(np.zeros((4, 8, 8, 3), np.float32), np.zeros(4), verbose=0)
        return student

    def test_it_is_trained_by_the_optimizer_of_the_run(self, stream, family, compiled, tmp_path):
        own = compiled.optimizer
        before = [np.asarray(v) for v in variables_of(own)]
        seen = []
        callbacks = [
            family.callbacks.LambdaCallback(on_epoch_end=lambda *_: seen.append(compiled.optimizer))
        ]
        run = tmp_path / "run"
        options = {"optimizer": "sgd", "learning_rate": 0.04, "run": run}
        history = distilled(stream, callbacks, epochs=2, student=compiled, **options)
        assert type(seen[0]).__name__ == "SGD"
        assert compiled.optimizer is own and compiled.stop_training is False
        for variable, expected in zip(variables_of(own), before, strict=True):
            np.testing.assert_array_equal(np.asarray(variable), expected)
        plain = linear(family)
        plain.set_weights(weights_of(compiled))
        images, targets, _ = next(iter(stream.batches(0, 1)))
        labels = targets["labels"][:, 0]
        loss, accuracy = compiled.evaluate(images, labels, verbose=0)
        expected = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, np.asarray(plain(images)))
        assert loss == pytest.approx(float(tf.reduce_mean(expected)), rel=1e-5)
        assert accuracy == pytest.approx(np.mean(np.argmax(plain(images), 1) == labels))
        assert history.last["loss"] < history.epochs[0]["loss"]
        saved = family.models.load_model(run / "student.keras")
        assert type(saved.optimizer).__name__ == "Adam" and int(saved.optimizer.iterations) == 1

    @SAME_LINES_FOR_BOTH
    def test_a_run_resumes_whichever_student_is_compiled(self, stream, family, compiled, tmp_path):
        plain, whole, other = linear(family), linear(family), linear(family)
        compiled.set_weights(weights_of(whole))
        self.fit(stream, whole, None, stop=lambda: False)
        own = family.callbacks.LambdaCallback(on_train_batch_end=lambda *_: None)
        self.fit(stream, compiled, tmp_path / "begun compiled", callbacks=[own])
        self.fit(stream, other, tmp_path / "begun compiled", stop=lambda: False)
        assert same_weights(other, whole)
        other.compile(family.optimizers.Adam(0.5), loss="mse")
        other.optimizer.build(other.trainable_variables)
        assert int(other.optimizer.iterations) == 0, "nothing of the checkpoint comes back"
        self.fit(stream, plain, tmp_path / "begun plain")
        self.fit(stream, compiled, tmp_path / "begun plain", stop=lambda: False)
        assert same_weights(compiled, whole) and int(compiled.optimizer.iterations) == 1

    def fit(self, stream, student, run, stop=lambda: True, callbacks=()):
        distiller = Distiller(student, optimizer="adam", label_weight=1, jit="off")
        options = {"epochs": 1, "run": run, "callbacks": callbacks, "progress": False}
        return distiller.fit(stream, stop=stop, **options)


def variables_of(optimizer):
    variables = optimizer.variables
    return variables() if callable(variables) else variables


def test_a_student_gets_back_what_it_had_whatever_happens(stream, family):
    student = linear(family)
    before = {name: vars(student).get(name) for name in ("optimizer", "stop_training")}

    def fail(epoch, logs):
        student.stop_training = True
        raise KeyError("the user's own")

    callbacks = [family.callbacks.LambdaCallback(on_epoch_begin=fail)]
    with pytest.raises(KeyError):
        distilled(stream, callbacks, epochs=1, student=student, optimizer="sgd")
    assert {name: vars(student).get(name) for name in before} == before


def test_a_direction_that_keras_3_settles_at_the_first_epoch_is_not_settled_again(family):
    """Else a resumed run would turn the sign of `min_delta`."""
    optimizer = family.optimizers.SGD(0.1)
    student = linear(family)
    optimizer.build(student.trainable_variables)

    def begun(saved, arrays):
        plateau = family.callbacks.ReduceLROnPlateau("val_loss", patience=1, min_delta=0.1)
        callbacks = keras_callbacks([plateau], student, optimizer, family, epochs=9)
        callbacks.train_begin(saved, arrays)
        return callbacks

    first = begun(None, {})
    first.epoch_end(0, {"val_loss": 1.0})
    second = begun(*first.state())
    second.epoch_end(1, {"val_loss": 0.95})  # better by less than 0.1
    assert float(np.asarray(optimizer.learning_rate)) == pytest.approx(0.01)


def test_a_callback_sets_the_rate_of_an_optimizer_that_scales_the_loss(family):
    student = linear(family)
    optimizer = family.mixed_precision.LossScaleOptimizer(family.optimizers.SGD(0.1))
    optimizer.build(student.trainable_variables)
    scheduler = family.callbacks.LearningRateScheduler(lambda epoch, rate: rate / 2)
    callbacks = keras_callbacks([scheduler], student, optimizer, family, epochs=2)
    callbacks.train_begin(None, {})
    callbacks.epoch_begin(0)
    assert float(np.asarray(optimizer.inner_optimizer.learning_rate)) == pytest.approx(0.05)


def test_epochs_of_different_length_have_no_number_of_steps(shared):
    family = importlib.import_module("tf_keras")
    stream = join(scan(shared[0]), shared[1], batch_size=8, seed=3)
    record = recorder(family)
    options = {"optimizer": "sgd", "validation": False}
    distilled(stream, [record], epochs=4, student=linear(family), **options)
    assert record.params["steps"] is None
    numbers = [call[1] for call in record.calls if call[0] == "on_train_batch_begin"]
    assert numbers == [0, 1, 2, 3, 0, 1, 2, 3, 0, 1, 2, 3, 0, 1, 2]


class TestRefusals:
    @pytest.mark.parametrize(("own", "other"), [("tf_keras", "keras"), ("keras", "tf_keras")])
    def test_callbacks_of_the_other_family(self, stream, own, other):
        callback = importlib.import_module(other).callbacks.EarlyStopping()
        with pytest.raises(
            OptionError,
            match=rf"EarlyStopping belongs to {other}, and the student to {own}\.\n.* {own}\.call",
        ):
            distilled(stream, [callback], epochs=1, student=linear(own))

    def test_a_class_instead_of_an_object(self, stream, family):
        callback = family.callbacks.EarlyStopping
        with pytest.raises(
            OptionError, match=r"EarlyStopping is a class\.\nGive .*: EarlyStopping\("
        ):
            distilled(stream, [callback], epochs=1, student=linear(family))

    def test_an_object_that_is_no_callback(self, stream, family):
        with pytest.raises(OptionError, match=r"The callback int belongs to builtins, and the"):
            distilled(stream, 3, epochs=1, student=linear(family))

    def test_backup_and_restore(self, stream, family, tmp_path):
        own = type("Own", (family.callbacks.BackupAndRestore,), {})
        for kind, name in ((family.callbacks.BackupAndRestore, "BackupAndRestore"), (own, "Own")):
            path = tmp_path / "backup.weights.h5"
            with pytest.raises(OptionError, match=rf"{name} sets the student back .*\n.*run='DIR"):
                distilled(stream, [kind(str(path))], epochs=1, student=linear(family))

    def test_swapping_averages(self, stream):
        keras = importlib.import_module("keras")
        callbacks = [keras.callbacks.SwapEMAWeights(swap_on_epoch=True)]
        with pytest.raises(OptionError, match=r"SwapEMAWeights exchanges .*\n.*ema=0\.999 is en"):
            distilled(stream, callbacks, epochs=1, student=linear(keras), ema=0.9)

    @pytest.mark.parametrize("name", ["ReduceLROnPlateau", "LearningRateScheduler"])
    def test_a_schedule_with_a_callback_that_sets_the_rate(self, stream, family, name):
        words = rf"follows a schedule, CosineDecay, and the callback {name} would set it\.\n"
        kind = getattr(family.callbacks, name)
        callback = kind("loss") if name == "ReduceLROnPlateau" else kind(lambda epoch: 0.1)
        student = linear(family)
        with pytest.raises(OptionError, match=words + r"Give schedule='constant' or .* leave"):
            distilled(stream, [callback], epochs=1, student=student, schedule="cosine")
        own = family.optimizers.SGD(family.optimizers.schedules.CosineDecay(0.1, 10))
        with pytest.raises(OptionError, match=words):
            distilled(stream, [callback], epochs=1, student=student, optimizer=own)

    def test_a_direction_that_nobody_knows(self, stream):
        keras = importlib.import_module("keras")
        callbacks = [keras.callbacks.EarlyStopping("val_f1")]
        with pytest.raises(
            OptionError, match=r"monitors 'val_f1', and nothing says .*\n.*mode='max'\) or mode"
        ):
            distilled(stream, callbacks, epochs=1, student=linear(keras))

    def test_the_smallest_agreement(self, family):
        keras, student = family.callbacks, linear(family)
        automatic = [keras.EarlyStopping("agreement"), keras.ReduceLROnPlateau("agreement")]
        fine = [keras.EarlyStopping("agreement", mode="max")]
        fine.append(keras.ReduceLROnPlateau("agreement", mode="max"))
        own = keras.Callback()  # which looks at it in its own way
        own.monitor = "agreement"
        checked(own, family)
        if family.__name__ == "keras":  # where it can be told
            fine, automatic = fine + automatic, []
        for callback in automatic:
            with pytest.raises(OptionError, match=r"smallest agreement\.\nGive .*mode='max'\)"):
                checked(callback, family)
        callbacks = keras_callbacks(fine, student, None, family, epochs=1)
        callbacks.train_begin(None, {})
        if family.__name__ == "keras":
            assert {callback.mode for callback in fine} == {"max"}

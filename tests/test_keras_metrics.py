"""Metrics of the user's: the numbers are NumPy's, and the names those of Keras' own `fit`."""

from __future__ import annotations

import csv
import importlib

import numpy as np
import pytest
import tensorflow as tf
from helpers import draw_directory
from run_helpers import SAME_LINES_FOR_BOTH, dense_student, in_pairs, log_softmax, softmax

from streamkd.errors import OptionError
from streamkd.manifest.manifest import scan
from streamkd.models.families import FAMILIES
from streamkd.stream.join import join
from streamkd.training.distiller import Distiller
from streamkd.training.keras_metrics import UserMetrics

# Names, with what to expect of (labels, logits, answers).
NAMES = {
    "sparse_top_k_categorical_accuracy": lambda labels, logits, answers: 1.0,  # 5 of 3
    "sparse_categorical_accuracy": lambda labels, logits, answers: right(labels, logits),
    "categorical_accuracy": lambda labels, logits, answers: right(labels, logits),
    "mse": lambda labels, logits, answers: np.mean((np.eye(3)[labels] - answers) ** 2, axis=1),
}


def right(labels, logits):
    return logits.argmax(axis=1) == labels


def top_two(labels, logits):
    own = logits[np.arange(len(labels)), labels]
    return (logits > own[:, None]).sum(axis=1) < 2


def confidence(labels, answers):
    """A metric of the user's own: a function of labels and answers."""
    return tf.reduce_max(answers, axis=1)


@pytest.fixture(scope="module")
def stream(shared):
    return join(scan(shared[0]), shared[1], batch_size=8, seed=3)


def as_logits(student, images):
    """Returns the logits of a student of one dense layer, float64."""
    kernel, bias = student.get_weights()
    return images.reshape(len(images), -1).astype(np.float64) / 255 @ kernel + bias


def fit_still(stream, student, metrics, *, family, epochs=1, **options):
    """Trains with a rate of nearly nothing: the student stands still."""
    optimizer = family.optimizers.SGD(1e-12)
    distiller = Distiller(student, optimizer=optimizer, metrics=metrics, jit="off")
    return distiller.fit(stream, epochs=epochs, progress=False, **options)


def seen(stream, epochs=1):
    """Labels and pixels of the images of the first epochs, in the order of the batches."""
    batches = list(stream.batches(0, stream.end_of_epoch(epochs)))
    labels = np.concatenate([targets["labels"][:, 0].numpy() for _, targets, _ in batches])
    return labels, np.concatenate([images.numpy() for images, _, _ in batches])


@in_pairs("activation", ("keras", "softmax"), ("tf_keras", None))  # None: logits
def test_numbers_are_those_of_numpy(stream, images, family, tmp_path, activation):
    student = dense_student(family, activation=activation)
    keras = family.metrics
    from_logits = activation is None
    metrics = [
        *NAMES,
        keras.TopKCategoricalAccuracy(2, name="top_two"),
        keras.SparseTopKCategoricalAccuracy(2, name="sparse_top_two"),
        keras.SparseCategoricalCrossentropy(from_logits=from_logits, name="entropy"),
        keras.CategoricalCrossentropy(from_logits=from_logits, name="one_hot_entropy"),
        confidence,
    ]
    run = tmp_path / "run"
    history = fit_still(stream, student, metrics, family=family, validation=images, run=run)
    every = next(iter(join(images, stream.store, batch_size=30, shuffle=False).batches(0, 1)))
    for prefix, labels, pixels in (
        ("", *seen(stream)),
        ("val_", images.labels, every[0].numpy()),
    ):
        logits = as_logits(student, pixels)
        answers = logits if from_logits else softmax(logits)
        entropy = -log_softmax(logits)[np.arange(len(labels)), labels]
        expected = {name: np.mean(of(labels, logits, answers)) for name, of in NAMES.items()}
        expected |= {"top_two": np.mean(top_two(labels, logits)), "entropy": entropy.mean()}
        expected |= {"sparse_top_two": expected["top_two"], "one_hot_entropy": entropy.mean()}
        expected |= {"confidence": answers.max(axis=1).mean()}
        expected |= {"accuracy": expected["sparse_categorical_accuracy"]}
        results = {name: history.last[prefix + name] for name in expected}
        assert results == pytest.approx(expected, rel=1e-4), prefix
    with open(run / "metrics.csv", newline="") as lines:
        row = next(csv.DictReader(lines))
    assert float(row["val_top_two"]) == history.last["val_top_two"]
    assert list(row)[:3] == ["epoch", "step", "loss"] and "confidence" in row


@SAME_LINES_FOR_BOTH
def test_every_epoch_starts_anew(stream, family):
    """Also where a metric was used before."""
    student = dense_student(family)
    metric = family.metrics.SparseCategoricalAccuracy(name="again")
    metric.update_state([0, 0, 0], np.eye(3)[[1, 1, 1]])
    history = fit_still(stream, student, [metric], family=family, epochs=2)
    assert history.history["again"] == pytest.approx(history.history["accuracy"])


@SAME_LINES_FOR_BOTH
def test_images_without_a_label_do_not_count(store, directory, images, family, tmp_path):
    student = dense_student(family)
    images.labels[::2] = -1
    stream = join(images, store, batch_size=10, seed=3)
    labels, pixels = seen(stream)
    expected = np.mean(right(labels, as_logits(student, pixels))[labels >= 0])
    names = ["sparse_categorical_accuracy", "categorical_accuracy"]
    results = fit_still(stream, student, names, family=family, validation=images).last
    for name in names:
        assert results[name] == pytest.approx(expected) == results[f"val_{name}"]
        assert results[name] == pytest.approx(results["accuracy"])


@SAME_LINES_FOR_BOTH
def test_where_no_image_has_a_label_there_is_no_number(store, directory, family):
    stream = join(scan(directory, labels=None), store, batch_size=10)
    last = fit_still(stream, dense_student(family), ["categorical_accuracy"], family=family).last
    assert last["categorical_accuracy"] is None and last["accuracy"] is None


@SAME_LINES_FOR_BOTH
def test_callbacks_hear_them_and_keras_knows_the_names(stream, images, family):
    student, heard = dense_student(family), []

    def hear(number, logs):
        heard.append(logs)

    hooks = ("on_train_batch_end", "on_test_batch_end", "on_epoch_end")
    callbacks = [
        *(family.callbacks.LambdaCallback(**{hook: hear}) for hook in hooks),
        family.callbacks.EarlyStopping("val_top", patience=9),
        family.callbacks.EarlyStopping("val_mse", patience=9),
    ]
    metrics = [family.metrics.SparseTopKCategoricalAccuracy(2, name="top"), "mse"]
    options = {"validation": images, "callbacks": callbacks}
    fit_still(stream, student, metrics, family=family, **options)
    assert all({"top", "mse"} <= set(logs) for logs in heard) and len(heard) == 4 + 4 + 1
    assert {"val_top", "val_mse"} <= set(heard[-1])
    if family.__name__ == "keras":
        assert [callback.mode for callback in callbacks[-2:]] == ["max", "min"]


def test_names_are_those_of_fit(family):
    family.backend.clear_session()  # else the second AUC of a process is called auc_1
    names = ["mse", "AUC", "categorical_accuracy", "KLDivergence", confidence]
    student = dense_student(family)
    student.compile("sgd", loss="mse", metrics=names)
    given = np.zeros((2, 8, 8, 3), np.float32), np.eye(3)[:2]
    reported = set(student.fit(*given, verbose=0).history) - {"loss"}
    assert set(made(names, family).results()) == reported


def made(metrics, family, *, probabilities=True):
    own = FAMILIES[family.__name__]
    return UserMetrics(metrics, own, probabilities=probabilities, num_classes=3)


class Failing:
    """Mixed into a metric: it takes no weights."""

    def update_state(self, truth, answers):
        super().update_state(truth, answers)


class Several:
    """Mixed into a metric: it answers with two numbers."""

    def result(self):
        total = super().result()
        return {"plain": total, "doubled": 2 * total}


@SAME_LINES_FOR_BOTH
def test_a_metric_with_several_answers_has_several_columns(stream, family):
    kind = type("Pair", (Several, family.metrics.SparseCategoricalAccuracy), {})
    last = fit_still(stream, dense_student(family), [kind()], family=family).last
    assert last["plain"] == pytest.approx(last["accuracy"])
    assert last["doubled"] == pytest.approx(2 * last["accuracy"])


@SAME_LINES_FOR_BOTH
def test_metrics_that_make_variables_late_are_counted_too(stream, family):
    """F1 does so when it is first counted, which is within the compiled loop."""
    student = dense_student(family)
    last = fit_still(stream, student, [family.metrics.F1Score("macro")], family=family).last
    labels, pixels = seen(stream)
    answers = as_logits(student, pixels).argmax(axis=1)
    scores = []
    for number in range(3):
        hits = np.sum((answers == number) & (labels == number))
        scores.append(2 * hits / (np.sum(answers == number) + np.sum(labels == number)))
    # Keras thresholds at the largest answer.
    assert last["f1_score"] == pytest.approx(np.mean(scores), rel=1e-4)


def test_a_subclass_of_a_keras_metric_is_given_the_same_as_its_base(family):
    keras = family.metrics
    kinds = {keras.TopKCategoricalAccuracy: (2, 3), keras.SparseTopKCategoricalAccuracy: (2,)}
    kinds |= {keras.Metric: (2,), keras.Mean: (2,), keras.F1Score: (2, 3)}
    for kind, shape in kinds.items():
        shapes = []

        def update_state(self, truth, answers, sample_weight=None, shapes=shapes):
            shapes.append(tuple(truth.shape))

        body = {"update_state": update_state, "result": lambda self: tf.constant(0.0)}
        made([type("Own", (kind,), body)(name="own")], family)
        assert shapes == [shape], kind


def test_accuracy_is_there_anyway(family):
    assert len(made(["accuracy", "acc"], family)) == 0
    assert set(made("mse", family).results()) == {"mse"}, "one alone will do"


class TestRefusals:
    @pytest.mark.parametrize("name", ["nonsense", "ce"])
    def test_names_that_keras_does_not_know(self, family, name):
        with pytest.raises(OptionError, match=rf"no metric '{name}' in {family.__name__}\.\nGive"):
            made([name], family)

    @pytest.mark.parametrize(("own", "other"), [("tf_keras", "keras"), ("keras", "tf_keras")])
    def test_a_metric_of_the_other_family(self, own, other):
        own, other = importlib.import_module(own), importlib.import_module(other)
        words = f"The metric AUC belongs to {other.__name__}, and the student to {own.__name__}\\."
        for given in (other.metrics.AUC(), other.metrics.AUC):
            with pytest.raises(OptionError, match=words + rf"\nGive a metric of {own.__name__}"):
                made([given], own)

    def test_an_object_that_is_no_metric(self, family):
        with pytest.raises(OptionError, match="The metric int belongs to builtins"):
            made([3], family)

    @pytest.mark.parametrize("name", ["loss", "val_loss", "step", "agreement"])
    def test_a_name_that_is_a_column(self, family, name):
        metric = family.metrics.SparseCategoricalAccuracy(name=name)
        with pytest.raises(
            OptionError,
            match=rf"called '{name}', and so is a column of metrics\.csv\.\nGive .*name=",
        ):
            made([metric], family)

    @pytest.mark.parametrize("names", [("same", "same"), ("top", "val_top"), ("val_top", "top")])
    def test_a_name_that_is_anothers(self, family, names):
        metrics = [family.metrics.SparseCategoricalAccuracy(name=name) for name in names]
        with pytest.raises(
            OptionError, match=rf"called '{names[1]}', and so is another metric\.\nGive"
        ):
            made(metrics, family)

    def test_a_metric_that_cannot_count(self, family):
        def seven(labels, answers):
            return tf.reshape(answers, [7])

        with pytest.raises(
            OptionError, match=r"'seven' cannot count the student's answers: "
        ) as info:
            made([seven], family, probabilities=False)
        assert "\n  labels:  class numbers, of shape [2]\n" in str(info.value)
        assert "\n  answers: logits, of shape [2, 3], and a weight for each image\n" in str(
            info.value
        )
        with pytest.raises(OptionError) as info:
            made([type("Own", (Failing, family.metrics.AUC), {})()], family)
        assert "update_state() takes 3 positional arguments" in str(info.value).splitlines()[0]
        assert "\n  labels:  one-hot labels, of shape [2, 3]\n" in str(info.value)
        assert "\n  answers: probabilities, of shape [2, 3], and" in str(info.value)

    @pytest.mark.filterwarnings("ignore:You are passing weight as `float`:UserWarning")
    def test_a_metric_of_other_shapes(self, family):
        with pytest.raises(OptionError, match="'mean_io_u' cannot count"):
            made([family.metrics.MeanIoU(3, name="mean_io_u")], family)
        made([family.metrics.MeanIoU(3, sparse_y_pred=False)], family)

    def test_a_metric_of_many_numbers(self, family):
        with pytest.raises(
            OptionError,
            match=r"'f1_score' returns numbers of shape \[3\].*\n.*average='macro'",
        ):
            made([family.metrics.F1Score()], family)

    def test_all_of_it_comes_before_anything_is_trained_or_written(self, stream, family, tmp_path):
        student = dense_student(family)
        before = student.get_weights()
        run = tmp_path / "run"
        with pytest.raises(OptionError, match="'f1_score' returns numbers of shape"):
            fit_still(stream, student, [family.metrics.F1Score()], family=family, run=run)
        assert not run.exists()
        assert all(map(np.array_equal, before, student.get_weights()))


@SAME_LINES_FOR_BOTH
def test_the_same_images_drawn_elsewhere_have_the_same_validation(stream, family, tmp_path):
    """Classes of the validation are matched by name, for the metrics as well."""
    other = scan(draw_directory(tmp_path / "val", {"bee": 3, "cat": 4}))
    student = dense_student(family)
    last = fit_still(
        stream, student, ["categorical_accuracy"], family=family, validation=other
    ).last
    assert last["val_categorical_accuracy"] == pytest.approx(last["val_accuracy"])

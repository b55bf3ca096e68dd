"""Keras metrics of the user's, counted beside streamkd's own.

metrics = UserMetrics(["sparse_top_k_categorical_accuracy"], tf_keras, probabilities=True,
                      num_classes=10)
metrics.update(logits, targets, weights)
metrics.results("val_")        # {'val_sparse_top_k_categorical_accuracy': 0.9}
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from streamkd.errors import OptionError
from streamkd.runs.run_directory import COLUMNS

# What streamkd counts by itself.
OWN = ("accuracy", "acc")
# Of Keras' own metrics, those that compare with class numbers; the others want one-hot labels.
INTEGER_LABEL_PREFIXES = ("Sparse", "sparse")
# Say nothing about what a metric that derives from them is to be given.
BASES = (
    *("Metric", "Mean", "Sum", "Reduce", "Layer"),
    *("MeanMetricWrapper", "SumOverBatchSize", "SumOverBatchSizeMetricWrapper"),
)
DIRECTIONS = {"up": "max", "down": "min"}


class UserMetrics:
    """Metrics of the student's own Keras family.

    Attributes:
      metrics: Keras metrics. They are given what the student answers, probabilities if it ends in
        softmax, and labels: class numbers, int32 `[batch]`, or, for Keras' own metrics that are
        not called Sparse… and those that derive from them, one-hot vectors, float32
        `[batch, num_classes]`. Images without a label do not count.

    Raises:
      OptionError: no such metric, one of the other family, one that cannot be given this or does
        not answer with a number, or a name that is taken.
    """

    def __init__(
        self, metrics: Sequence[Any], family: Any, *, probabilities: bool, num_classes: int
    ) -> None:
        """Args:
        metrics: as for `compile`: names, metrics, or functions of labels and answers.
        family: the student's.
        probabilities: whether the student ends in softmax.
        num_classes: of the student.
        """
        self._probabilities = probabilities
        given = list(metrics) if isinstance(metrics, list | tuple) else [metrics]
        asked = [m for m in given if not (isinstance(m, str) and m in OWN)]
        self.metrics = [_metric(metric, family) for metric in asked]
        self._one_hot = [_wants_one_hot(metric, family) for metric in self.metrics]
        self._names: list[str] = []
        for place, metric in enumerate(self.metrics):
            self._try(place, num_classes)
            self._names += _numbers_of(metric)
        self._check_names()

    def __len__(self) -> int:
        return len(self.metrics)

    @property
    def directions(self) -> dict[str, str]:
        """'max' or 'min' by name, of metrics that say which is better; those of Keras 3 do."""
        found = {metric.name: getattr(metric, "_direction", None) for metric in self.metrics}
        return {name: DIRECTIONS[way] for name, way in found.items() if way in DIRECTIONS}

    def update(self, logits: tf.Tensor, targets: dict, weights: tf.Tensor) -> None:
        """Counts one batch."""
        labels = targets["labels"][:, 0]
        counted = weights * tf.cast(labels >= 0, tf.float32)
        answers = tf.nn.softmax(logits) if self._probabilities else logits
        for metric, one_hot in zip(self.metrics, self._one_hot, strict=True):
            truth = tf.one_hot(labels, logits.shape[1]) if one_hot else tf.maximum(labels, 0)
            metric.update_state(truth, answers, sample_weight=counted)

    def results(self, prefix: str = "", *, counted: bool = True) -> dict[str, float | None]:
        """Returns what was counted so far, by name; None for all where nothing was `counted`."""
        if not counted:
            return dict.fromkeys(prefix + name for name in self._names)
        numbers = [item for metric in self.metrics for item in _numbers_of(metric).items()]
        return {prefix + name: float(number) for name, number in numbers}

    def reset(self) -> None:
        for metric in self.metrics:
            metric.reset_state()

    def _try(self, place: int, num_classes: int) -> None:
        """Gives a metric two images that do not count, so that it makes its variables now."""
        metric = self.metrics[place]
        # Answers as a student may give them: logits are negative as well.
        answers = tf.linspace(-1.0, 1.0, num_classes)[None] * tf.ones([2, 1])
        answers = tf.nn.softmax(answers) if self._probabilities else answers
        labels = tf.constant([0, num_classes - 1])
        truth = tf.one_hot(labels, num_classes) if self._one_hot[place] else labels
        try:
            tf.distribute.get_strategy().run(
                metric.update_state, args=(truth, answers, tf.zeros([2]))
            )
            shapes = {name: np.asarray(n).shape for name, n in _numbers_of(metric).items()}
            metric.reset_state()
        except Exception as error:
            kind = "probabilities" if self._probabilities else "logits"
            labels_kind = "one-hot labels" if self._one_hot[place] else "class numbers"
            raise OptionError(
                f"The metric {metric.name!r} cannot count what the student answers: "
                f"{_reason(error)}\n  labels:  {labels_kind}, of shape {truth.shape.as_list()}\n"
                f"  answers: {kind}, of shape {answers.shape.as_list()}; and a weight an image\n"
                "Give a metric of such labels and answers."
            ) from error
        for name, shape in shapes.items():
            if shape:
                raise OptionError(
                    f"The metric {name!r} answers with numbers of shape {list(shape)}, and a "
                    "column of metrics.csv holds one.\nGive a metric that averages over them, "
                    "such as average='macro', or one for each class."
                )

    def _check_names(self) -> None:
        taken = set(COLUMNS)
        for name in self._names:
            if not taken.isdisjoint((name, f"val_{name}")):
                what = "a column of metrics.csv" if name in COLUMNS else "another"
                raise OptionError(
                    f"A metric is called {name!r}, and so is {what}.\n"
                    "Give it another name: name='…'."
                )
            taken |= {name, f"val_{name}"}


def _reason(error: Exception) -> str:
    """Returns one line of an error that says most."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    # TensorFlow puts the user's code first, where it compiled it.
    number = -1 if lines and lines[0].startswith("in user code") else 0
    return lines[number][:300] if lines else type(error).__name__


def _numbers_of(metric: Any) -> dict[str, Any]:
    """Returns the results of a metric by name; it may have several."""
    result = metric.result()
    return dict(result) if isinstance(result, dict) else {metric.name: result}


def _wants_one_hot(metric: Any, family: Any) -> bool:
    """Returns whether a metric compares answers with one-hot labels rather than class numbers."""
    function = getattr(metric, "_fn", None)
    if type(metric).__name__ == "MeanMetricWrapper" and function is not None:
        own = _package_of(function) == family.__name__
        return own and not function.__name__.startswith(INTEGER_LABEL_PREFIXES)
    if hasattr(metric, "sparse_y_true"):  # intersection over union can be told
        return not metric.sparse_y_true
    for base in type(metric).__mro__:
        if _package_of(base) == family.__name__:
            name = base.__name__
            return name not in BASES and not name.startswith(INTEGER_LABEL_PREFIXES)
    return False


def _metric(metric: Any, family: Any) -> Any:
    """Returns a Keras metric for a name, a class, a function or a metric."""
    name = metric if isinstance(metric, str) else None
    if name is not None:
        metric = _by_name(name, family)
    if isinstance(metric, type) and issubclass(metric, family.metrics.Metric):
        metric = metric()
    if isinstance(metric, family.metrics.Metric):
        if name is not None and "name" in vars(metric):  # as `compile` of Keras 3 does
            metric.name = name
        return metric
    is_other_metric = any(base.__name__ == "Metric" for base in type(metric).__mro__)
    if callable(metric) and not isinstance(metric, type) and not is_other_metric:
        title = name or getattr(metric, "__name__", type(metric).__name__)
        return family.metrics.MeanMetricWrapper(metric, name=title)
    shown = metric if isinstance(metric, type) else type(metric)
    raise OptionError(
        f"The metric {shown.__name__} belongs to {_package_of(shown)}, and the student to "
        f"{family.__name__}.\nGive a metric of {family.__name__}."
    )


def _by_name(name: str, family: Any) -> Any:
    try:
        found = family.metrics.get(name)
    except ValueError:
        found = name
    if isinstance(found, str):  # tf_keras answers with a name that it does not know
        raise OptionError(
            f"There is no metric {name!r} in {family.__name__}.\n"
            "Give a Keras name such as sparse_top_k_categorical_accuracy, or a metric."
        )
    return found


def _package_of(thing: Any) -> str:
    return str(getattr(thing, "__module__", "")).partition(".")[0]

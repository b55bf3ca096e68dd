"""The user's Keras metrics, counted besides streamkd's own.

metrics = UserMetrics(["sparse_top_k_categorical_accuracy"], family, probabilities=True,
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
from streamkd.losses.independent_labels import truths_of
from streamkd.models.family_base import Family, package_of
from streamkd.models.reasons import keras_reason
from streamkd.runs.run_directory import COLUMNS

# Metrics that streamkd counts by itself.
OWN = ("accuracy", "acc")
# Beginnings of the names of Keras' own metrics that compare with class numbers; the others want
# one-hot labels.
INTEGER_LABEL_PREFIXES = ("Sparse", "sparse")
# Keras' base classes that do not tell which labels a metric derived from them wants.
BASES = (
    *("Metric", "Mean", "Sum", "Reduce", "Layer"),
    *("MeanMetricWrapper", "SumOverBatchSize", "SumOverBatchSizeMetricWrapper"),
)


class UserMetrics:
    """Metrics of the student's own Keras family.

    Each is given labels and the student's answers, which are probabilities if the student ends in
    softmax or sigmoid. Labels are class numbers, int32 `[batch]`; or one-hot vectors, float32
    `[batch, num_classes]`, for Keras' own metrics that are not called Sparse… and for metrics
    derived from these. Where images have several labels, labels are float32 `[batch, num_classes]`
    of ones and zeros; a single output is compared with `[batch, 1]`. Images without a label do not
    count.

    Args:
      metrics: as for `compile`: names, metrics, or functions of labels and answers.
      probabilities: whether the student ends in softmax, or in sigmoid if `sigmoid`.
      several: whether images have several labels.

    Attributes:
      metrics: Keras metrics.

    Raises:
      OptionError: the family has no such metric, the metric is of the other family, cannot be
        given these labels and answers, or does not return a number, or its name is taken.
    """

    def __init__(
        self,
        metrics: Sequence[Any],
        family: Family,
        *,
        probabilities: bool,
        num_classes: int,
        sigmoid: bool = False,
        several: bool = False,
    ) -> None:
        self._probabilities = probabilities
        self._activation = tf.nn.sigmoid if sigmoid else tf.nn.softmax
        self._as_vectors = several or num_classes == 1
        self._family = family
        given = list(metrics) if isinstance(metrics, list | tuple) else [metrics]
        wanted = [m for m in given if not (isinstance(m, str) and m in OWN)]
        self.metrics = [_metric(metric, family) for metric in wanted]
        self._one_hot = [_wants_one_hot(metric, family) for metric in self.metrics]
        self._names: list[str] = []
        for metric, one_hot in zip(self.metrics, self._one_hot, strict=True):
            self._try(metric, one_hot, num_classes)
            self._names += _results_of(metric)
        self._check_names()

    def __len__(self) -> int:
        return len(self.metrics)

    @property
    def directions(self) -> dict[str, str]:
        """The better direction, 'max' or 'min', by name; metrics of tf_keras do not tell it."""
        directions = {m.name: self._family.direction_of(m) for m in self.metrics}
        return {name: direction for name, direction in directions.items() if direction}

    def update(self, logits: tf.Tensor, targets: dict, weights: tf.Tensor) -> None:
        """Counts one batch."""
        labels = targets["labels"][:, 0]
        answers = self._activation(logits) if self._probabilities else logits
        if self._as_vectors:
            vectors = truths_of(targets, logits.shape[1])[0][:, 0]
            label_weights = weights * tf.cast(vectors[:, 0] >= 0, tf.float32)
            for metric in self.metrics:
                truth = tf.maximum(vectors, 0.0)
                metric.update_state(truth, answers, sample_weight=label_weights)
            return
        label_weights = weights * tf.cast(labels >= 0, tf.float32)
        for metric, one_hot in zip(self.metrics, self._one_hot, strict=True):
            truth = tf.one_hot(labels, logits.shape[1]) if one_hot else tf.maximum(labels, 0)
            metric.update_state(truth, answers, sample_weight=label_weights)

    def results(self, prefix: str = "", *, counted: bool = True) -> dict[str, float | None]:
        """Returns the results so far, by name; all None if no image was `counted`."""
        if not counted:
            return dict.fromkeys(prefix + name for name in self._names)
        results = [item for metric in self.metrics for item in _results_of(metric).items()]
        return {prefix + name: float(number) for name, number in results}

    def reset(self) -> None:
        for metric in self.metrics:
            metric.reset_state()

    def _try(self, metric: Any, one_hot: bool, num_classes: int) -> None:
        """Gives a metric two images that do not count, so that it makes its variables now."""
        # Like a student's answers: logits are negative as well.
        answers = tf.linspace(-1.0, 1.0, num_classes)[None] * tf.ones([2, 1])
        answers = self._activation(answers) if self._probabilities else answers
        labels = tf.constant([0, num_classes - 1])
        one_hot = one_hot or self._as_vectors
        truth = tf.one_hot(labels, num_classes) if one_hot else labels
        try:
            tf.distribute.get_strategy().run(
                metric.update_state, args=(truth, answers, tf.zeros([2]))
            )
            shapes = {name: np.asarray(n).shape for name, n in _results_of(metric).items()}
            metric.reset_state()
        except Exception as error:
            answers_kind = "probabilities" if self._probabilities else "logits"
            labels_kind = "one-hot labels" if one_hot else "class numbers"
            raise OptionError(
                f"The metric {metric.name!r} cannot count the student's answers: "
                f"{keras_reason(error)}.\n"
                f"  labels:  {labels_kind}, of shape {truth.shape.as_list()}\n"
                f"  answers: {answers_kind}, of shape {answers.shape.as_list()}, and a weight for "
                "each image\nGive a metric of such labels and answers."
            ) from error
        for name, shape in shapes.items():
            if shape:
                raise OptionError(
                    f"The metric {name!r} returns numbers of shape {list(shape)}, and a column of "
                    "metrics.csv holds one.\nGive a metric that averages over them, such as "
                    "average='macro', or one for each class."
                )

    def _check_names(self) -> None:
        taken = set(COLUMNS)
        for name in self._names:
            if not taken.isdisjoint((name, f"val_{name}")):
                owner = "a column of metrics.csv" if name in COLUMNS else "another metric"
                raise OptionError(
                    f"A metric is called {name!r}, and so is {owner}.\n"
                    "Give it another name: name='…'."
                )
            taken |= {name, f"val_{name}"}


def _results_of(metric: Any) -> dict[str, Any]:
    """Returns the results of a metric by name; a metric may have several."""
    result = metric.result()
    return dict(result) if isinstance(result, dict) else {metric.name: result}


def _wants_one_hot(metric: Any, family: Family) -> bool:
    """Returns whether a metric compares answers with one-hot labels rather than class numbers."""
    function = family.function_of(metric)
    if function is not None:
        own = family.defines(function)
        return own and not function.__name__.startswith(INTEGER_LABEL_PREFIXES)
    if hasattr(metric, "sparse_y_true"):  # an argument of intersection over union
        return not metric.sparse_y_true
    for base in type(metric).__mro__:
        if family.defines(base):
            name = base.__name__
            return name not in BASES and not name.startswith(INTEGER_LABEL_PREFIXES)
    return False


def _metric(metric: Any, family: Family) -> Any:
    """Returns a Keras metric for a name, a class, a function or a metric."""
    keras_metrics = family.keras.metrics
    name = metric if isinstance(metric, str) else None
    if name is not None:
        metric = _by_name(name, family)
    if isinstance(metric, type) and issubclass(metric, keras_metrics.Metric):
        metric = metric()
    if isinstance(metric, keras_metrics.Metric):
        if name is not None:
            family.rename_metric(metric, name)
        return metric
    is_other_metric = any(base.__name__ == "Metric" for base in type(metric).__mro__)
    if callable(metric) and not isinstance(metric, type) and not is_other_metric:
        title = name or getattr(metric, "__name__", type(metric).__name__)
        return keras_metrics.MeanMetricWrapper(metric, name=title)
    kind = metric if isinstance(metric, type) else type(metric)
    raise OptionError(
        f"The metric {kind.__name__} belongs to {package_of(kind)}, and the student to "
        f"{family.name}.\nGive a metric of {family.name}."
    )


def _by_name(name: str, family: Family) -> Any:
    try:
        metric = family.keras.metrics.get(name)
    except ValueError:
        metric = name
    if isinstance(metric, str):  # tf_keras returns a name that it does not know
        raise OptionError(
            f"There is no metric {name!r} in {family.name}.\n"
            "Give a Keras name such as sparse_top_k_categorical_accuracy, or a metric."
        )
    return metric

"""Keras metrics of the user's, counted beside streamkd's own.

metrics = UserMetrics(["sparse_top_k_categorical_accuracy"], tf_keras, probabilities=True)
metrics.update(logits, targets, weights)
metrics.results("val_")        # {'val_sparse_top_k_categorical_accuracy': 0.9}
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from streamkd.errors import OptionError
from streamkd.training.run_directory import COLUMNS

# What streamkd counts by itself.
OWN = ("accuracy", "acc")
# Of Keras' own metrics, those that compare with class numbers; the others want one-hot labels.
TAKES_NUMBERS = ("Sparse", "MeanMetricWrapper", "SumOverBatchSize")


class UserMetrics:
    """Metrics of the student's own Keras family.

    Attributes:
      metrics: Keras metrics. They are given what the student answers, probabilities if it ends in
        softmax, and labels: class numbers, int32 `[batch]`, or, for Keras' own metrics that are
        not called Sparse…, one-hot vectors, float32 `[batch, num_classes]`. Images without a label
        do not count.

    Raises:
      OptionError: no such metric, one of the other family, or a name that is taken.
    """

    def __init__(self, metrics: Sequence[Any], family: Any, *, probabilities: bool) -> None:
        """Args: `probabilities`, whether the student ends in softmax."""
        self._family = family
        self._probabilities = probabilities
        asked = [metric for metric in metrics if metric not in OWN]
        self.metrics = [_metric(metric, family) for metric in asked]
        names = [metric.name for metric in self.metrics]
        for place, name in enumerate(names):
            if name in COLUMNS or f"val_{name}" in COLUMNS or name in names[:place]:
                raise OptionError(
                    f"A metric is called {name!r}, and so is "
                    f"{'another' if name in names[:place] else 'a column of metrics.csv'}.\n"
                    "Give it another name: name='…'."
                )

    def __len__(self) -> int:
        return len(self.metrics)

    def build(self, num_classes: int) -> None:
        """Makes the variables of metrics that wait for their first batch: a checkpoint holds only
        what is there.

        Raises:
          OptionError: a metric that is not one number.
        """
        if not all(metric.variables for metric in self.metrics):
            nothing = tf.zeros([1, num_classes]), {"labels": tf.constant([[-1]])}, tf.zeros([1])
            tf.distribute.get_strategy().run(self.update, args=nothing)
            self.reset()
        for metric in self.metrics:
            shape = list(metric.result().shape)
            if shape:
                raise OptionError(
                    f"The metric {metric.name!r} is {shape} numbers, and metrics.csv has one "
                    "column for it.\nGive a metric that is one number, such as an average over "
                    "the classes: average='macro'."
                )

    def update(self, logits: tf.Tensor, targets: dict, weights: tf.Tensor) -> None:
        """Counts one batch."""
        labels = targets["labels"][:, 0]
        counted = weights * tf.cast(labels >= 0, tf.float32)
        answers = tf.nn.softmax(logits) if self._probabilities else logits
        for metric in self.metrics:
            if self._wants_one_hot(metric):
                truth = tf.one_hot(labels, logits.shape[1])
            else:
                truth = tf.maximum(labels, 0)
            metric.update_state(truth, answers, sample_weight=counted)

    def results(self, prefix: str = "") -> dict[str, float]:
        """Returns what was counted, by name, and starts anew."""
        found = {prefix + metric.name: float(metric.result()) for metric in self.metrics}
        self.reset()
        return found

    def reset(self) -> None:
        for metric in self.metrics:
            metric.reset_state()

    def _wants_one_hot(self, metric: Any) -> bool:
        kind = type(metric)
        own = kind.__module__.partition(".")[0] == self._family.__name__
        return own and not kind.__name__.startswith(TAKES_NUMBERS)


def _metric(metric: Any, family: Any) -> Any:
    """Returns a Keras metric for a name or an object."""
    if isinstance(metric, str):
        try:
            metric = family.metrics.get(metric)
        except ValueError as error:
            raise OptionError(
                f"There is no metric {metric!r} in {family.__name__}.\n"
                "Give a Keras name such as sparse_top_k_categorical_accuracy, or a metric."
            ) from error
        if isinstance(metric, type):
            metric = metric()
        elif not isinstance(metric, family.metrics.Metric):
            metric = family.metrics.MeanMetricWrapper(metric, name=metric.__name__)
    if isinstance(metric, family.metrics.Metric):
        return metric
    package = type(metric).__module__.partition(".")[0]
    raise OptionError(
        f"The metric {type(metric).__name__} belongs to {package}, and the student to "
        f"{family.__name__}.\nGive a metric of {family.__name__}."
    )

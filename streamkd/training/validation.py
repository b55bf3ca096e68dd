"""The student's accuracy and label loss on validation images, after every epoch.

validation = Validation(logits_model, images, class_names=stream.class_names, ...)
validation.run()        # {"val_loss": 0.41, "val_accuracy": 0.93}
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from streamkd.errors import OptionError
from streamkd.image_options import ImageOptions
from streamkd.losses.distillation import label_loss
from streamkd.losses.independent_labels import binary_label_loss, label_accuracy, truths_of
from streamkd.manifest.class_names import renumber, several_labels
from streamkd.manifest.manifest import Manifest
from streamkd.stream.evaluation_batches import each_once, evaluation_batches
from streamkd.stream.stream import Stream
from streamkd.tf_support.autograph import converted
from streamkd.training.batch_source import BatchSource
from streamkd.training.distribution import Workers
from streamkd.training.keras_metrics import UserMetrics


def _nothing(*_: Any) -> None: ...


class Validation:
    """Labelled images on which the student is evaluated after every epoch.

    Args:
      model: answers images with logits.
      images: labelled; their classes are matched by name.
      class_names: the classes in the order of the logits.
      options, batch_size: of the stream.
      metrics: the user's, the same objects as in training; reset before and after a validation.
      workers: each takes a part of the images.
      loss_kind: 'kl', or 'bce' for independent labels.
      batches_of: returns the batches of the images, as `evaluation_batches` does.

    Raises:
      OptionError: the images have no labels, or the store has no class names.
      ClassNamesError: the student does not know a class of the images.
    """

    def __init__(
        self,
        model: Any,
        images: Manifest,
        *,
        class_names: list[str] | None,
        options: ImageOptions,
        batch_size: int,
        metrics: UserMetrics | None = None,
        workers: Workers | None = None,
        loss_kind: str = "kl",
        batches_of: Callable[..., Any] = evaluation_batches,
    ) -> None:
        if images.class_names is None:
            raise OptionError(
                f"The validation images {images!r} have no labels.\n"
                "Give a directory with one folder of images a class."
            )
        if class_names is None:
            raise OptionError(
                "The store was taught without class names, so the labels of the validation images "
                "cannot be matched with the student's outputs.\nLeave validation out, or teach a "
                "store with `--class-names`."
            )
        labels = renumber(images.labels, images.class_names, class_names, "the student")
        self._loss_kind = loss_kind
        self._several = several_labels(images, class_names, "the student", len(class_names))
        self.images = images
        self.options = options
        self._workers = workers or Workers(tf.distribute.get_strategy())
        worker_slice = self._workers.worker_slice
        self.batch_size = -(-min(batch_size, len(images)) // worker_slice.num_pieces)
        self.labels = tf.constant(labels)
        self.batches = batches_of(images, options, self.batch_size, worker_slice)
        self._answer = converted(model)
        self._metrics = metrics
        self._sums = tf.function(self._sums_of_all, autograph=False)

    def run(
        self,
        before: Callable[[int], None] = _nothing,
        after: Callable[[int, Callable[[], dict[str, Any]]], None] = _nothing,
    ) -> dict[str, float | None]:
        """Returns `val_loss`, `val_accuracy`, and the user's metrics with `val_`.

        The loss is the cross-entropy at temperature 1, in nats; of independent labels the binary
        cross-entropy, averaged over the labels. Images without a label do not
        count; without any labelled image all metrics are None.

        Args:
          before: called before each batch with its number, from 0.
          after: called after it with its number and a function that returns the metrics so far.
        """
        total = np.zeros(3)
        if self._metrics is not None:
            self._metrics.reset()
        worker_slice = self._workers.worker_slice
        pieces = each_once(self.batches, self.images, self.options, self.batch_size, worker_slice)
        for number, first in enumerate(pieces):
            before(number)
            own = [first, *(next(pieces) for _ in range(worker_slice.num_replicas - 1))]
            total += self._sums(self._workers.on_replicas(own)).numpy()
            after(number, functools.partial(self._numbers, total))
        results = self._numbers(self._workers.everyones(total.tolist()).sum(axis=0))
        if self._metrics is not None:
            self._metrics.reset()
        return results

    def _numbers(self, total: np.ndarray) -> dict[str, float | None]:
        """Returns the metrics from the sums of loss, right answers and images."""
        results: dict[str, float | None] = {"val_loss": None, "val_accuracy": None}
        if total[2]:
            loss, accuracy = (total[:2] / total[2]).tolist()
            results = {"val_loss": loss, "val_accuracy": accuracy}
        if self._metrics is not None:
            results |= self._metrics.results("val_", counted=bool(total[2]))
        return results

    def _sums_of_all(self, pieces: Any) -> tf.Tensor:
        """Returns the sums over this worker's replicas, each of which has one piece."""
        strategy = self._workers.strategy
        sums = strategy.run(self._sums_of, args=(pieces,))
        return tf.add_n(strategy.experimental_local_results(sums))

    def _sums_of(self, piece: Any) -> tf.Tensor:
        """Returns a piece's sums of loss, right answers and images; the user's metrics count it."""
        images, _, indices, weights = piece
        logits = tf.cast(self._answer(images, training=False), tf.float32)
        labels = tf.gather(self.labels, indices)
        targets = {"labels": labels[:, None], "label_shares": tf.ones_like(weights)[:, None]}
        if self._several is not None:
            targets["multi_hot"] = tf.gather(tf.constant(self._several), indices)[:, None]
        if self._metrics is not None:
            self._metrics.update(logits, targets, weights)
        if self._loss_kind == "bce":
            return _sums_of_labels(logits, targets, weights)
        weights *= tf.cast(labels >= 0, tf.float32)
        losses = label_loss(labels[:, None], tf.ones_like(weights)[:, None], logits)
        answers = tf.argmax(logits, axis=1, output_type=tf.int32)
        correct = tf.cast(answers == labels, tf.float32)
        parts = (losses, correct, tf.ones_like(weights))
        return tf.stack([tf.reduce_sum(weights * part) for part in parts])


def _sums_of_labels(logits: tf.Tensor, targets: dict, weights: tf.Tensor) -> tf.Tensor:
    """Returns a piece's sums of loss, right answers and images, for independent labels."""
    truths, shares = truths_of(targets, logits.shape[1])
    weights *= tf.cast(truths[:, 0, 0] >= 0, tf.float32)
    losses = binary_label_loss(truths, shares, logits)
    correct = label_accuracy(truths, targets, logits)
    parts = (losses, correct, tf.ones_like(weights))
    return tf.stack([tf.reduce_sum(weights * part) for part in parts])


def validation_of(
    images: Manifest | None,
    model: Any,
    stream: Stream,
    metrics: UserMetrics,
    workers: Workers,
    loss_kind: str,
    source: BatchSource,
) -> Validation | None:
    """Returns the validation of a student that learns from a stream; None without images."""
    if images is None:
        return None
    return Validation(
        model,
        images,
        class_names=stream.class_names,
        options=stream.options,
        batch_size=stream.batch_size,
        metrics=metrics if len(metrics) else None,
        workers=workers,
        loss_kind=loss_kind,
        batches_of=source.validation_batches,
    )

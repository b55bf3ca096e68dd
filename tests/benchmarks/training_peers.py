"""The peers of the training loop: a loop written by hand, and `fit`; and the students of all.

Every contender has the same loss at the same temperature and label weight, the same optimizer, and
the same student, which starts from the same weights.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from typing import Any

import common
import numpy as np
import tensorflow as tf

import streamkd as kd

TEMPERATURE, LABEL_WEIGHT, LEARNING_RATE = 4.0, 0.1, 1e-3
SEED = 1
# Parts compiled with XLA: none; forward and gradient; the update; both in one.
OFF, GRADIENTS, UPDATE, STEP = "off", "gradients", "update", "step"


@dataclasses.dataclass(frozen=True)
class Student:
    """A student and the batches it is measured on.

    Attributes:
      name: as on the command line.
      image_shape: height, width, channels.
      num_classes, batch_size: of the batches.
      steps_per_call: steps in one call of any compiled loop.
      build_layers: takes a Keras family and pixels from 0 to 1, and returns logits.
    """

    name: str
    image_shape: tuple[int, int, int]
    num_classes: int
    batch_size: int
    steps_per_call: int
    build_layers: Callable[[Any, Any, int], Any]

    def build(self, family: Any) -> Any:
        """Returns the model, which takes pixels from 0 to 255; always with the same weights."""
        family.utils.set_random_seed(SEED)
        inputs = family.layers.Input(self.image_shape)
        pixels = family.layers.Rescaling(1 / 255)(inputs)
        outputs = self.build_layers(family, pixels, self.num_classes)
        return family.Model(inputs, outputs, name=self.name)

    def batch(self) -> tuple[tf.Tensor, dict[str, tf.Tensor], tf.Tensor]:
        """Returns a batch in the stream's format, of random numbers."""
        random = np.random.default_rng(SEED)
        size, num_classes = self.batch_size, self.num_classes
        labels = random.integers(0, num_classes, size).astype(np.int32)
        targets = {
            "labels": tf.constant(np.stack([labels, labels], axis=1)),
            "label_shares": tf.constant([[1.0, 0.0]] * size),
            "teacher_logits": tf.constant(random.standard_normal((size, num_classes), np.float32)),
            "rows": tf.range(size, dtype=tf.int64),
        }
        pixels = random.uniform(0, 255, (size, *self.image_shape)).astype(np.float32)
        return tf.constant(pixels), targets, tf.ones([size])


def mlp(family: Any, pixels: Any, num_classes: int) -> Any:
    pixels = family.layers.Flatten()(pixels)
    for _ in range(2):
        pixels = family.layers.Dense(800, activation="relu")(pixels)
    return family.layers.Dense(num_classes)(pixels)


def small_cnn(family: Any, pixels: Any, num_classes: int) -> Any:
    for filters in (16, 32):
        pixels = family.layers.Conv2D(filters, 3, padding="same", activation="relu")(pixels)
        pixels = family.layers.MaxPool2D()(pixels)
    return family.layers.Dense(num_classes)(family.layers.Flatten()(pixels))


def strided_cnn(family: Any, pixels: Any, num_classes: int) -> Any:
    for filters in (8, 16):
        convolution = family.layers.Conv2D(filters, 3, 2, padding="same", activation="relu")
        pixels = convolution(pixels)
    pixels = family.layers.Dense(64, activation="relu")(family.layers.Flatten()(pixels))
    return family.layers.Dense(num_classes)(pixels)


def normalised_cnn(family: Any, pixels: Any, num_classes: int) -> Any:
    for filters in (32, 64, 128):
        pixels = family.layers.Conv2D(filters, 3, padding="same", use_bias=False)(pixels)
        pixels = family.layers.ReLU()(family.layers.BatchNormalization()(pixels))
        pixels = family.layers.MaxPool2D()(pixels)
    pixels = family.layers.GlobalAveragePooling2D()(pixels)
    return family.layers.Dense(num_classes)(pixels)


def mobilenet(family: Any, pixels: Any, num_classes: int) -> Any:
    shape = tuple(pixels.shape[1:])
    model = family.applications.MobileNetV2(
        shape, weights=None, classes=num_classes, classifier_activation=None
    )
    return model(pixels)


STUDENTS = {
    student.name: student
    for student in (
        Student("mnist-mlp", (28, 28, 1), 10, 128, 32, mlp),
        Student("mnist-cnn", (28, 28, 1), 10, 128, 32, small_cnn),
        # So small that the loop's own work shows most.
        Student("mnist-tiny", (28, 28, 1), 10, 128, 32, strided_cnn),
        Student("cifar-cnn", (32, 32, 3), 10, 128, 32, normalised_cnn),
        Student("mobilenet", (96, 96, 3), 1000, 32, 8, mobilenet),
    )
}


def adam(family: Any) -> Any:
    return family.optimizers.Adam(LEARNING_RATE)


class BareLoop:
    """A loop as one writes it by hand for arrays in memory: the loss, and nothing else.

    Args:
      model: answers with logits.
      optimizer: of its family.
      jit: the part that XLA compiles: 'off', 'gradients', 'update' or 'step'.
    """

    def __init__(self, model: Any, optimizer: Any, jit: str) -> None:
        self._model, self._optimizer = model, optimizer
        optimizer.build(model.trainable_variables)
        # None instead of False, which a compiled outer function would not accept.
        self._gradients = tf.function(self._loss_gradients, jit_compile=jit == GRADIENTS or None)
        self._update = tf.function(self._apply, jit_compile=jit == UPDATE or None)
        self._step = tf.function(self._take_step, jit_compile=jit == STEP or None)
        self.run = tf.function(self._run)
        self.run_rows = tf.function(self._run_rows)

    @property
    def num_updates(self) -> int:
        return int(self._optimizer.iterations)

    def _run(self, iterator: Any, num_steps: tf.Tensor) -> tf.Tensor:
        """Takes some steps with batches in the stream's format and returns the sum of losses."""
        total = tf.constant(0.0)
        for _ in tf.range(num_steps):
            images, targets, _ = next(iterator)
            total += self._step(images, targets["labels"][:, 0], targets["teacher_logits"])
        return total

    def _run_rows(
        self, images: tf.Tensor, labels: tf.Tensor, teacher_logits: tf.Tensor, rows: tf.Tensor
    ) -> tf.Tensor:
        """Takes a step for each row of `rows`, int64 `[steps, batch]`, and returns as `run`.

        Args:
          images: uint8 `[images, height, width, channels]`.
          labels: int32 `[images]`.
          teacher_logits: float32 `[images, classes]`.
          rows: which images are in each batch.
        """
        total = tf.constant(0.0)
        for step in tf.range(tf.shape(rows)[0]):
            chosen = rows[step]
            total += self._step(
                tf.cast(tf.gather(images, chosen), tf.float32),
                tf.gather(labels, chosen),
                tf.gather(teacher_logits, chosen),
            )
        return total

    def _take_step(
        self, images: tf.Tensor, labels: tf.Tensor, teacher_logits: tf.Tensor
    ) -> tf.Tensor:
        loss, gradients = self._gradients(images, labels, teacher_logits)
        self._update(gradients)
        return loss

    def _apply(self, gradients: list[tf.Tensor]) -> None:
        self._optimizer.apply_gradients(
            zip(gradients, self._model.trainable_variables, strict=True)
        )

    def _loss_gradients(
        self, images: tf.Tensor, labels: tf.Tensor, teacher_logits: tf.Tensor
    ) -> tuple[tf.Tensor, list[tf.Tensor]]:
        with tf.GradientTape() as tape:
            loss = bare_loss(labels, teacher_logits, self._model(images, training=True))
        return loss, tape.gradient(loss, self._model.trainable_variables)


def bare_loss(labels: tf.Tensor, teacher_logits: tf.Tensor, student_logits: tf.Tensor) -> tf.Tensor:
    """Returns the mean loss of a batch, as in textbooks."""
    on_labels = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, student_logits)
    teacher_log = tf.nn.log_softmax(teacher_logits / TEMPERATURE)
    student_log = tf.nn.log_softmax(student_logits / TEMPERATURE)
    divergence = tf.reduce_sum(tf.exp(teacher_log) * (teacher_log - student_log), axis=-1)
    on_teacher = TEMPERATURE**2 * divergence
    return tf.reduce_mean(LABEL_WEIGHT * on_labels + (1 - LABEL_WEIGHT) * on_teacher)


def compile_for_fit(model: Any, family: Any, **settings: Any) -> None:
    """Compiles a model for packed targets.

    Args:
      settings: `jit_compile` and `steps_per_execution`; none of them for `fit` as it is.
    """
    loss = kd.packed_loss(temperature=TEMPERATURE, label_weight=LABEL_WEIGHT)
    model.compile(adam(family), loss=loss, **settings)


def epoch_clock(
    family: Any,
    num_images: int,
    *,
    rest_secs: float = 0.0,
    after: Callable[[], None] = lambda: None,
) -> Any:
    """Returns a callback whose `epochs` holds the time of every epoch, from its begin to its end.

    Args:
      family: of the model.
      num_images: of an epoch.
      rest_secs: CPU time counts so much longer, until as many batches are prepared ahead as when
        the epoch began; these seconds of wall time do not count.
      after: called after each epoch, when no time counts.
    """

    class EpochClock(family.callbacks.Callback):
        def __init__(self) -> None:
            super().__init__()
            self.epochs: list[common.Taken] = []

        def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
            self._clock = common.Clock()

        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            wall = self._clock.taken().wall
            time.sleep(rest_secs)
            self.epochs.append(common.Taken(wall, self._clock.taken().cpu, num_images))
            after()

    return EpochClock()

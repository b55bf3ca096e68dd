"""The loop: trains a student on a stream, epoch after epoch, and hands back an ordinary model.

distiller = Distiller(student, optimizer="adamw", temperature=4.0, label_weight=0.1)
history = distiller.fit(stream, epochs=30, validation=scan("photos/val"), run="runs/first")
distiller.student.save("student.keras")     # the user's own model, at temperature 1
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import sys
import time
from typing import Any

import numpy as np
import tensorflow as tf

from streamkd.errors import NonFiniteError, OptionError, RunBusyError, StudentError
from streamkd.images import preprocessing
from streamkd.images.manifest import Manifest
from streamkd.keras_family import family_name, family_of
from streamkd.options import check_count, check_positive, check_share
from streamkd.progress import image_progress
from streamkd.store import disk
from streamkd.stream.stream import Stream
from streamkd.teachers.heads import logits_model
from streamkd.teachers.probing import are_probabilities
from streamkd.training.checkpoint import Checkpoints
from streamkd.training.optimizers import build_optimizer, learning_rate_of
from streamkd.training.run_directory import RunDirectory
from streamkd.training.step import SUMS, TrainingSteps, metrics_of
from streamkd.training.validation import Validation

LABELS_ALONE = 1.0


@dataclasses.dataclass
class History:
    """What came of `fit`.

    Attributes:
      epochs: one dict an epoch, with the columns of metrics.csv.
      run: the run directory, or None.
      num_skipped: images that could not be decoded, or were changed, in the whole run; they are
        listed in its skipped.jsonl.
    """

    epochs: list[dict[str, Any]]
    run: str | None = None
    num_skipped: int = 0

    @property
    def history(self) -> dict[str, list]:
        """The same by metric, as Keras' `History.history`."""
        names = self.epochs[0] if self.epochs else {}
        return {name: [epoch.get(name) for epoch in self.epochs] for name in names}

    @property
    def last(self) -> dict[str, Any]:
        """The metrics of the last epoch."""
        return self.epochs[-1] if self.epochs else {}


class Distiller:
    """Trains a student from stored logits and labels.

    Args:
      student: a Keras model with one output; a final softmax is read as logits and kept.
      optimizer: name of a Keras optimizer, or an optimizer of the student's own family, which is
        used as it is.
      learning_rate: the highest; with an optimizer given by name it rises over the first
        twentieth of the steps and falls to zero along a cosine.
      temperature: positive; of teacher and student alike in the distillation loss.
      label_weight: share of the label loss, 0 to 1; 1 learns from labels alone.
      student_preprocess: what the student expects to have been done to pixels; becomes its first
        layers, so that `distiller.student` takes pixels from 0 to 255.
      jit: compile forward and gradient with XLA.
      steps_per_call: steps in one call of the compiled loop.

    Attributes:
      student: the model that is being trained.

    Raises:
      StudentError: the student's outputs are probabilities that cannot be traced to logits.
      OptionError: a number out of range.
    """

    def __init__(
        self,
        student: Any,
        *,
        optimizer: Any = "adamw",
        learning_rate: float = 1e-3,
        temperature: float = 4.0,
        label_weight: float = 0.1,
        student_preprocess: str = "none",
        jit: bool = False,
        steps_per_call: int = 16,
    ) -> None:
        check_positive("temperature", temperature)
        check_share("label_weight", label_weight)
        check_positive("learning_rate", learning_rate)
        check_count("steps_per_call", steps_per_call)
        self.family = family_of(student)
        self.student = self._on_pixels(student, student_preprocess)
        self.optimizer = optimizer
        self.learning_rate = learning_rate
        self.student_preprocess = student_preprocess
        self.temperature = float(temperature)
        self.label_weight = float(label_weight)
        self.jit = jit
        self.steps_per_call = steps_per_call
        self._logits = logits_model(self.student)
        if self._logits.removed == "sigmoid":
            raise StudentError(
                f"The student {self.student.name!r} ends in sigmoid, and this loss compares "
                "softmax distributions.\nEnd it in softmax, or without activation."
            )

    def fit(
        self,
        stream: Stream,
        *,
        epochs: int,
        validation: Manifest | None = None,
        run: str | os.PathLike | None = None,
        resume: bool = True,
        progress: bool = True,
    ) -> History:
        """Trains for `epochs` epochs, or goes on where a run was stopped.

        Args:
          stream: what `join` returned.
          epochs: how often every image is seen, counted from the beginning of the run.
          validation: labelled images that the student is tried on after every epoch.
          run: directory for student.keras, metrics.csv, config.json and checkpoints.
          resume: go on from the newest checkpoint in `run`; False starts over.
          progress: show images per second and the time left on standard error.

        Raises:
          StudentError: the student does not fit the stream.
          ResumeError: the run was started with other data or options.
          NonFiniteError: the loss is no longer a finite number.
          OutputError, DiskFullError: the run cannot be written.

        Before the first epoch is saved, `run` is left as it was found.
        """
        check_count("epochs", epochs)
        if stream.store is None and self.label_weight != LABELS_ALONE:
            raise OptionError(
                f"label_weight is {self.label_weight:g}, and the stream has no teacher logits.\n"
                "Join the images with a store, or learn from labels alone: label_weight=1."
            )
        if self.label_weight == LABELS_ALONE and not (stream.labels >= 0).any():
            raise OptionError(
                "label_weight is 1, and none of the images has a label that counts, so that there "
                "is nothing to learn.\nGive images in one folder a class, or a smaller "
                "`--label-weight`."
            )
        self._check_head(stream)
        self._check_fits(stream)
        return _Fit(self, stream, epochs, validation, run).train(resume, progress)

    def _on_pixels(self, student: Any, preprocess: str) -> Any:
        if preprocess == "none":
            return student
        parsed = preprocessing.parse(preprocess, student.input_shape[-1])
        return preprocessing.with_preprocessing(student, parsed, self.family)

    def _check_head(self, stream: Stream) -> None:
        """Refuses soft targets that a softmax distribution does not describe."""
        removed = None if stream.store is None else stream.store.header.teacher.get("removed")
        if removed == "sigmoid" and self.label_weight != LABELS_ALONE:
            raise OptionError(
                f"The teacher of {stream.store.path} ends in sigmoid, and this loss compares "  # type: ignore[union-attr]
                "softmax distributions.\nGive the store of a teacher that ends in softmax."
            )

    def _check_fits(self, stream: Stream) -> None:
        """Refuses a student whose input or output is not that of the stream."""
        shape = (1, *stream.options.shape)
        expected = getattr(self.student, "input_shape", None)
        if isinstance(expected, tuple) and not _compatible(expected, shape):
            raise StudentError(
                f"The student {self.student.name!r} does not take the images of the stream.\n"
                f"  student: {list(expected[1:])} (height, width, channels)\n"
                f"  stream:  {list(shape[1:])}\n"
                "Give `--image-size` and `--color-mode` as the student needs them."
            )
        answers = np.asarray(self._logits.model(tf.zeros(shape), training=False), np.float32)
        if answers.shape != (1, stream.num_classes):
            raise StudentError(
                f"The student's output disagrees with the "
                f"{'classes of the images' if stream.store is None else 'store'}.\n"
                f"  student: {self.student.name!r}, outputs of shape {list(answers.shape[1:])}\n"
                f"  {'images' if stream.store is None else 'store'}:  "
                f"{stream.num_classes} classes\n"
                f"Give a student with {stream.num_classes} outputs."
            )
        if not self._logits.inspected and are_probabilities(answers):
            raise StudentError(
                f"The student {self.student.name!r} answers with probabilities, and its layers "
                "cannot be looked into.\n"
                "Leave its softmax out: return logits."
            )


class _Fit:
    """One call of `fit`: what is fixed before the first step."""

    def __init__(
        self,
        distiller: Distiller,
        stream: Stream,
        epochs: int,
        validation: Manifest | None,
        run: str | os.PathLike | None,
    ) -> None:
        self.distiller = distiller
        self.stream = stream
        self.epochs = epochs
        self.model = distiller._logits.model
        self.optimizer = build_optimizer(
            distiller.optimizer,
            distiller.family,
            learning_rate=distiller.learning_rate,
            num_steps=stream.end_of_epoch(epochs),
        )
        self.optimizer.build(self.model.trainable_variables)
        self.steps = TrainingSteps(
            self.model,
            self.optimizer,
            temperature=distiller.temperature,
            label_weight=distiller.label_weight,
            jit=distiller.jit,
        )
        self.validation = None
        if validation is not None:
            self.validation = Validation(
                self.model,
                validation,
                class_names=stream.class_names,
                options=stream.options,
                batch_size=stream.batch_size,
            )
        self.directory = None if run is None else RunDirectory(run)
        self.checkpoints: Checkpoints | None = None
        self.history: list[dict[str, Any]] = []
        self.skipped: dict[bytes, str] = {}
        self.starts_over = False

    def train(self, resume: bool, progress: bool) -> History:
        try:
            return self._train(resume, progress)
        except RunBusyError:
            raise  # what is there belongs to another process
        except BaseException:
            if self.directory is not None:
                self.directory.withdraw()
            raise
        finally:
            if self.directory is not None:
                self.directory.release()

    def _train(self, resume: bool, progress: bool) -> History:
        step = self._start(resume)
        batch_size = self.stream.batch_size
        num_images = self.stream.end_of_epoch(self.epochs) * batch_size
        iterator = iter(self.stream.dataset(step))
        with image_progress(num_images, step * batch_size, "training", progress) as bar:
            for epoch in range(len(self.history) + 1, self.epochs + 1):
                bar.set_description(f"epoch {epoch}/{self.epochs}")
                last = self.stream.end_of_epoch(epoch)
                metrics = self._epoch(iterator, epoch, step, last, bar)
                step = last
                self.history.append(metrics)
                self._save(step)
                if progress:
                    bar.write(_as_line(metrics), file=sys.stderr)
        run = None if self.directory is None else str(self.directory.path)
        return History(self.history, run, len(self._all_skipped()))

    def _start(self, resume: bool) -> int:
        """Prepares the run directory and returns the step to go on from."""
        if self.directory is None:
            return 0
        self.directory.prepare()
        self.checkpoints = Checkpoints(
            self.directory.checkpoints, model=self.distiller.student, optimizer=self.optimizer
        )
        self.checkpoints.remove_leftovers()
        self.starts_over = not resume
        if any(self.directory.checkpoints.glob("step-*")) and resume:
            self.directory.check_config(self._config())
        state = self.checkpoints.restore() if resume else None
        if state is None:
            return 0
        self.history = state["history"]
        self.skipped = self.directory.read_skipped()
        if len(self.history) > self.epochs:
            raise OptionError(
                f"--epochs is {self.epochs}, and the run {self.directory.path} has done "
                f"{len(self.history)}.\nGive at least as many, or start again with `--no-resume`."
            )
        if not self.directory.is_newer_than(self.checkpoints.state_file(state["step"])):
            self._publish()  # a kill came between the checkpoint and these
        return int(state["step"])

    def _epoch(self, iterator: Any, epoch: int, first: int, last: int, bar: Any) -> dict[str, Any]:
        """Trains from step `first` to step `last` and returns the metrics."""
        sums = np.zeros(len(SUMS))
        batch_size = self.stream.batch_size
        started = time.perf_counter()
        for step in range(first, last, self.distiller.steps_per_call):
            num_steps = min(self.distiller.steps_per_call, last - step)
            sums += self._call(iterator, step, num_steps)
            bar.update(num_steps * batch_size)
        seconds = time.perf_counter() - started
        self._check_weights(last)
        metrics: dict[str, Any] = {"epoch": epoch, "step": last, **metrics_of(sums)}
        if self.validation is not None:
            metrics |= self.validation.run()
        metrics["learning_rate"] = learning_rate_of(self.optimizer)
        metrics["images_per_second"] = round((last - first) * batch_size / seconds, 1)
        return metrics

    def _call(self, iterator: Any, step: int, num_steps: int) -> np.ndarray:
        """Takes some steps and returns their sums; an error of the input is named."""
        try:
            sums = self.steps.run(iterator, tf.constant(num_steps)).numpy()
        except tf.errors.OpError as error:
            # The input runs ahead of the steps, but its errors come in the order of the batches.
            self.stream.refuse(error, range(step, step + num_steps))
            raise
        if not np.all(np.isfinite(sums)):
            raise NonFiniteError(
                f"The loss is not a finite number in one of the steps {step} to "
                f"{step + num_steps - 1}.\n"
                "Lower the learning rate: `--learning-rate`. What was saved before is kept."
            )
        return sums

    def _check_weights(self, step: int) -> None:
        """Refuses to save a student that the last step of an epoch has spoilt."""
        for weight in self.model.trainable_variables:
            if not np.all(np.isfinite(weight.numpy())):
                raise NonFiniteError(
                    f"The student's weights are no longer finite numbers after step {step}.\n"
                    "Lower the learning rate: `--learning-rate`. What was saved before is kept."
                )

    def _save(self, step: int) -> None:
        directory, checkpoints = self.directory, self.checkpoints
        if directory is None or checkpoints is None:
            return
        ending = "What was saved before is kept. Make room, and give the same command again."
        with disk.refusals(str(directory.path), ending=ending):
            checkpoints.save(
                step,
                {"epoch": len(self.history), "history": self.history},
                before=lambda: directory.write_config(self._config()),
                alone=self.starts_over,
            )
            self.starts_over = False
            self._publish()

    def _publish(self) -> None:
        """Writes metrics.csv and student.keras as the newest checkpoint has them."""
        if self.directory is not None:
            self.directory.write_skipped(self._all_skipped())
            self.directory.write_metrics(self.history)
            self.directory.save_student(self.distiller.student)

    def _all_skipped(self) -> dict[bytes, str]:
        """Returns the keys of the images that were skipped, before a resume and since, and why."""
        keys = self.stream.images.keys
        now = {keys[index]: reason for index, reason in dict(self.stream.skipped).items()}
        return {**self.skipped, **now}

    def _config(self) -> dict[str, Any]:
        """Returns what the run is made of; what a resumed run must repeat."""
        stream, distiller = self.stream, self.distiller
        config: dict[str, Any] = {
            "images": stream.images.fingerprint,
            "store": None,
            "image_options": stream.options.to_dict(),
            "batch_size": stream.batch_size,
            "seed": stream.seed,
            "shuffle": stream.shuffle,
            "image_weights": _digest_of(stream.images.weights),
            "independent_views": stream.independent and stream.independent.to_dict(),
            "balance": stream.balance or None,
            "views_per_decode": stream.views_per_decode if stream.views_per_decode > 1 else None,
            "rounded_pixels": stream.rounds_pixels or None,
            "temperature": distiller.temperature,
            "label_weight": distiller.label_weight,
            "student_preprocess": distiller.student_preprocess,
            "student": {
                "family": family_name(distiller.student),
                "weights": [list(w.shape) for w in distiller.student.weights],
            },
            "jit": distiller.jit,
            "validation": None if self.validation is None else self.validation.images.fingerprint,
            "class_names": stream.class_names,
            "versions": {"tensorflow": tf.__version__},
        }
        if stream.store is not None:
            header = stream.store.header
            config["store"] = {
                "fingerprint": header.fingerprint,
                "teacher": header.teacher,
                "codec": header.codec,
                "images": header.images,
                "rows": stream.store.digest_of_rows(),
            }
        if isinstance(distiller.optimizer, str):
            # The cosine is built for a number of epochs; another number is another run.
            config["optimizer"] = distiller.optimizer
            config["learning_rate"] = distiller.learning_rate
            config["epochs"] = self.epochs
        else:
            settings = distiller.family.optimizers.serialize(distiller.optimizer)
            config["optimizer"] = json.loads(json.dumps(settings, default=str))
        return config


def _digest_of(weights: np.ndarray | None) -> str | None:
    """Returns a digest of the weights of images, which their fingerprint does not cover."""
    return None if weights is None else hashlib.blake2b(weights.tobytes()).hexdigest()[:32]


def _as_line(metrics: dict[str, Any]) -> str:
    """Returns the metrics of an epoch as one line for a person."""
    shown = ("loss", "accuracy", "agreement", "val_loss", "val_accuracy")
    parts = [f"{name} {metrics[name]:.4f}" for name in shown if metrics.get(name) is not None]
    return f"epoch {metrics['epoch']}: {', '.join(parts)}"


def _compatible(expected: tuple, shape: tuple) -> bool:
    if len(expected) != len(shape):
        return False
    return all(want in (None, have) for want, have in zip(expected, shape, strict=True))

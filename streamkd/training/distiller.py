"""The `Distiller`, which a user calls: settings and student in, a trained student out.

distiller = Distiller(student, optimizer="adamw", temperature=4.0, label_weight=0.1)
history = distiller.fit(stream, epochs=30, validation=scan("photos/val"), run="runs/first")
distiller.student.save("student.keras")     # the user's own model, at temperature 1

`fit` checks its arguments, builds optimizer, state and steps, and leaves the training to `Loop`.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from streamkd.checks import check_count, check_types
from streamkd.errors import OptionError
from streamkd.manifest.manifest import Manifest, as_manifest
from streamkd.manifest.own_outputs import refuse_among_classes
from streamkd.models.families import family_of
from streamkd.models.logits_head import LogitsModel
from streamkd.models.precision import precision_of
from streamkd.models.saving import check_can_be_saved
from streamkd.public import public
from streamkd.stream.stream import Stream
from streamkd.training import callback_checks, run_config
from streamkd.training.batch_loss import BatchLoss
from streamkd.training.class_weights import class_weights
from streamkd.training.diagnosis import Diagnosis
from streamkd.training.distribution import Workers
from streamkd.training.history import History
from streamkd.training.keras_callbacks import KerasCallbacks
from streamkd.training.keras_metrics import UserMetrics
from streamkd.training.loop import Loop
from streamkd.training.optimizers import build_optimizer
from streamkd.training.pacing import CallSizer, SaveSchedule
from streamkd.training.recipe import Recipe
from streamkd.training.saver import Saver
from streamkd.training.schedules import typical_of
from streamkd.training.state import TrainingState, restorable_random_layers
from streamkd.training.step import TrainingSteps
from streamkd.training.step_calls import StepCalls
from streamkd.training.student_checks import check_is_model, check_student
from streamkd.training.student_model import StudentModel, student_model
from streamkd.training.student_warnings import warn_of_student
from streamkd.training.validation import validation_of
from streamkd.training.xla_choice import XlaPolicy


@public
class Distiller:
    """Trains a student from stored logits and labels.

    Args:
      student: a Keras model that takes one image, of tf_keras or of Keras 3. A final softmax or
        sigmoid is kept; the loss is computed from the logits before it. A student built under
        `strategy.scope()` is trained by that strategy. The student need not be compiled; the
        optimizer, loss and metrics of a compiled one are not used and not changed.
      optimizer: name of a Keras optimizer, or an optimizer of the student's own family, which is
        used as it is.
      learning_rate: the highest, of an optimizer given by name; None is 0.001.
      schedule: of an optimizer given by name: 'cosine' rises over the fraction `warm_up` of the
        steps and falls to zero along a cosine; 'constant' stays. None is 'cosine', unless a
        callback sets the learning rate.
      warm_up: fraction of the steps, 0 to 1; None is 0.05. Of an optimizer given by name.
      weight_decay: of an optimizer given by name; None for its own default. Biases, and the scales
        and offsets of norms, have none.
      clip_norm: the largest norm of all gradients together.
      accumulate: batches in one step; their gradients are averaged.
      ema: momentum of a moving average of the weights, such as 0.999, or None. Validation sees the
        averages, and the trained student has them.
      temperature: positive; divides the logits of teacher and student in the distillation loss.
        'auto' is 4, or that of the paper of `loss`. It may change like label_weight.
      label_weight: weight of the label loss, 0 to 1; 1 learns from labels alone. 'auto' is 0.1,
        or as in the paper of `loss`. It changes over the run if given as pairs of a fraction of the
        run and the weight there, such as [(0, 0.1), (0.5, 0.1), (0.7, 1)].
      label_smoothing: fraction of a label's weight that all classes get alike, at least 0, below 1.
      student_preprocess: the preprocessing that the student expects; becomes its first layers, so
        that `distiller.student` takes pixels from 0 to 255.
      model_output: name or number of the output to train, for a student with several; then
        `distiller.student` is the model of that output and shares the weights.
      jit: 'on' or 'off', whether XLA compiles forward and gradient, and the optimizer's update;
        'auto' measures both if the run takes more than a minute.
      steps_per_call: largest number of steps in one call of the compiled loop; long steps are
        called fewer at a time.
      loss: 'kd' for the classes of one softmax, 'bce' for independent labels, one sigmoid each;
        'auto' follows the teacher, the labels and the student's last layer. Others for classes:
        'mse', 'hard', 'dkd', 'nkd', 'ttm', 'wttm', 'dist', 'mlkd', as in `kd.dkd_loss`. Or a
        function of teacher_logits, student_logits and labels, int32 and -1 where there is none.
      standardize: compare logits after `kd.standardize_logits`.
      metrics: Keras metrics, their names, or functions of labels and answers, besides the built-in
        ones; see `UserMetrics` for their arguments.
      on_nonfinite: how to treat a step whose loss or gradient is not a finite number: 'raise'
        names the images; 'skip' leaves the weights as they are, up to ten times in a row. A step
        that only overflows a loss scale is left out by Keras, which lowers the scale.

    Attributes:
      student: the model that is being trained; until `fit`, the user's own if it is not built yet.
      recipe: the other arguments; it cannot be changed.

    Raises:
      StudentError: the student's outputs are probabilities that cannot be traced to logits.
      OptionError: a number out of range, or two settings that exclude each other.
    """

    def __init__(
        self,
        student: Any,
        *,
        optimizer: Any = "adamw",
        learning_rate: float | None = None,
        schedule: str | None = None,
        warm_up: float | None = None,
        weight_decay: float | None = None,
        clip_norm: float | None = None,
        accumulate: int = 1,
        ema: float | None = None,
        temperature: Any = "auto",
        label_weight: Any = "auto",
        label_smoothing: float = 0.0,
        student_preprocess: str = "none",
        model_output: str | int | None = None,
        jit: str | bool = "auto",
        steps_per_call: int = 32,
        metrics: Any = (),
        on_nonfinite: str = "raise",
        loss: Any = "auto",
        standardize: bool = False,
    ) -> None:
        given = locals()
        check_types(Distiller.__init__, {"student_preprocess": student_preprocess})
        self._recipe = Recipe(**{name: given[name] for name in Recipe.names()})
        self.family = family_of(student)
        check_is_model(student, self.family)
        self.workers = Workers(student.distribute_strategy or tf.distribute.get_strategy())
        self.strategy = self.workers.strategy
        self.student, self.student_preprocess = student, student_preprocess
        self._given, self._model_output = student, model_output
        self._parts: StudentModel | None = None
        self._settle()
        self.metrics = metrics
        # Described before `fit`, which may set its learning rate by a callback.
        self._optimizer = run_config.describe_optimizer(self.recipe, self.family)

    @property
    def _ready(self) -> StudentModel:
        assert self._parts is not None  # once its images were seen
        return self._parts

    @property
    def _logits(self) -> LogitsModel:
        """The student without its last activation."""
        return self._ready.logits

    def _settle(self, shape: tuple[int, int, int] | None = None) -> None:
        """Makes the student ready for training; without `shape`, only if that needs no images."""
        if self._parts is not None:
            return
        with self.strategy.scope():
            self._parts = student_model(
                self.student,
                preprocess=self.student_preprocess,
                output=self._model_output,
                shape=shape,
            )
        if self._parts is not None:
            self.student = self._parts.student

    @property
    def recipe(self) -> Recipe:
        """The settings of the training; they cannot be changed."""
        return self._recipe

    @recipe.setter
    def recipe(self, recipe: Recipe) -> None:
        raise OptionError(
            "The recipe of a Distiller cannot be exchanged.\n"
            "Make another Distiller of the student, which goes on from the student's weights."
        )

    def fit(
        self,
        stream: Stream,
        *,
        epochs: int,
        validation: Manifest | str | os.PathLike | None = None,
        run: str | os.PathLike | None = None,
        resume: bool = True,
        progress: bool = True,
        callbacks: Any = (),
        class_weight: Mapping[Any, float] | str | None = None,
        save_every: int | None = None,
        stop: Callable[[], bool] | None = None,
        arguments: dict[str, Any] | None = None,
        extend: bool = False,
    ) -> History:
        """Trains for `epochs` epochs, or resumes a run that was stopped.

        Args:
          stream: returned by `join`.
          epochs: how often every image is seen, counted from the beginning of the run.
          validation: labelled images on which the student is evaluated after every epoch.
          run: directory for student.keras, metrics.csv, config.json and checkpoints.
          resume: resume from the newest checkpoint in `run`; False starts over.
          progress: show images per second, the fraction of the time spent waiting for input, and
            the time left, on standard error.
          callbacks: Keras callbacks of the student's family. They are called as Keras' own `fit`
            would call them: batches are steps, and come several at a time unless one of the
            callbacks wants each. Numbers that they add to the logs of an epoch are in metrics.csv.
          class_weight: weights by class name or number, or 'balanced'. The loss of a batch is the
            weighted mean, by sum of weights; Keras divides by images.
          save_every: steps between two checkpoints, besides those at the end of every epoch and
            after ten minutes without one.
          stop: asked after every call of the compiled loop; once it returns True, the run is
            saved, and `fit` returns the history so far.
          arguments: kept in config.json for the reader, such as the flags of a command.
          extend: let a run take more epochs than planned, by the schedules of so many from now on.

        A KeyboardInterrupt saves too; in a notebook it then returns, in a script it is raised. The
        same call resumes the run.

        Raises:
          StudentError: the student does not fit the stream.
          ResumeError: the run was started with other data or options.
          NonFiniteError: a loss, a gradient or the weights are no longer finite numbers.
          OutputError, DiskFullError: the run cannot be written.

        A refusal before the first checkpoint leaves `run` as it was.
        """
        check_types(Distiller.fit, locals())
        check_count("epochs", epochs)
        if validation is not None:
            validation = as_manifest(validation, "validation")
        for images in (stream.images, validation):
            if run is not None and images is not None:
                refuse_among_classes(images, run, kind="run directory", flag="--out")
        if save_every is not None:
            check_count("save_every", save_every)
        callbacks = callback_checks.check_callbacks(callbacks, self.family)
        stream.check_share(self.workers.worker_slice)
        self._settle(stream.options.shape)
        num_outputs, loss_kind = check_student(
            self.recipe, self._ready, stream, self.strategy.num_replicas_in_sync
        )
        if run is not None:
            image = np.zeros((1, *stream.options.shape), np.float32)
            self.workers.from_chief(lambda: check_can_be_saved(self.student, image))
        weights = class_weights(
            class_weight,
            class_names=stream.class_names,
            labels=stream.labels,
            num_classes=max(stream.num_classes, len(stream.class_names or [])),
            several=stream.multi_hot is not None,
        )
        label_weight = typical_of(self.recipe.label_weight)
        warn_of_student(self._given, self.student_preprocess, stream, label_weight)
        with restorable_random_layers(self._logits.model, self.strategy):
            schedule = self.recipe.schedule or callback_checks.default_schedule(callbacks)
            num_steps = self.recipe.num_steps(stream.end_of_epoch(epochs))
            diagnosis = Diagnosis(stream, self.recipe, epochs=epochs, num_steps=num_steps)
            several = stream.multi_hot is not None
            state, metrics = self._state(num_outputs, several, num_steps, schedule)
            callback_checks.check_learning_rate(callbacks, state.optimizer)
            called = KerasCallbacks(
                callbacks,
                self.student,
                state.optimizer,
                self.family,
                epochs=epochs,
                is_chief=self.workers.is_chief,
            )
            config = {
                **run_config.describe_stream(stream),
                **run_config.describe_training(self.recipe, self.student, schedule, epochs),
                **self._optimizer,
                **run_config.describe_for_the_reader(self.student, arguments),
                "replicas": self.strategy.num_replicas_in_sync,
                **run_config.describe_fit(self.student_preprocess, weights, metrics, validation),
                **run_config.describe_output(self._ready.output),
                **run_config.describe_loss(loss_kind, stream),
            }
            loss = BatchLoss.of_run(self.recipe, weights, kind=loss_kind, num_steps=num_steps)
            loop = Loop(
                stream=stream,
                epochs=epochs,
                validation=validation_of(
                    validation, self._logits.model, stream, metrics, self.workers, loss_kind
                ),
                recipe=self.recipe,
                config=config,
                state=state,
                calls=StepCalls(
                    self._steps(state, metrics, loss),
                    stream,
                    self.workers,
                    xla=XlaPolicy(jit=self.recipe.jit, num_steps=num_steps),
                    clock=time.monotonic,
                ),
                metrics=metrics,
                callbacks=called,
                saver=Saver(run, state, self.workers, newly_skipped=stream.skipped_keys),
                save_schedule=SaveSchedule(save_every, time.monotonic),
                call_sizer=CallSizer(1 if called.wants_batches else self.recipe.steps_per_call),
                workers=self.workers,
                stop=stop or (lambda: False),
                shows_progress=progress and self.workers.is_chief,
                extend=extend,
            )
            history = loop.train(resume)
        diagnosis.look_back(history, validation)
        return history

    def _state(
        self, num_outputs: int, several: bool, num_steps: int, schedule: str
    ) -> tuple[TrainingState, UserMetrics]:
        """Returns the variables of a run, with an optimizer for its steps, and the metrics."""
        with self.strategy.scope():
            metrics = UserMetrics(
                self.metrics,
                self.family,
                probabilities=self._logits.removed is not None,
                num_classes=num_outputs,
                sigmoid=self._logits.removed == "sigmoid",
                several=several,
            )
            optimizer = build_optimizer(
                self.recipe,
                self.family,
                num_steps=num_steps,
                variables=self._logits.model.trainable_variables,
                schedule=schedule,
                scales_loss="mixed_float16" in precision_of(self.student),
            )
            state = TrainingState(self.student, self._logits.model, optimizer, metrics.metrics)
        return state, metrics

    def _steps(self, state: TrainingState, metrics: UserMetrics, loss: BatchLoss) -> TrainingSteps:
        """Returns the compiled steps, without XLA."""
        with self.strategy.scope():
            return TrainingSteps(
                self._logits.model,
                state,
                loss,
                accumulate=self.recipe.accumulate,
                update_metrics=metrics.update if len(metrics) else None,
            )

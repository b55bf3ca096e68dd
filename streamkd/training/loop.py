"""One call of `fit`: epochs of compiled steps, with what has to happen between them.

    call → call → … → end of the epoch: validation, callbacks, checkpoint, student.keras

A call of the compiled loop takes several steps. Between two calls the run may be saved, and
stopped: by a signal, a Ctrl-C, a callback. All that the next step depends on is in the state, so
that it makes no difference where a run was stopped.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import sys
import time
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from streamkd.errors import NonFiniteError, OptionError, RunBusyError
from streamkd.progress import image_progress
from streamkd.stream.stream import Stream
from streamkd.training.distribution import Workers
from streamkd.training.epoch_sums import metrics_of
from streamkd.training.keras_callbacks import KerasCallbacks
from streamkd.training.keras_metrics import UserMetrics
from streamkd.training.non_finite import MAX_CONSECUTIVE_NONFINITE, examine
from streamkd.training.optimizers import learning_rate_of
from streamkd.training.recipe import Recipe
from streamkd.training.saver import Progress, Saver
from streamkd.training.state import TrainingState, averaged_weights, exchange_averages
from streamkd.training.step import TrainingSteps
from streamkd.training.validation import Validation

# The longest that a run goes without a checkpoint.
SAVE_SECS = 600.0
# A call of the compiled loop takes about so long at the most: a signal is heard after it.
CALL_SECS = 1.0


@dataclasses.dataclass
class History:
    """What came of `fit`.

    Attributes:
      epochs: one dict an epoch, with the columns of metrics.csv.
      run: the run directory, or None.
      num_skipped: images that could not be decoded, or were changed, in the whole run; they are
        listed in its skipped.jsonl.
      stopped: whether training was interrupted before its last epoch; the same call goes on.
      step: steps that were done.
      jit: whether XLA compiled forward and gradient.
      jit_update: whether it compiled the optimizer's update.
    """

    epochs: list[dict[str, Any]]
    run: str | None = None
    num_skipped: int = 0
    stopped: bool = False
    step: int = 0
    jit: bool = False
    jit_update: bool = False

    @property
    def history(self) -> dict[str, list]:
        """The same by metric, as Keras' `History.history`; None where an epoch has no such."""
        names = dict.fromkeys(name for epoch in self.epochs for name in epoch)
        return {name: [epoch.get(name) for epoch in self.epochs] for name in names}

    @property
    def last(self) -> dict[str, Any]:
        """The metrics of the last epoch."""
        return self.epochs[-1] if self.epochs else {}


@dataclasses.dataclass
class Loop:
    """What one call of `fit` is made of.

    Attributes:
      stream, epochs, validation: as given to `fit`.
      recipe: of the distiller.
      state: of the run.
      metrics: the user's.
      callbacks: the user's.
      saver: of the run directory.
      workers: that train together.
      choose_steps: called with the configuration of the run that goes on, or None, and with the
        specification of a batch where it is None; returns the compiled steps, and the configuration
        of now.
      save_every: steps between two checkpoints beside the others; None for no such.
      stop: asked after every call whether to stop.
      shows_progress: on standard error.
      steps: compiled.
      progress: of the run.
    """

    stream: Stream
    epochs: int
    recipe: Recipe
    state: TrainingState
    metrics: UserMetrics
    callbacks: KerasCallbacks
    saver: Saver
    workers: Workers
    validation: Validation | None
    choose_steps: Callable[[dict[str, Any] | None, Any], tuple[TrainingSteps, dict[str, Any]]]
    save_every: int | None
    stop: Callable[[], bool]
    shows_progress: bool
    steps: TrainingSteps = dataclasses.field(init=False)
    progress: Progress = dataclasses.field(init=False)

    def __post_init__(self) -> None:
        self.shows_progress = self.shows_progress and self.workers.is_chief
        self._images_per_step = self.stream.batch_size * self.recipe.accumulate
        self._steps_per_call = 1
        self._saved_at = time.monotonic()
        self._is_stopped = False
        self._is_between = False  # of one epoch no more, and not yet of the next
        self._iterator: Any = None
        self._refusal: NonFiniteError | None = None  # of a step, unless a callback ends the run

    def train(self, resume: bool) -> History:
        """Trains, or goes on; see `Distiller.fit`."""
        try:
            return self._train(resume)
        except RunBusyError:
            raise  # what is there belongs to another process
        except BaseException:
            self.saver.withdraw()
            raise
        finally:
            self.callbacks.close()
            self.saver.release()

    def _train(self, resume: bool) -> History:
        begun = self.saver.prepare(resume)
        spec = None
        if begun is None:
            # The first batches are read while steps are compiled, which takes seconds.
            self._iterator = self._iterate(0)
            spec = self._iterator.element_spec
        self.steps, config = self.choose_steps(begun, spec)
        self.progress = self.saver.restore(config, resume)
        self._check_epochs()
        if self.progress.ended_early:
            self._say(
                f"a callback ended this run after epoch {len(self.progress.history)}; "
                "start again with `--no-resume`"
            )
        elif len(self.progress.history) < self.epochs:
            self._train_or_stop()
        exchange_averages(self.state.student, self.state.optimizer)
        return History(
            self.progress.history,
            self.saver.run,
            len(self.saver.skipped()),
            self._is_stopped,
            self.state.num_steps,
            self.steps.jit,
            self.steps.jit_update,
        )

    def _train_or_stop(self) -> None:
        """Trains; saves what was done so far where that is stopped."""
        try:
            self._train_epochs()
        except KeyboardInterrupt:
            if not self.workers.is_alone:
                raise  # the others are in the middle of a step, and cannot save with this one
            self._is_stopped = True
            self._save_if_new()
            if not hasattr(sys, "ps1"):
                raise  # a script must not go on with a student that is half trained
            return
        if self._is_stopped:
            self._save_if_new()

    def _say(self, words: str) -> None:
        if self.shows_progress:
            print(words, file=sys.stderr)

    def _check_epochs(self) -> None:
        done = len(self.progress.history)
        if done > self.epochs:
            raise OptionError(
                f"--epochs is {self.epochs}, and the run {self.saver.run} has done "
                f"{done}.\nGive at least as many, or start again with `--no-resume`."
            )

    def _train_epochs(self) -> None:
        first = self.state.num_steps
        if self._iterator is None:
            self._iterator = self._iterate(first)
        self.callbacks.train_begin(
            self.progress.callbacks,
            self.progress.arrays,
            num_steps=first,
            steps_per_epoch=self._steps_per_epoch(),
            directions=self.metrics.directions,
        )
        self._undo()
        total, done = (n * self._images_per_step for n in (self._end_of_epoch(self.epochs), first))
        with image_progress(total, done, "training", self.shows_progress) as bar:
            for epoch in range(len(self.progress.history) + 1, self.epochs + 1):
                bar.set_description(f"epoch {epoch}/{self.epochs}")
                self._begin_epoch(epoch)
                took = self._steps_of_epoch(epoch, bar)
                if self._is_stopped:
                    return
                metrics = self._end_epoch(epoch, took)
                if self.shows_progress:
                    bar.write(_as_line(metrics), file=sys.stderr)
                if self.callbacks.stops:
                    break

    def _begin_epoch(self, epoch: int) -> None:
        """Calls the callbacks, without effect in an epoch that goes on: it began before."""
        self.callbacks.epoch_begin(epoch - 1)
        if self.state.num_steps > self.progress.last_step:
            self.callbacks.restore(self.progress.callbacks, self.progress.arrays)
            self._undo()

    def _undo(self) -> None:
        """Sets back what callbacks changed at the start of a run that goes on: they may, for
        example, set the learning rate, which has its value from the checkpoint."""
        if len(self.callbacks):
            self.saver.restore_tensors()

    def _iterate(self, step: int) -> Any:
        first = step * self.recipe.accumulate
        return self.workers.iterate(lambda share: self.stream.dataset(first, share=share))

    def _end_of_epoch(self, epoch: int) -> int:
        """Returns the steps after which every image was seen `epoch` times."""
        return self.recipe.num_steps(self.stream.end_of_epoch(epoch))

    def _steps_per_epoch(self) -> int | None:
        """Returns the steps of each epoch; None where some have more than others."""
        ends = [self._end_of_epoch(epoch) for epoch in range(self.epochs + 1)]
        lengths = {last - first for first, last in itertools.pairwise(ends)}
        return lengths.pop() if len(lengths) == 1 else None

    def _steps_of_epoch(self, epoch: int, bar: Any) -> dict[str, float]:
        """Takes the steps of an epoch that are still to be done; returns what they took.

        Returns:
          'steps', 'seconds' and, of these, 'waited' for input.
        """
        begins, ends = self._end_of_epoch(epoch - 1), self._end_of_epoch(epoch)
        took = {"steps": 0, "seconds": 0.0, "waited": 0.0}
        while (step := self.state.num_steps) < ends:
            # As under `fit`, a callback that stops between two epochs is asked after one step more.
            most = 1 if self.callbacks.stops else self._steps_per_call
            number = min(most, ends - step)
            if self.save_every is not None:
                number = min(number, self.save_every - step % self.save_every)
            self.callbacks.batch_begin(step - begins)
            done, seconds, waited = self._call(step, number)
            for name, amount in zip(took, (done, seconds, waited), strict=True):
                took[name] += amount
            bar.update(done * self._images_per_step)
            bar.set_postfix_str(f"input {waited / seconds:.0%}", refresh=False)
            self.callbacks.batch_end(step + done - 1 - begins, self.state.num_steps, self._metrics)
            if self.callbacks.stops:
                break
            if self._refusal is not None:
                raise self._refusal
            # What each worker would decide by its own clock, or was told by a signal.
            own = (seconds / done, bool(self.stop()), self._is_save_due(ends))
            slowest, stops, is_save_due = self.workers.everyones(own).max(axis=0)
            self._adapt(slowest)
            if stops:
                self._is_stopped = True
                break
            if is_save_due:
                self._save()
        return took

    def _call(self, step: int, number: int) -> tuple[int, float, float]:
        """Takes some steps; returns how many, the seconds, and those spent waiting for input."""
        began = time.perf_counter()
        try:
            with self.workers.named_losses():
                done, finite, waited = self.steps.run(self._iterator, tf.constant(number))
                num_done = int(done)
        except tf.errors.OpError as error:
            # The input runs ahead of the steps, but its errors come in the order of the batches.
            self.stream.refuse(error, self._batches_of(step, number), self.workers.share)
            raise
        seconds = time.perf_counter() - began
        if not finite:
            self._leave_out(step + num_done)
            num_done += 1
        return num_done, seconds, float(waited)

    def _batches_of(self, step: int, number: int) -> range:
        return range(step * self.recipe.accumulate, (step + number) * self.recipe.accumulate)

    def _adapt(self, seconds: float) -> None:
        """Takes more steps in a call as long as it stays short, and one where that is wanted."""
        most = 1 if self.callbacks.wants_batches else self.recipe.steps_per_call
        twice = 2 * self._steps_per_call  # the first call took its time to compile
        self._steps_per_call = max(1, min(most, twice, int(CALL_SECS / seconds)))

    def _leave_out(self, step: int) -> None:
        """Goes on without a step that was not finite, or refuses to."""
        found = examine(self.stream, self.steps, step)
        if self.recipe.on_nonfinite == "raise":
            self._refusal = found.refusal()  # after TerminateOnNaN has heard of it
            return
        if self.progress.num_in_a_row(step) >= MAX_CONSECUTIVE_NONFINITE:
            raise found.refusal(f"  It is the {MAX_CONSECUTIVE_NONFINITE + 1}th step in a row.\n")
        self.progress.left_out.append(found.to_json())
        self.state.step.assign_add(1)

    def _metrics(self) -> dict[str, Any]:
        """Returns the metrics of the epoch so far, the user's included."""
        own = metrics_of(self.state.sums.numpy())
        if self._refusal is not None:
            own["loss"] = math.nan
        return {**own, **self.metrics.results(counted=own["accuracy"] is not None)}

    def _end_epoch(self, epoch: int, took: dict[str, float]) -> dict[str, Any]:
        """Does all that belongs to the end of an epoch; returns its metrics."""
        self._check_weights()
        self._is_between = True
        metrics: dict[str, Any] = {"epoch": epoch, "step": self.state.num_steps, **self._metrics()}
        with averaged_weights(self.state.student, self.state.optimizer):
            metrics |= self._validate()
            metrics["learning_rate"] = learning_rate_of(self.state.optimizer)
            metrics |= _pace(took, self._images_per_step)
            metrics |= self.callbacks.epoch_end(epoch - 1, metrics)
            if epoch == self.epochs or self.callbacks.stops:
                self.callbacks.train_end()  # which may set back the best weights
        self.progress.history.append(metrics)
        self.progress.ended_early = self.callbacks.stops
        self.state.end_epoch()
        self._save()
        self._is_between = False
        self.saver.publish(self.progress)
        return metrics

    def _validate(self) -> dict[str, Any]:
        if self.validation is None:
            return {"val_loss": None, "val_accuracy": None}
        self.callbacks.test_begin()
        found = self.validation.run(self.callbacks.test_batch_begin, self.callbacks.test_batch_end)
        self.callbacks.test_end(found)
        return found

    def _check_weights(self) -> None:
        """Refuses to save a student that the last step has spoilt."""
        if not self.state.are_weights_finite():
            raise NonFiniteError(
                "The student's weights are no longer finite numbers after step "
                f"{self.state.num_steps}.\n"
                "Lower the learning rate: `--learning-rate`. What was saved before is kept."
            )

    def _is_save_due(self, end: int) -> bool:
        """Returns whether to save within an epoch; at its end it is saved anyway."""
        step = self.state.num_steps
        if step == end or self.saver.run is None:
            return False
        due = self.save_every is not None and step % self.save_every == 0
        return due or time.monotonic() - self._saved_at > SAVE_SECS

    def _save_if_new(self) -> None:
        """Saves a run that was stopped, unless that was between two epochs: then the checkpoint
        from before is the one to go on from."""
        if self.state.num_steps not in (0, self.saver.saved_step) and not self._is_between:
            self._save()

    def _save(self) -> None:
        self._check_weights()
        self.progress.callbacks, self.progress.arrays = self.callbacks.state()
        self.saver.save(self.progress)
        self._saved_at = time.monotonic()


def _pace(took: dict[str, float], images_per_step: int) -> dict[str, Any]:
    """Returns images per second and the share of the time that was spent waiting for input."""
    seconds = took["seconds"]
    if not seconds:  # an epoch that was stopped right before its end
        return {"images_per_second": None, "input_wait": None}
    return {
        "images_per_second": round(took["steps"] * images_per_step / seconds, 1),
        "input_wait": round(took["waited"] / seconds, 3),
    }


def _as_line(metrics: dict[str, Any]) -> str:
    """Returns the metrics of an epoch as one line for a person."""
    shown = ("loss", "accuracy", "agreement", "val_loss", "val_accuracy")
    parts = [f"{name} {metrics[name]:.4f}" for name in shown if metrics.get(name) is not None]
    return f"epoch {metrics['epoch']}: {', '.join(parts)}"

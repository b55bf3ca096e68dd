"""The loop of one run: calls of the compiled steps, and the end of every epoch.

    call → call → … → end of the epoch: validation, callbacks, checkpoint, student.keras

`Distiller.fit` puts a `Loop` together and calls `train`. A call of the compiled loop takes several
steps. Between two calls the run may be saved, and stopped: by a signal, a Ctrl-C, a callback. The
next step depends on the state alone, so that a run may be stopped after any step.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import sys
from collections.abc import Callable
from typing import Any

from streamkd.errors import NonFiniteError, OptionError, RunBusyError
from streamkd.progress import image_progress, say
from streamkd.stream.stream import Stream
from streamkd.training.distribution import Workers
from streamkd.training.epoch_sums import EpochTimes, metrics_of
from streamkd.training.history import History, as_line
from streamkd.training.keras_callbacks import KerasCallbacks
from streamkd.training.keras_metrics import UserMetrics
from streamkd.training.non_finite import MAX_CONSECUTIVE_NONFINITE, NonFiniteStep
from streamkd.training.optimizers import learning_rate_of
from streamkd.training.pacing import CallSizer, SaveSchedule
from streamkd.training.recipe import Recipe
from streamkd.training.saver import Progress, Saver
from streamkd.training.state import TrainingState, averaged_weights, exchange_averages
from streamkd.training.step_calls import StepCalls
from streamkd.training.validation import Validation


@dataclasses.dataclass(kw_only=True)
class Loop:
    """One call of `fit`.

    Attributes:
      stream, epochs, stop, extend: as given to `fit`.
      config: of the run, except for the choice about XLA.
      metrics, callbacks: the user's.
      shows_progress: whether to print progress on standard error.
      progress: how far the run has come.
    """

    stream: Stream
    epochs: int
    validation: Validation | None
    recipe: Recipe
    config: dict[str, Any]
    state: TrainingState
    calls: StepCalls
    metrics: UserMetrics
    callbacks: KerasCallbacks
    saver: Saver
    save_schedule: SaveSchedule
    call_sizer: CallSizer
    workers: Workers
    stop: Callable[[], bool]
    shows_progress: bool
    extend: bool
    progress: Progress = dataclasses.field(default_factory=Progress)

    def __post_init__(self) -> None:
        self._is_stopped = False
        # True while an epoch ends: validation, callbacks, checkpoint.
        self._is_between_epochs = False
        # Refusal of a step, raised unless a callback ends the run.
        self._refusal: NonFiniteError | None = None

    def train(self, resume: bool) -> History:
        """Trains the student, or resumes a run that was stopped; see `Distiller.fit`."""
        try:
            return self._train(resume)
        except RunBusyError:
            raise  # the directory belongs to another process
        except BaseException:
            self.saver.withdraw()
            raise
        finally:
            self.callbacks.close()
            self.saver.release()

    def _train(self, resume: bool) -> History:
        self.calls.choose_xla(self.saver.prepare(resume))
        steps = self.calls.steps
        choice = {"jit": steps.jit, "jit_update": steps.jit_update}
        self.progress = self.saver.restore({**self.config, **choice}, resume, extend=self.extend)
        self._check_epochs()
        began_at, outcome = self.state.num_steps, "already_finished"
        if self.progress.ended_early:
            self._say(
                f"a callback ended this run after epoch {len(self.progress.history)}; "
                "start again with `--no-resume`"
            )
        elif len(self.progress.history) < self.epochs:
            outcome = self._say_where_it_goes_on()
            self._train_or_stop()
        else:
            self._say(f"already finished at step {self.state.num_steps:,}; nothing is done")
        exchange_averages(self.state.student, self.state.optimizer)
        return History(
            self.progress.history,
            self.saver.run,
            len(self.saver.skipped()),
            self._is_stopped,
            self.state.num_steps,
            steps.jit,
            steps.jit_update,
            outcome,
            began_at,
        )

    def _say_where_it_goes_on(self) -> str:
        """Says at which step a resumed run goes on; returns the outcome, as `History` has it."""
        step, was = self.state.num_steps, self.saver.planned_for
        if was is not None:
            self._say(
                f"extended from {was:,} to {self.epochs:,} epochs: from here on the schedules are "
                f"those of {self.epochs:,}, and the learning rate is "
                f"{learning_rate_of(self.state.optimizer):.3g}"
            )
        if step:
            self._say(f"going on at step {step:,} of {self._end_of_epoch(self.epochs):,}")
        return "extended" if was is not None else "resumed" if step else "new"

    @property
    def _images_per_step(self) -> int:
        return self.stream.batch_size * self.recipe.accumulate

    def _say(self, words: str) -> None:
        say(words, self.shows_progress)

    def _check_epochs(self) -> None:
        done = len(self.progress.history)
        if done > self.epochs:
            raise OptionError(
                f"--epochs is {self.epochs}, and the run {self.saver.run} has done "
                f"{done}.\nGive at least as many, or start again with `--no-resume`."
            )

    def _train_or_stop(self) -> None:
        """Trains; saves the steps done so far if the run is stopped."""
        try:
            self._train_epochs()
        except KeyboardInterrupt:
            if not self.workers.is_alone:
                raise  # the others are in the middle of a step, and cannot save with this one
            self._is_stopped = True
            self._save_if_new()
            if not hasattr(sys, "ps1"):
                raise  # a script must not continue with a student that is half trained
            return
        if self._is_stopped:
            self._save_if_new()

    def _train_epochs(self) -> None:
        first = self.state.num_steps
        self.calls.open(first)
        self.callbacks.train_begin(
            self.progress.callbacks,
            self.progress.arrays,
            num_steps=first,
            steps_per_epoch=self._steps_per_epoch(),
            directions=self.metrics.directions,
        )
        self._undo_callbacks()
        total = self._end_of_epoch(self.epochs) * self._images_per_step
        done = first * self._images_per_step
        with image_progress(total, done, "training", self.shows_progress) as bar:
            for epoch in range(len(self.progress.history) + 1, self.epochs + 1):
                bar.set_description(f"epoch {epoch}/{self.epochs}")
                self._begin_epoch(epoch)
                times = self._steps_of_epoch(epoch, bar)
                if self._is_stopped:
                    return
                metrics = self._end_epoch(epoch, times)
                if self.shows_progress:
                    bar.write(as_line(metrics), file=sys.stderr)
                if self.callbacks.stops:
                    break

    def _begin_epoch(self, epoch: int) -> None:
        """Calls the callbacks; in an epoch that resumes, undoes what they change."""
        self.callbacks.epoch_begin(epoch - 1)
        if self.state.num_steps > self.progress.last_step:
            self.callbacks.restore(self.progress.callbacks, self.progress.arrays)
            self._undo_callbacks()

    def _undo_callbacks(self) -> None:
        """Sets back a resumed run's tensors that callbacks changed, such as the learning rate."""
        if len(self.callbacks):
            self.saver.restore_tensors()

    def _end_of_epoch(self, epoch: int) -> int:
        """Returns the steps after which every image was seen `epoch` times."""
        return self.recipe.num_steps(self.stream.end_of_epoch(epoch))

    def _steps_per_epoch(self) -> int | None:
        """Returns the steps of each epoch; None if epochs differ."""
        ends = [self._end_of_epoch(epoch) for epoch in range(self.epochs + 1)]
        lengths = {last - first for first, last in itertools.pairwise(ends)}
        return lengths.pop() if len(lengths) == 1 else None

    def _steps_of_epoch(self, epoch: int, bar: Any) -> EpochTimes:
        """Takes the steps of an epoch that are still to be done; returns their times."""
        begins, ends = self._end_of_epoch(epoch - 1), self._end_of_epoch(epoch)
        times = EpochTimes()
        while (step := self.state.num_steps) < ends:
            # As under `fit`, a callback that stops between two epochs ends the run one step later.
            size = 1 if self.callbacks.stops else self.call_sizer.num_steps
            size = min(size, ends - step, self.save_schedule.steps_to_go(step))
            self.callbacks.batch_begin(step - begins)
            call = self.calls.take(step, size)
            if call.nonfinite is not None:
                self._leave_out(call.nonfinite)
            times.add(call.num_steps, call.seconds, call.waited)
            bar.update(call.num_steps * self._images_per_step)
            if not math.isnan(call.waited):
                bar.set_postfix_str(f"input {call.waited / call.seconds:.0%}", refresh=False)
            last = step + call.num_steps - 1
            self.callbacks.batch_end(last - begins, self.state.num_steps, self._metrics)
            if self.callbacks.stops:
                break
            if self._refusal is not None:
                raise self._refusal
            # Each worker has its own clock, and its own signals: all act on the largest answers.
            own = (call.seconds / call.num_steps, bool(self.stop()), self._is_save_due(ends))
            slowest, stops, is_save_due = self.workers.everyones(own).max(axis=0)
            self.call_sizer.adapt(slowest)
            if stops:
                self._is_stopped = True
                break
            if is_save_due:
                self._save()
        return times

    def _leave_out(self, nonfinite: NonFiniteStep) -> None:
        """Continues without a step that is not finite, or refuses to."""
        if self.recipe.on_nonfinite == "raise":
            self._refusal = nonfinite.refusal()  # raised after TerminateOnNaN was called
            return
        if self.progress.num_in_a_row(nonfinite.step) >= MAX_CONSECUTIVE_NONFINITE:
            count = MAX_CONSECUTIVE_NONFINITE + 1
            raise nonfinite.refusal(f"  It is the {count}th step in a row.\n")
        self.progress.left_out.append(nonfinite.to_json())
        self.state.step.assign_add(1)

    def _metrics(self) -> dict[str, Any]:
        """Returns the metrics of the epoch so far, the user's included."""
        own = metrics_of(self.state.sums.numpy())
        if self._refusal is not None:
            own["loss"] = math.nan
        return {**own, **self.metrics.results(counted=own["accuracy"] is not None)}

    def _end_epoch(self, epoch: int, times: EpochTimes) -> dict[str, Any]:
        """Validates, calls the callbacks, saves; returns the metrics of the epoch."""
        self._check_weights()
        self._is_between_epochs = True
        metrics: dict[str, Any] = {"epoch": epoch, "step": self.state.num_steps, **self._metrics()}
        with averaged_weights(self.state.student, self.state.optimizer):
            metrics |= self._validate()
            metrics["learning_rate"] = learning_rate_of(self.state.optimizer)
            metrics |= times.metrics(self._images_per_step)
            metrics |= self.callbacks.epoch_end(epoch - 1, metrics)
            if epoch == self.epochs or self.callbacks.stops:
                self.callbacks.train_end()  # which may set back the best weights
        self.progress.history.append(metrics)
        self.progress.ended_early = self.callbacks.stops
        self.state.end_epoch()
        self._save()
        self._is_between_epochs = False
        self.saver.publish(self.progress)
        return metrics

    def _validate(self) -> dict[str, Any]:
        if self.validation is None:
            return {"val_loss": None, "val_accuracy": None}
        self.callbacks.test_begin()
        metrics = self.validation.run(
            self.callbacks.test_batch_begin, self.callbacks.test_batch_end
        )
        self.callbacks.test_end(metrics)
        return metrics

    def _check_weights(self) -> None:
        """Refuses to save a student that the last step has spoilt."""
        if not self.state.are_weights_finite():
            raise NonFiniteError(
                "The student's weights are no longer finite numbers after step "
                f"{self.state.num_steps}.\n"
                "Lower the learning rate: `--learning-rate`. Earlier checkpoints are kept."
            )

    def _is_save_due(self, end: int) -> bool:
        """Returns whether to save within an epoch, which ends after step `end` and saves then."""
        step = self.state.num_steps
        if step == end or self.saver.run is None:
            return False
        return self.save_schedule.is_due(step)

    def _save_if_new(self) -> None:
        """Saves a stopped run; a run that stops while an epoch ends resumes from before that."""
        is_new = self.state.num_steps not in (0, self.saver.saved_step)
        if is_new and not self._is_between_epochs:
            self._save()

    def _save(self) -> None:
        self._check_weights()
        self.progress.callbacks, self.progress.arrays = self.callbacks.state()
        self.saver.save(self.progress)
        self.save_schedule.restart()

"""Trains the students of a sweep, group after group, each group from one stream.

training = Training(request, file, criterion="val_accuracy", is_begun=False)
training.run()                    # every outcome is in `file`

A group has one seed, since the seed gives a stream its order. It has as many students as fit into
the memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from streamkd.codes import warn
from streamkd.errors import NonFiniteError, OptionError
from streamkd.models.saving import check_can_be_saved
from streamkd.pixels.cache.free_space import free_memory
from streamkd.results.evaluate import evaluate
from streamkd.runs.run_directory import STUDENT
from streamkd.stream.stream import Stream
from streamkd.sweeps.choice import DIVERGED, FINISHED, outcome_of, outcome_of_fault
from streamkd.sweeps.grid import Setting
from streamkd.sweeps.members import Member, train_together
from streamkd.sweeps.request import TRAIN, VALIDATION, Request
from streamkd.sweeps.shared_batches import Feed, SharedValidation
from streamkd.sweeps.sweep_file import SweepFile
from streamkd.training.distiller import Distiller
from streamkd.training.recipe import Recipe

# Copies of its weights that a student in training takes: the weights, their gradients, two slots of
# the optimizer.
_COPIES = 4
# Fraction of the free memory for the students of a group; images and activations take the rest.
_MEMORY_FRACTION = 0.5


class Training:
    """The training of one sweep.

    Args:
      request: what is asked for.
      file: of the sweep, open.
      criterion: one of `CRITERIA`.
      is_begun: whether the file is written.
    """

    def __init__(
        self, request: Request, file: SweepFile, *, criterion: str, is_begun: bool
    ) -> None:
        self.request, self.file, self.criterion = request, file, criterion
        self.is_begun = is_begun
        self._validation = SharedValidation()
        self._signals: Any = None

    def pending(self) -> list[Setting]:
        """Returns the settings that are still to be trained; one that failed is tried again."""
        return [setting for setting in self.request.settings if not self._is_done(setting)]

    def _is_done(self, setting: Setting) -> bool:
        status = self.file.outcomes.get(setting.name, {}).get("status")
        if status == FINISHED:
            return (self.request.run(setting) / STUDENT).exists()
        return status == DIVERGED

    def run(self) -> Any:
        """Trains what is pending; returns the signals if one of them stopped the training.

        Raises:
          StreamkdError: a setting is refused, before anything is trained; or a file cannot be
            read or written, and what was done is kept.
        """
        pending = self.pending()
        self._check_recipes()
        with self.request.stopping() as self._signals:
            while pending:
                seed = pending[0].values["seed"]
                alike = [setting for setting in pending if setting.values["seed"] == seed]
                stream = self.request.stream(seed)
                group = self._begin_group(stream, alike)
                names = [member.setting.name for member in group]
                pending = [setting for setting in pending if setting.name not in names]
                try:
                    self._begin_sweep(pending, stream)
                    self._train(stream, group)
                finally:
                    for member in group:
                        member.close()
                        member.release()
                if any(member.history and member.history.stopped for member in group):
                    return self._signals
        return None

    def _check_recipes(self) -> None:
        """Refuses values that `Distiller` refuses, and two settings that mean the same."""
        seen: dict[str, Setting] = {}
        for setting in self.request.settings:
            arguments = self.request.distilling(setting)
            recipe = Recipe(
                **{name: arguments[name] for name in Recipe.names() if name in arguments}
            )
            values = setting.values
            text = repr((values["student"], values["seed"], recipe.described()))
            if text in seen:
                raise OptionError(
                    "Two settings of the grid train the same student.\n"
                    f"  {seen[text].text}\n  {setting.text}\nLeave one of the values out."
                )
            seen[text] = setting

    def _begin_group(self, stream: Stream, settings: Sequence[Setting]) -> list[Member]:
        """Begins as many trainings as may run together, each up to its first batch."""
        request, group = self.request, list[Member]()
        room, taken = _MEMORY_FRACTION * free_memory(), 0
        try:
            for setting in settings[: request.at_once]:
                member = self._member(setting, stream)
                group.append(member)
                self._begin(member, stream, saved=True)
                size = _COPIES * _num_bytes(member.distiller)
                taken += size
                if taken + size > room:
                    break
        except BaseException:
            for member in group:
                member.close()
            raise
        return group

    def _member(self, setting: Setting, stream: Stream) -> Member:
        feed = Feed(stream.dataset().element_spec, self._validation)
        return Member(setting, self.request.run(setting), feed)

    def _begin(self, member: Member, stream: Stream, *, saved: bool) -> None:
        """Begins the training of one student, in its run directory if it is `saved`."""
        request, setting = self.request, member.setting
        student = request.student(setting, stream)
        run = str(member.run) if saved else None
        distiller = Distiller(student, **request.distilling(setting))
        is_measured = self.criterion == "val_accuracy"
        signals = self._signals
        turns = distiller.fit_in_turns(
            stream,
            source=member.feed,
            epochs=request.epochs,
            validation=request.parts.validation if is_measured else None,
            run=run,
            resume=request.resume,
            progress=False,
            callbacks=request.callbacks_of(student),
            stop=None if signals is None else signals.arrived,
            arguments=None if run is None else request.recorded(setting, run),
            **request.fitting,
        )
        member.begin(distiller, turns)

    def _begin_sweep(self, later: Sequence[Setting], stream: Stream) -> None:
        """Writes the sweep down before its first step, once no setting is refused."""
        if self.is_begun:
            return
        for setting in sorted(later, key=lambda setting: setting.values["seed"]):
            if setting.values["seed"] != stream.seed:
                stream = self.request.stream(setting.values["seed"])
            trial = self._member(setting, stream)
            self._begin(trial, stream, saved=False)
            image = np.zeros((1, *stream.options.shape), np.float32)
            check_can_be_saved(trial.distiller.student, image)
            trial.close()
        parts, out = self.request.parts, self.request.out
        parts.train.write(out / TRAIN)
        parts.validation.write(out / VALIDATION)
        self.file.begin()
        self.is_begun = True

    def _train(self, stream: Stream, group: list[Member]) -> None:
        request = self.request
        recipe = group[0].distiller.recipe
        accumulate = recipe.accumulate
        images_per_step = stream.batch_size * accumulate

        def ended(member: Member) -> None:
            if member.fault is not None:
                diverged = isinstance(member.fault, NonFiniteError)
                outcome = outcome_of_fault(member.fault, diverged=diverged)
                warn("student_failed", _words_of_fault(member, outcome), stacklevel=2)
            elif member.history is None or member.history.stopped:
                if self._signals is None:  # Ctrl-C in a notebook, where a training returns
                    raise KeyboardInterrupt
                return
            else:
                outcome = outcome_of(member.history, images_per_step)
                if self.criterion == "kl_to_teacher":
                    outcome |= self._beside_teacher(member.distiller.student, stream)
            self.file.record(member.setting.name, outcome)
            number = len(self.file.outcomes)
            worth = outcome[self.criterion]
            shown = outcome["status"] if worth is None else f"{self.criterion} {worth:.4f}"
            request.say(f"{number} of {len(request.settings)}: {member.setting.name}: {shown}")
            member.release()

        for member in group:
            if not member.is_training:  # a kill came between its end and the record
                ended(member)
        last = recipe.num_steps(stream.end_of_epoch(request.epochs)) * accumulate
        train_together(stream, group, last=last, ended=ended, progress=request.progress)

    def _beside_teacher(self, student: Any, stream: Stream) -> dict[str, Any]:
        """Returns agreement and divergence on the validation images."""
        report = evaluate(
            student,
            self.request.parts.validation,
            store=self.request.store,
            image_size=stream.options.image_size,
            class_names=stream.class_names,
            teacher_class_map=self.request.joining.get("teacher_class_map"),
            progress=False,
        )
        return {"agreement": report.agreement, "kl_to_teacher": report.kl_to_teacher}


def _words_of_fault(member: Member, outcome: dict[str, Any]) -> str:
    return (
        f"The student {member.setting.name} {outcome['status']}: {outcome['message']}\n"
        "The other students go on without it."
    )


def _num_bytes(distiller: Distiller) -> int:
    """Returns the size of a student's weights, float32."""
    return 4 * sum(int(np.prod(weight.shape)) for weight in distiller.student.weights)

"""What a sweep is asked for.

request = Request(settings=grid(axes), parts=parts, out=Path("runs/sweep"), …)
request.stream(seed), request.student(setting, stream), request.distilling(setting)
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

from streamkd.codes import without_warnings
from streamkd.manifest.listing import UNLABELLED
from streamkd.models.precision import check_precision, precision
from streamkd.progress import say
from streamkd.stream.join import join
from streamkd.stream.stream import Stream
from streamkd.sweeps.grid import Setting
from streamkd.views.views import Views
from streamkd.whole_job.parts import Parts
from streamkd.whole_job.request import no_signals
from streamkd.whole_job.student_source import StudentSource

# Files in the directory of a sweep: the images to learn from, and those that decide.
TRAIN, VALIDATION = "train.jsonl", "validation.jsonl"
# Settings that are arguments of `Distiller`.
_OF_LOSS = ("loss", "temperature", "label_weight", "learning_rate")


@dataclasses.dataclass(kw_only=True)
class Request:
    """What a sweep is asked for.

    Attributes:
      settings: of the students.
      parts: the images to learn from, and those that decide.
      store: the teacher's logits, or None.
      out: directory of the sweep.
      epochs: of every student.
      joining: arguments of `join`, the same for all students.
      views_of: returns the views of `join` for a seed; None to replay the store's.
      distilling_all: arguments of `Distiller`, the same for all students.
      fitting: arguments of `fit`, the same for all students.
      callbacks_of: returns the Keras callbacks of a student.
      recorded: returns what config.json keeps for its reader, given a setting and its run.
      command: returns the command that trains one setting alone.
      asked: what is compared when the sweep goes on, by name.
      precision: Keras' dtype policy for building students, or None.
      at_once: largest number of students that are trained together; None for as many as fit into
        the memory.
      resume: False starts over.
      trust: allow files that run code on loading.
      progress: show on standard error what is done.
      stopping: makes a context around the training, as `cli.signals.StopSignals`.
    """

    settings: list[Setting]
    parts: Parts
    store: Any
    out: Path
    epochs: int
    joining: dict[str, Any]
    distilling_all: dict[str, Any]
    fitting: dict[str, Any]
    recorded: Callable[[Setting, str], dict[str, Any]]
    command: Callable[[Setting], str]
    asked: dict[str, Any]
    views_of: Callable[[int], Views | None] = lambda seed: None
    callbacks_of: Callable[[Any], list[Any]] = lambda student: []
    precision: str | None = None
    at_once: int | None = None
    resume: bool = True
    trust: bool = False
    progress: bool = True
    stopping: Callable[[], Any] = no_signals

    @property
    def decides_by_teacher(self) -> bool:
        """Whether the images that decide have no labels."""
        validation = self.parts.validation
        return validation.multi_hot is None and not bool((validation.labels != UNLABELLED).any())

    def say(self, words: str) -> None:
        """Shows a line on standard error, where progress is shown."""
        say(words, self.progress)

    def run(self, setting: Setting) -> Path:
        """Returns the run directory of a student."""
        return self.out / setting.name

    def distilling(self, setting: Setting) -> dict[str, Any]:
        """Returns the arguments of `Distiller` for a student."""
        own = {name: setting.values[name] for name in _OF_LOSS}
        return {**self.distilling_all, **own}

    def stream(self, seed: int) -> Stream:
        """Returns the stream that `train` has with this seed."""
        # From labels alone, views need no answers of the teacher.
        alone = all(setting.values["label_weight"] == 1 for setting in self.settings)
        quiet = without_warnings("independent_views") if alone else contextlib.nullcontext()
        with quiet:
            return join(
                self.parts.train,
                self.store,
                seed=seed,
                views=self.views_of(seed),
                progress=self.progress,
                **self.joining,
            )

    def student(self, setting: Setting, stream: Stream) -> Any:
        """Returns a student with its first weights, which depend on the seed alone."""
        values = setting.values
        source = StudentSource(
            values["student"], directory=self.out, seed=values["seed"], trust=self.trust
        )
        with precision(self.precision):
            student = source.build(stream, label_weight=values["label_weight"], loss=values["loss"])
        check_precision(student, self.precision)
        return student

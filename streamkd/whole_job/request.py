"""What a job is asked for, and what follows from that and its settings.

views_of(settings, seed=0)                # what the teacher answers
independent_views(settings, seed=0)       # the same, drawn anew for a student from labels alone
"""

from __future__ import annotations

import contextlib
import dataclasses
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from streamkd.manifest.manifest import Manifest
from streamkd.store.row_store import RowStore
from streamkd.teachers.teach import teach
from streamkd.teachers.teacher import Teacher
from streamkd.views.views import Views
from streamkd.whole_job.budget import Budget
from streamkd.whole_job.by_hand import Described
from streamkd.whole_job.parts import Parts
from streamkd.whole_job.student_source import StudentSource

# File of the teacher's classes in the directory of a job, one a line.
CLASSES = "classes.txt"
# Settings that are arguments of `Views`, besides the number of views.
VIEW_SETTINGS = ("crop", "flip", "color", "erase", "mixup", "cutmix", "canonical_size")
# Settings of `train` that are used only where they are given.
OF_TRAIN = ("loss", "optimizer")


@contextlib.contextmanager
def no_signals() -> Iterator[None]:
    """Within it, nothing stops a training but an exception."""
    yield None


@dataclasses.dataclass(kw_only=True)
class Request:
    """What a job is asked for.

    Attributes:
      parts: the images.
      teacher: ready to be asked.
      student: its source.
      out: directory of the job.
      baseline: whether to train the student from labels alone, too.
      budget: or None.
      given: settings that the user chose, by the names of flags.
      pixels: how files become pixels for the teacher, by argument of `teach`, without the size.
      image_size: (height, width) that the student sees; None for the teacher's.
      teacher_classes: the teacher's classes; None for its own, or those of the images.
      student_preprocess: as in `Distiller`.
      seed: of everything.
      trust: allow files that run code on loading.
      progress: show on standard error what is done.
      asked: what is compared when a job goes on, by name.
      described: makes the description for `commands_by_hand`, given settings and image size.
      imports: modules of the user's own.
      stopping: makes a context around a training, as `cli.signals.StopSignals`.
      clock: returns seconds.
    """

    parts: Parts
    teacher: Teacher
    student: StudentSource
    out: Path
    baseline: bool
    budget: Budget | None
    given: dict[str, Any]
    pixels: dict[str, Any]
    image_size: tuple[int, int] | None
    teacher_classes: list[str] | None
    student_preprocess: str
    seed: int
    trust: bool
    progress: bool
    asked: dict[str, Any]
    described: Callable[[dict[str, Any], tuple[int, int]], Described]
    imports: list[str]
    stopping: Callable[[], Any] = no_signals
    clock: Callable[[], float] = time.perf_counter

    @property
    def class_names(self) -> list[str] | None:
        """The teacher's classes, as given, as it knows them, or those of the images."""
        return self.teacher_classes or self.teacher.class_names or self.parts.train.class_names

    @property
    def needs_class_file(self) -> bool:
        """Whether the two parts have other classes, so that their own are not the teacher's."""
        own = [part.class_names for part in (self.parts.train, self.parts.validation)]
        return self.class_names is not None and any(names != self.class_names for names in own)

    @property
    def teacher_pixels(self) -> dict[str, Any]:
        """How files become pixels for the teacher, as arguments of `teach`."""
        pixels = dict(self.pixels)
        if self.teacher.num_channels == 1:
            pixels.setdefault("color_mode", "grayscale")
        if self.teacher.image_size is None and self.image_size is not None:
            pixels["image_size"] = self.image_size
        return pixels

    def keeps_pixels(self, settings: dict[str, Any]) -> bool:
        """Whether the teacher's pass leaves decoded images on the disk that the student is shown.

        Views that are cut from one size are cut from it for both; else both must see one size.
        """
        if settings["cache"] != "disk":
            return False
        if settings["views"] or settings.get("canonical_size"):
            return settings.get("canonical_size") is not None
        size = self.teacher.image_size or self.teacher_pixels.get("image_size")
        return self.image_size in (None, size)

    def say(self, words: str) -> None:
        """Shows a line on standard error, where progress is shown."""
        if self.progress:
            print(words, file=sys.stderr)

    def teach(
        self,
        images: Manifest,
        path: Path,
        views: Views | None,
        *,
        codec: str,
        progress: bool,
        **cache: Any,
    ) -> RowStore:
        """Returns the store of the teacher's answers; a stopped pass goes on.

        `cache` are the arguments of `teach` that leave decoded images for the student.
        """
        return teach(
            images,
            self.teacher,
            path,
            class_names=self.class_names,
            views=views,
            codec=codec,
            progress=progress,
            **cache,
            **self.teacher_pixels,
        )

    def distilling(self, settings: dict[str, Any], label_weight: float) -> dict[str, Any]:
        """Returns the arguments of `Distiller`; labels alone need no temperature and no loss."""
        compared = ("temperature", "loss") if label_weight < 1 else ()
        distilled = {name: settings[name] for name in (*compared, "optimizer") if name in settings}
        return {
            "learning_rate": settings["learning_rate"],
            "label_weight": label_weight,
            "student_preprocess": self.student_preprocess,
            **distilled,
        }


def views_of(settings: dict[str, Any], seed: int) -> Views | None:
    """Returns the views that the teacher answers; None for plain images alone.

    Raises:
      OptionError: settings of views without views, or a value out of range.
    """
    chosen = {name: settings[name] for name in VIEW_SETTINGS if name in settings}
    if not settings["views"] and not any(chosen.values()):
        return None
    return Views(settings["views"], seed=seed, **chosen)


def independent_views(settings: dict[str, Any], seed: int) -> Views | None:
    """Returns views like the teacher's, one an epoch; None without views."""
    views = views_of(settings, seed)
    if views is None or not views.count:
        return None
    return dataclasses.replace(views, count=1, mixup=0.0, cutmix=0.0)

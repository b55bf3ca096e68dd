"""The commands of a job's steps, which a user can repeat and change.

commands_by_hand(description)
['mkdir -p runs/first-by-hand', 'streamkd scan photos/train …', …]
"""

from __future__ import annotations

import dataclasses
import shlex
from typing import Any

# Flags of a drawn view.
_VIEW_FLAGS = ("crop", "flip", "color", "erase", "mixup", "cutmix", "canonical_size")
# What views of several images are made of: a student from labels alone is not shown them.
_MIXING = ("mixup", "cutmix")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Described:
    """As much of a job as its commands say.

    Attributes:
      run: the job's directory.
      scan: words of `scan` that list the images to learn from, after the path; None if they were
        given as a manifest, which the job wrote.
      scan_validation: the same for the images to measure on.
      teacher: words of `teach` that describe the teacher; None if it was given in memory.
      student: words of `train` that describe the student.
      pixels: how files become pixels for the teacher, by argument of `teach`.
      image_size: (height, width) that the student sees.
      settings: those of the recipe, and of views.
      seed: of everything.
      is_labelled: whether the student is measured on validation images after every epoch.
      keeps_pixels: whether the teacher's pass leaves the decoded images for training.
      baseline: whether the student is trained from labels alone, too.
      trust: whether files may run code on loading.
      common: words of every command, such as those of --import.
    """

    run: str
    scan: list[str] | None
    scan_validation: list[str] | None
    teacher: list[str] | None
    student: list[str]
    pixels: dict[str, Any]
    image_size: tuple[int, int]
    settings: dict[str, Any]
    seed: int
    is_labelled: bool
    keeps_pixels: bool
    baseline: bool
    trust: bool
    common: list[str]

    @property
    def by_hand(self) -> str:
        """The directory that the commands write to."""
        return f"{self.run}-by-hand"


def commands_by_hand(job: Described) -> list[str]:
    """Returns the commands; those of a teacher in memory are left out, and its stores are read."""
    train, validation = (
        f"{job.run if words is None else job.by_hand}/{name}.jsonl"
        for words, name in ((job.scan, "train"), (job.scan_validation, "validation"))
    )
    stores = job.run if job.teacher is None else job.by_hand
    store, validation_store = f"{stores}/teacher.h5", f"{stores}/teacher-validation.h5"
    commands = [["mkdir", "-p", job.by_hand]]
    for words, path in ((job.scan, train), (job.scan_validation, validation)):
        if words is not None:
            commands.append(["streamkd", "scan", *words, "--out", path])
    settings, seed = job.settings, ["--seed", str(job.seed)]
    pixels = _words(job.pixels)
    trust = ["--trust"] if job.trust else []
    if job.teacher is not None:
        teach = [*job.teacher, *pixels, "--codec", settings["codec"], *seed, *trust, *job.common]
        views = {name: settings.get(name) for name in ("views", *_VIEW_FLAGS)}
        kept = _words({"cache": "disk" if job.keeps_pixels else None})
        views_and_cache = [*_words(views), *kept]
        commands.append(["streamkd", "teach", train, *teach, *views_and_cache, "--out", store])
        commands.append(["streamkd", "teach", validation, *teach, "--out", validation_store])
    shown = ["--validation", validation] if job.is_labelled else []
    size = _words({"image_size": job.image_size})
    student = [*job.student, *_words(_of_training(settings)), *seed, *trust, *job.common]
    compared = ("temperature", "label_weight", "loss")
    loss = _words({name: settings[name] for name in compared if name in settings})
    run, baseline = f"{job.by_hand}/distilled", f"{job.by_hand}/labels-alone"
    train_words = ["streamkd", "train", train]
    commands.append([*train_words, "--store", store, *student, *loss, *size, *shown, "--out", run])
    if job.baseline:
        alone = ["--store", store, "--label-weight", "1", *size, *_independent(settings)]
        commands.append([*train_words, *student, *alone, *shown, "--out", baseline])
    evaluate = ["--store", validation_store, *trust, *job.common]
    for path in (run, *((baseline,) if job.baseline else ())):
        commands.append(["streamkd", "evaluate", path, validation, *evaluate])
    return [shlex.join(words) for words in commands]


def _of_training(settings: dict[str, Any]) -> dict[str, Any]:
    """Returns the settings of `train` that both students have."""
    names = ("epochs", "batch_size", "learning_rate", "cache", "optimizer")
    return {name: settings[name] for name in names if name in settings}


def _independent(settings: dict[str, Any]) -> list[str]:
    """Returns the words that draw the crops and flips of the store anew."""
    if not settings["views"]:
        return []
    drawn = {name: settings.get(name) for name in _VIEW_FLAGS if name not in _MIXING}
    return ["--augment", "independent", *_words(drawn)]


def _words(values: dict[str, Any]) -> list[str]:
    """Returns flags and their values as words; without those that are off."""
    words: list[str] = []
    for name, value in values.items():
        flag = f"--{name.replace('_', '-')}"
        if value is None or value is False or (name == "views" and not value):
            continue
        if value is True:
            words.append(flag)
        elif name in ("image_size", "canonical_size"):
            words += [flag, "x".join(map(str, value))]
        elif name == "background":
            words += [flag, ",".join(map(str, value))]
        elif isinstance(value, tuple | list):
            words += [flag, *(f"{part:g}" for part in value)]
        elif isinstance(value, float):
            words += [flag, repr(value)]
        else:
            words += [flag, str(value)]
    return words

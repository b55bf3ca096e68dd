"""`distill`: the whole job in one call.

report = distill("photos/train", "teacher.keras", "MobileNetV3Small", "runs/first", baseline=True)
report.accuracy, report.baseline_accuracy, report.teacher_accuracy
"""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Any

from streamkd.checks import check_choice, check_count, check_types
from streamkd.errors import OptionError, OutputError
from streamkd.manifest.listing import UNLABELLED
from streamkd.manifest.manifest import Manifest, as_manifest
from streamkd.public import public
from streamkd.reports import Report
from streamkd.store import codecs
from streamkd.stream.join import CACHES
from streamkd.teachers.load_teacher import load_teacher
from streamkd.training.recipe import LOSSES
from streamkd.whole_job.budget import Budget, parse_budget
from streamkd.whole_job.by_hand import Described
from streamkd.whole_job.job import Job
from streamkd.whole_job.parts import parts_of
from streamkd.whole_job.recipe_choice import validation_split as chosen_split
from streamkd.whole_job.request import CLASSES, OF_TRAIN, VIEW_SETTINGS, Request, no_signals
from streamkd.whole_job.student_source import StudentSource

# Settings that are chosen, or given by the flag of the same name.
SETTINGS = (
    *("views", *VIEW_SETTINGS, "codec"),
    *("epochs", "batch_size", "learning_rate", "temperature", "label_weight", "cache"),
    *OF_TRAIN,
)


class DistillReport(Report):
    """What a job came to; fields that need labels are None without them.

    Attributes:
      teacher_accuracy, accuracy: of the teacher and of the distilled student, on the images that
        neither student learned from.
      num_errors: labelled images among them whose class is not the student's first choice.
      baseline_accuracy, baseline_num_errors: the same of the student from labels alone; None
        without `baseline`.
      num_images: images that all were measured on.
      run: the directory of the job, which is the run directory of the student.
      store: path of the teacher's answers.
      report: path of a report, or None.
      commands: the steps, as commands to repeat and to change.
      outcome: 'new', 'resumed', or 'already_finished', and nothing was done.
    """

    teacher_accuracy: float | None
    accuracy: float | None
    num_errors: int | None
    baseline_accuracy: float | None
    baseline_num_errors: int | None
    num_images: int
    run: str
    store: str
    report: str | None
    commands: list[str]
    outcome: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Words:
    """The words of the command line, where one was given; they become part of the commands.

    Attributes:
      scan: of `scan`, after the command, to list all images; `scan_validation`: the others.
      teacher: of `teach`, that describe the teacher.
      common: of every command.
      imports: modules of the user's own.
    """

    scan: list[str] | None = None
    scan_validation: list[str] | None = None
    teacher: list[str] | None = None
    common: list[str] = dataclasses.field(default_factory=list)
    imports: list[str] = dataclasses.field(default_factory=list)


@public
def distill(
    images: Manifest | str | os.PathLike,
    teacher: Any,
    student: Any,
    out: str | os.PathLike,
    *,
    validation: Manifest | str | bytes | os.PathLike | None = None,
    validation_split: float | None = None,
    baseline: bool = False,
    budget: str | None = None,
    image_size: tuple[int, int] | None = None,
    class_names: list[str] | None = None,
    student_preprocess: str = "none",
    seed: int = 0,
    trust: bool = False,
    progress: bool = True,
    views: int | None = None,
    crop: tuple[float, float] | None = None,
    flip: bool | None = None,
    color: float | None = None,
    erase: float | None = None,
    mixup: float | None = None,
    cutmix: float | None = None,
    canonical_size: tuple[int, int] | None = None,
    codec: str | None = None,
    epochs: int | None = None,
    batch_size: int | None = None,
    learning_rate: float | None = None,
    temperature: float | None = None,
    label_weight: float | None = None,
    cache: str | None = None,
    loss: str | None = None,
    optimizer: str | None = None,
) -> DistillReport:
    """Does the whole job: holds images out, asks the teacher, trains the student, and measures it.

    All settings are chosen from what is known, and shown with their reasons before the job begins.
    A job that was stopped goes on where it was, by the same call.

    Args:
      images: a directory with one folder a class, a manifest, or images without labels.
      teacher: a `Teacher`, or a source that `load_teacher` takes.
      student: what `--student` takes, or a Keras model, which is copied and stays as it is.
      out: directory of the job; becomes the run directory of the student.
      validation: images to measure on; by default a part of `images` is held out.
      validation_split: fraction to hold out, of every class.
      baseline: train the same student from labels alone as well, for as many epochs.
      budget: '10m' or '1h', for the teacher's answers and the distilled student together, or
        '30 epochs'.
      image_size: (height, width) that the student sees; by default what it takes, or else
        what the teacher sees.
      class_names: the teacher's classes in the order of its outputs; by default those of its run
        directory, or the images'.
      student_preprocess: as in `Distiller`.
      seed: of the split, of views, of the order and of the first weights.
      trust: allow model files that run code on loading.
      progress: show on standard error what is done.
      views: number of views besides the plain image; this and all that follow are chosen if None.
      crop, flip, canonical_size: as in `Views`.
      color, erase, mixup, cutmix: as in `Views`; none unless they are given.
      codec: as in `teach`.
      epochs: as in `Distiller.fit`.
      batch_size, cache: as in `join`.
      learning_rate, temperature, label_weight: as in `Distiller`.
      loss, optimizer: names, as in `Distiller`; its defaults unless they are given.

    Raises:
      OptionError: a setting out of range, or images that cannot be split.
      ResumeError: `out` holds another job.
      StreamkdError: images, teacher and student do not fit; what was done is kept.
    """
    arguments = locals()
    check_types(distill, arguments)
    settings = {name: arguments[name] for name in SETTINGS if arguments[name] is not None}
    path = _path(teacher)
    listed, others = _path(images), _path(validation)
    words = Words(
        scan=None if listed is None else [listed],
        scan_validation=None if others is None else [others],
        teacher=None if path is None else ["--teacher", path],
    )
    listed_images = as_manifest(images)
    other_images = None if validation is None else as_manifest(validation, "validation")
    asked = prepare(
        listed_images,
        load_teacher(teacher) if path is None else load_teacher(path, trust=trust),
        student,
        out,
        validation=other_images,
        validation_split=validation_split,
        baseline=baseline,
        budget=budget,
        image_size=image_size,
        class_names=class_names,
        student_preprocess=student_preprocess,
        seed=seed,
        trust=trust,
        progress=progress,
        settings=settings,
        words=words,
    )
    return DistillReport(**Job(asked).run())


def prepare(
    images: Manifest,
    teacher: Any,
    student: Any,
    out: str | os.PathLike,
    *,
    validation: Manifest | None,
    validation_split: float | None,
    baseline: bool,
    budget: str | None,
    image_size: tuple[int, int] | None,
    class_names: list[str] | None,
    student_preprocess: str,
    seed: int,
    trust: bool,
    progress: bool,
    settings: dict[str, Any],
    words: Words,
    pixels: dict[str, Any] | None = None,
    stopping: Any = no_signals,
) -> Request:
    """Returns the checked request of a job; arguments and errors as in `distill`.

    Args:
      settings: those that were given.
      words: of the command line.
      pixels: how files become pixels for the teacher, by argument of `teach`.
      stopping: as in `Request`.
    """
    parsed = _budget(budget, settings)
    if os.path.lexists(out) and not os.path.isdir(out):
        raise OutputError(f"--out {os.fspath(out)} is a file.\nGive the path of a run directory.")
    if validation is not None and validation_split is not None:
        raise OptionError(
            "--validation gives images to measure on, and --validation-split holds some out.\n"
            "Leave one of them out."
        )
    split = chosen_split(len(images))[0] if validation_split is None else validation_split
    parts = parts_of(images, validation=validation, split=split, seed=seed, baseline=baseline)
    _check_settings(settings, len(parts.train))
    source = StudentSource(student, directory=Path(out), seed=seed, trust=trust)
    image_size = image_size or source.own_size()
    held = ["--validation-split", repr(split), "--seed", str(seed)]
    held += ["--stratify"] if parts.is_stratified else []
    scanned, scanned_validation = words.scan, words.scan_validation
    if validation is None and scanned is not None:
        scanned, scanned_validation = (
            [*scanned, *held, "--subset", subset] for subset in ("training", "validation")
        )

    def described(chosen: dict[str, Any], size: tuple[int, int]) -> Described:
        return Described(
            run=str(out),
            scan=scanned,
            scan_validation=scanned_validation,
            teacher=_with_classes(words.teacher, request),
            student=["--student", source.text, "--student-preprocess", student_preprocess],
            pixels=request.teacher_pixels,
            image_size=size,
            settings=chosen,
            seed=seed,
            is_labelled=bool((images.labels != UNLABELLED).any()) or images.multi_hot is not None,
            keeps_pixels=request.keeps_pixels(chosen),
            baseline=baseline,
            trust=trust,
            common=words.common,
        )

    request = Request(
        parts=parts,
        teacher=teacher,
        student=source,
        out=Path(out),
        baseline=baseline,
        budget=parsed,
        given=settings,
        pixels=dict(pixels or {}),
        image_size=image_size,
        teacher_classes=class_names,
        student_preprocess=student_preprocess,
        seed=seed,
        trust=trust,
        progress=progress,
        asked={
            "teacher": teacher.name,
            "student": None if source.is_model else source.text,
            "student_preprocess": student_preprocess,
            "image_size": image_size,
            "validation_split": None if validation is not None else split,
            "budget": budget,
            "seed": seed,
        },
        described=described,
        imports=words.imports,
        stopping=stopping,
    )
    return request


def _with_classes(teacher: list[str] | None, request: Request) -> list[str] | None:
    """Returns the words of the teacher, and of the file of its classes if only the job knows them.

    Without it, a pass over images of some classes would take those for all.
    """
    if teacher is None or not request.needs_class_file or "--class-names" in teacher:
        return teacher
    return [*teacher, "--class-names", str(request.out / CLASSES)]


def _check_settings(settings: dict[str, Any], num_images: int) -> None:
    """Refuses settings that would be refused only after the teacher's pass."""
    for name in ("epochs", "batch_size"):
        if name in settings:
            check_count(f"--{name.replace('_', '-')}", settings[name])
    if "codec" in settings:
        codecs.get(settings["codec"])
    check_choice("cache", settings.get("cache"), (None, *CACHES))
    check_choice("loss", settings.get("loss"), (None, *LOSSES))
    if settings.get("batch_size", 0) > num_images:
        raise OptionError(
            f"--batch-size is {settings['batch_size']:,}, and there are {num_images:,} images to "
            "learn from.\nGive a smaller --batch-size."
        )


def _path(value: Any) -> str | None:
    """Returns a path as text; None for what is none."""
    return os.fspath(value) if isinstance(value, str | os.PathLike) else None


def _budget(text: str | None, settings: dict[str, Any]) -> Budget | None:
    """Returns the budget; refuses one beside a number of epochs."""
    if text is None:
        return None
    if "epochs" in settings:
        raise OptionError(
            f"--epochs is {settings['epochs']}, and the budget {text!r} decides the epochs.\n"
            "Leave one of them out."
        )
    return parse_budget(text)

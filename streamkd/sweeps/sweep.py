"""`sweep`: several students from one stream, in one call.

report = sweep("photos", "teacher.h5", "MobileNetV3Small", "runs/sweep", temperature=[1, 2, 4])
report.best, report.command
print(describe(report))
"""

from __future__ import annotations

import os
import shlex
from pathlib import Path
from typing import Any

from streamkd.checks import check_choice, check_count, check_types
from streamkd.ensemble.ensemble_store import as_store
from streamkd.errors import OptionError, OutputError
from streamkd.manifest.manifest import Manifest, as_manifest
from streamkd.manifest.own_outputs import refuse_among_classes
from streamkd.public import public
from streamkd.runs.run_directory import RunDirectory
from streamkd.sweeps.command_words import flag_words, store_words
from streamkd.sweeps.grid import AXES, Setting, as_values, grid, text_of
from streamkd.sweeps.report import SweepReport, criterion_of, report_of
from streamkd.sweeps.request import TRAIN, VALIDATION, Request
from streamkd.sweeps.sweep_file import SweepFile
from streamkd.sweeps.training import Training
from streamkd.training.recipe import LEARNING_RATE
from streamkd.whole_job.parts import parts_of
from streamkd.whole_job.recipe_choice import validation_split as chosen_split

# Arguments of `sweep` that are those of `join` and of `Distiller`.
_JOINING = (
    *("batch_size", "image_size", "missing", "on_bad", "cache", "views_per_decode", "balance"),
)
_DISTILLING = (
    *("optimizer", "schedule", "warm_up", "weight_decay", "clip_norm", "accumulate", "ema"),
    *("label_smoothing", "standardize", "student_preprocess", "jit", "on_nonfinite"),
)
# Whether XLA compiles a step; a measurement would compile some students and not others.
JITS = ("off", "on")


@public
def sweep(
    images: Manifest | str | os.PathLike,
    store: Any,
    student: Any,
    out: str | os.PathLike,
    *,
    temperature: Any = "auto",
    label_weight: Any = "auto",
    loss: Any = "auto",
    learning_rate: Any = LEARNING_RATE,
    seed: Any = 0,
    validation: Manifest | str | bytes | os.PathLike | None = None,
    validation_split: float | None = None,
    epochs: int = 10,
    batch_size: int = 32,
    image_size: tuple[int, int] | None = None,
    missing: str = "raise",
    on_bad: str = "raise",
    cache: str | None = None,
    views_per_decode: int = 1,
    balance: bool = False,
    optimizer: Any = "adamw",
    schedule: str | None = None,
    warm_up: float | None = None,
    weight_decay: float | None = None,
    clip_norm: float | None = None,
    accumulate: int = 1,
    ema: float | None = None,
    label_smoothing: float = 0.0,
    standardize: bool = False,
    student_preprocess: str = "none",
    jit: str = "off",
    on_nonfinite: str = "raise",
    at_once: int | None = None,
    resume: bool = True,
    trust: bool = False,
    progress: bool = True,
) -> SweepReport:
    """Trains one student for each point of a grid, all from one stream, and chooses the best.

    Each image is read, decoded and joined with its logits once for all students. Each student is,
    to the bit, the one that `streamkd train` makes alone with the same settings, and has an
    ordinary run directory. A sweep that was stopped goes on by the same call; a student that
    diverges does not end the others.

    Args:
      images: the images to learn from; a part of them is held out without `validation`.
      store: the teacher's logits: a path or an open store; None for labels alone.
      student: what `--student` takes, or a list of several.
      out: directory of the sweep; the runs lie below it.
      temperature, label_weight, loss, learning_rate: as in `Distiller`, or a list of several.
      seed: of the first weights and of the order, or a list of several: each has a stream of its
        own, as `train` has. The first one is the seed of the split.
      validation: images that decide: the best student has the largest accuracy on them, or without
        labels the smallest KL divergence from the teacher.
      validation_split: fraction of `images` to hold out, of every class.
      epochs: of every student.
      batch_size, image_size, missing, on_bad, cache, views_per_decode, balance: as in `join`.
      optimizer: name of a Keras optimizer; each student has its own.
      schedule, warm_up, weight_decay, clip_norm, accumulate, ema, label_smoothing, standardize,
        student_preprocess, on_nonfinite: as in `Distiller`.
      jit: 'on' or 'off', whether XLA compiles the steps.
      at_once: largest number of students that are trained together, each group from one stream; by
        default as many as fit into half of the free memory.
      resume: False starts over.
      trust: allow model files that run code on loading.
      progress: show on standard error what is done.

    Raises:
      OptionError: an empty grid, two equal settings, or a value out of range.
      ResumeError: `out` holds another sweep, or a run.
      StreamkdError: images, store and students do not fit. Values are refused before the first
        step.
    """
    given = locals()
    check_types(sweep, given)
    if not isinstance(optimizer, str):
        raise OptionError(
            f"optimizer is of the type {type(optimizer).__name__}, and each student needs its own."
            "\nGive the name of a Keras optimizer, such as 'adamw'."
        )
    axes = {name: as_values(given[name]) for name in AXES}
    settings = grid({name: list(map(_plain, values)) for name, values in axes.items()})
    listed = as_manifest(images)
    others = None if validation is None else as_manifest(validation, "validation")
    opened = None if store is None else as_store(store)
    joining = {name: given[name] for name in _JOINING}
    distilling = {name: given[name] for name in _DISTILLING}
    common = {**joining, **distilling}

    def recorded(setting: Setting, run: str) -> dict[str, Any]:
        return {**common, **setting.values, "epochs": epochs, "out": run}

    def command(setting: Setting) -> str:
        words = ["streamkd", "train", f"{request.out}/{TRAIN}", *store_words(opened)]
        if not request.decides_by_teacher:
            words += ["--validation", f"{request.out}/{VALIDATION}"]
        values = {**common, **setting.values, "epochs": epochs, "trust": trust}
        return shlex.join([*words, *flag_words(values), "--out", f"{request.out}-best"])

    request = prepare(
        settings,
        listed,
        opened,
        out,
        validation=others,
        validation_split=validation_split,
        epochs=epochs,
        joining=joining,
        distilling_all=distilling,
        fitting={},
        recorded=recorded,
        command=command,
        asked=dict(common),
        at_once=at_once,
        resume=resume,
        trust=trust,
        progress=progress,
    )
    return run_sweep(request)


def prepare(
    settings: list[Setting],
    images: Manifest,
    store: Any,
    out: str | os.PathLike,
    *,
    validation: Manifest | None,
    validation_split: float | None,
    epochs: int,
    at_once: int | None,
    **request: Any,
) -> Request:
    """Returns the checked request of a sweep.

    Args:
      settings: returned by `grid`.
      images: the images to learn from, those to be held out included.
      validation, validation_split, epochs, at_once: as in `sweep`.
      request: other attributes of `Request`.
    """
    check_count("epochs", epochs)
    if at_once is not None:
        check_count("--at-once", at_once)
    if os.path.lexists(out) and not os.path.isdir(out):
        raise OutputError(f"--out {os.fspath(out)} is a file.\nGive the path of a directory.")
    if validation is not None and validation_split is not None:
        raise OptionError(
            "--validation gives images that decide, and --validation-split holds some out.\n"
            "Leave one of them out."
        )
    check_choice("jit", request["distilling_all"]["jit"], JITS)
    split = chosen_split(len(images))[0] if validation_split is None else validation_split
    seed = settings[0].values["seed"]
    parts = parts_of(images, validation=validation, split=split, seed=seed, baseline=False)
    return Request(
        settings=settings,
        parts=parts,
        store=store,
        out=Path(out),
        epochs=epochs,
        at_once=at_once,
        **request,
    )


def run_sweep(request: Request) -> SweepReport:
    """Trains what is still to be trained of a sweep, and chooses.

    Raises:
      StreamkdError: something does not fit; before the first step nothing is left behind.
    """
    for images in (request.parts.train, request.parts.validation):
        refuse_among_classes(images, request.out, kind="run directory", flag="--out")
    criterion = criterion_of(request)
    directory, file = RunDirectory(request.out), SweepFile(request.out)
    directory.prepare()
    training = Training(request, file, criterion=criterion, is_begun=False)
    try:
        training.is_begun = file.open(_asked(request), resume=request.resume)
        if training.is_begun and not training.pending():
            request.say(f"the sweep {request.out} is already finished; nothing is done")
        else:
            signals = training.run()
            if signals is not None:
                done, every = len(file.outcomes), len(request.settings)
                raise signals.stopped_error(
                    f"The sweep {request.out} is saved; {done} of {every} students have ended. The "
                    "same command goes on."
                )
        return report_of(request, file, criterion)
    except BaseException:
        if not training.is_begun:
            directory.withdraw()
        raise
    finally:
        directory.release()


def _asked(request: Request) -> dict[str, Any]:
    """Returns what is compared when a sweep goes on."""
    axes: dict[str, list[str]] = {}
    for setting in request.settings:
        for name, value in setting.values.items():
            texts = axes.setdefault(name, [])
            if text_of(value) not in texts:
                texts.append(text_of(value))
    return {
        **axes,
        "epochs": request.epochs,
        **request.asked,
        "images": request.parts.train.fingerprint,
        "validation": request.parts.validation.fingerprint,
    }


def _plain(value: Any) -> Any:
    """Returns a value of a setting as the grid keeps it: a path as text."""
    return os.fspath(value) if isinstance(value, os.PathLike) else value

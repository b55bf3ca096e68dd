"""Exports a student as an ordinary model, and checks that it still answers the same.

report = export(distiller.student, "student.keras", images=scan("photos/val"))
report.parity, report.max_abs_difference
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from streamkd import disk
from streamkd.checks import check_choice, check_count, check_types
from streamkd.errors import OutputError, StudentError
from streamkd.image_options import ImageOptions
from streamkd.manifest.manifest import Manifest, as_manifest
from streamkd.models import families
from streamkd.models.inference import compiled_answer
from streamkd.models.interface import Interface
from streamkd.models.saving import save_model
from streamkd.public import public
from streamkd.reports import Report
from streamkd.results.evaluate import answer_all
from streamkd.results.evaluated_model import (
    model_interface,
    no_size,
    open_model,
    own_color_mode,
)
from streamkd.runs.run_directory import config_of_model
from streamkd.store.decisions import chosen

FORMATS = ("keras",)
# Number of images on which the two models are compared: at most, and of noise.
MAX_COMPARED, NUM_NOISE = 256, 16
# Largest difference of an output: a model saved and read back computes with the same numbers.
TOLERANCE = 1e-5


class ExportReport(Report):
    """The file that was written, and how its answers compare with the original's.

    Attributes:
      path: the file.
      num_bytes: its size.
      max_abs_difference: largest difference of an output.
      agreement: fraction of the compared images for which both choose the same class.
      tolerance: largest difference that counts as equal.
      parity: whether the difference is within the tolerance.
    """

    path: str
    num_bytes: int
    max_abs_difference: float
    agreement: float
    tolerance: float
    parity: bool


@public
def export(
    model: Any,
    out: str | os.PathLike,
    *,
    format: str = "keras",
    images: Manifest | str | os.PathLike | None = None,
    image_size: tuple[int, int] | None = None,
    model_output: str | int | None = None,
    batch_size: int = 64,
    trust: bool = False,
    progress: bool = True,
) -> ExportReport:
    """Writes a model for use without streamkd, and compares it with the original.

    Args:
      model: a Keras model, a `.keras` file or a run directory.
      out: path to write; an existing file is not replaced.
      format: 'keras', the only format so far.
      images: images to compare on, at most 256 of them; by default 16 images of noise.
      image_size: (height, width), for a model that takes any size; by default that of its training.
      model_output: name or number of one of several outputs; the model of that output is written.
      batch_size: images a batch.
      trust: allow a model file that runs code on loading.
      progress: show progress on standard error.

    Raises:
      OutputError: `out` exists or cannot be written.
      StudentError: `model` cannot be opened.
    """
    check_types(export, locals())
    if images is not None:
        images = as_manifest(images)
    check_choice("--format", format, FORMATS)
    check_count("batch_size", batch_size)
    out = Path(out)
    _check_out(out)
    trained: dict[str, Any] = {}
    if isinstance(model, str | os.PathLike):
        trained = config_of_model(model).get("image_options", {})
        model = open_model(model, trust=trust)
    interface = model_interface(model, model_output)
    size = image_size or interface.image_size or trained.get("image_size")
    if size is None:
        raise no_size(interface)
    mode = own_color_mode(interface, size) or trained.get("color_mode") or "rgb"
    options = ImageOptions(image_size=size, color_mode=mode)
    interface = model_interface(model, model_output, options.shape)
    model = interface.model
    before = _answers(interface, images, options, batch_size, progress)
    try:
        os.close(disk.create(out))  # Keras would write to what a link of that name leads to
    except OSError as error:
        raise OutputError(
            f"{out} cannot be written: {error.strerror}.\nGive another `--out`."
        ) from error
    try:
        save_model(model, out)
    except OSError as error:
        out.unlink(missing_ok=True)
        raise OutputError(
            f"{out} cannot be written: {error.strerror or error}.\nGive another `--out`."
        ) from error
    exported = families.load_model(out, refusal=StudentError, trust=trust)
    again = model_interface(exported, None, options.shape)
    after = _answers(again, images, options, batch_size, progress)
    difference = float(np.abs(before - after).max())
    return ExportReport(
        path=str(out),
        num_bytes=out.stat().st_size,
        max_abs_difference=difference,
        agreement=float(np.mean(_choices(before) == _choices(after))),
        tolerance=TOLERANCE,
        parity=difference <= TOLERANCE,
    )


def _choices(answers: np.ndarray) -> np.ndarray:
    """Returns the class of each row of answers, activation included, int64 `[rows]`."""
    # One output is a probability, which decides at one half.
    return chosen(answers - 0.5) if answers.shape[1] == 1 else chosen(answers)


def _check_out(out: Path) -> None:
    """Refuses an output path before the model is opened."""
    if os.path.lexists(out):
        raise OutputError(f"{out} exists already.\nMove it away, or give another `--out`.")
    if not out.parent.is_dir():
        raise OutputError(
            f"There is no directory {out.parent} to write {out.name} into.\n"
            f"Make it: `mkdir -p {out.parent}`."
        )
    if out.suffix != ".keras":
        raise OutputError(
            f"--format keras writes a .keras file; call it {out.with_suffix('.keras')}."
        )


def _answers(
    interface: Interface,
    images: Manifest | None,
    options: ImageOptions,
    batch_size: int,
    progress: bool,
) -> np.ndarray:
    """Returns the model's outputs, activation included, for images or noise, float32."""
    answer = compiled_answer(interface.answers, refusal=StudentError)
    if images is None:
        noise = tf.random.stateless_uniform((NUM_NOISE, *options.shape), (1, 2), maxval=255.0)
        return answer(noise).numpy()
    # Evenly from the whole list, which is sorted by class.
    step = -(-len(images) // MAX_COMPARED)
    subset = images.select(np.arange(0, len(images), step))
    return answer_all(answer, subset, options, batch_size, progress)

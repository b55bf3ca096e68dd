"""Exports a student as an ordinary model, and checks that it still answers the same.

export(distiller.student, "student.keras", images=scan("photos/val"))
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from streamkd.checks import check_choice, check_count
from streamkd.errors import OptionError, OutputError, StudentError
from streamkd.image_options import ImageOptions
from streamkd.manifest.manifest import Manifest
from streamkd.models import families
from streamkd.models.inference import compiled_answer
from streamkd.public import public
from streamkd.results.evaluate import answer_all, model_color_mode, model_image_size, open_model

FORMATS = ("keras",)
NUM_CHECKED = 256
# A model saved and read back computes with the same numbers.
TOLERANCE = {"keras": 1e-5}


@public
def export(
    model: Any,
    out: str | os.PathLike,
    *,
    format: str = "keras",
    images: Manifest | None = None,
    image_size: tuple[int, int] | None = None,
    batch_size: int = 64,
    trust: bool = False,
    progress: bool = True,
) -> dict[str, Any]:
    """Writes a model for use without streamkd, and compares it with the original.

    Args:
      model: a Keras model, a `.keras` file or a run directory.
      out: path to write; an existing file is not replaced.
      format: 'keras'.
      images: real images to compare on (up to 256 of them); noise where there are none.
      image_size: for a model that takes any size.
      batch_size: images a batch.
      trust: allow a model file that runs code on loading.
      progress: show progress on standard error.

    Returns:
      A dict with path, num_bytes, max_abs_difference (of the outputs), agreement, tolerance and
      parity (whether the difference is within the tolerance).

    Raises:
      OutputError: `out` exists or cannot be written.
      StudentError: `model` cannot be opened.
    """
    check_choice("--format", format, FORMATS)
    check_count("batch_size", batch_size)
    out = Path(out)
    _check_out(out, format)
    if isinstance(model, str | os.PathLike):
        model = open_model(model, trust=trust)
    size = image_size or model_image_size(model)
    if size is None:
        raise OptionError("The model takes images of any size; add --image-size HEIGHTxWIDTH.")
    options = ImageOptions(image_size=size, color_mode=model_color_mode(model) or "rgb")
    before = _answers(model, images, options, batch_size, progress)
    try:
        model.save(out)
    except OSError as error:
        out.unlink(missing_ok=True)
        raise OutputError(
            f"{out} cannot be written: {error.strerror or error}.\nGive another `--out`."
        ) from error
    exported = families.load_model(out, refusal=StudentError, trust=trust)
    after = _answers(exported, images, options, batch_size, progress)
    difference = float(np.abs(before - after).max())
    return {
        "path": str(out),
        "num_bytes": out.stat().st_size,
        "max_abs_difference": difference,
        "agreement": float(np.mean(before.argmax(axis=1) == after.argmax(axis=1))),
        "tolerance": TOLERANCE[format],
        "parity": difference <= TOLERANCE[format],
    }


def _check_out(out: Path, format: str) -> None:
    if out.exists():
        raise OutputError(f"{out} exists already.\nMove it away, or give another `--out`.")
    if not out.parent.is_dir():
        raise OutputError(
            f"There is no directory {out.parent} to write {out.name} into.\n"
            f"Make it: `mkdir -p {out.parent}`."
        )
    if format == "keras" and out.suffix != ".keras":
        raise OutputError(
            f"--format keras writes a .keras file; call it {out.with_suffix('.keras')}."
        )


def _answers(
    model: Any, images: Manifest | None, options: ImageOptions, batch_size: int, progress: bool
) -> np.ndarray:
    """Returns the model's own outputs, activation and all, for the images or for noise."""
    answer = compiled_answer(model)
    if images is None:
        noise = tf.random.stateless_uniform((16, *options.shape), (1, 2), maxval=255.0)
        return answer(noise).numpy()
    # From all over the list, which is sorted by class.
    some = images.select(np.arange(0, len(images), -(-len(images) // NUM_CHECKED)))
    return answer_all(answer, some, options, batch_size, progress)

"""Exports a student for use without streamkd, and checks that it still answers the same.

report = export(distiller.student, "student.keras", images=scan("photos/val"))
report = export("runs/first", "student.tflite", format="tflite", precision="int8", images=images)
report.parity, report.agreement, report.latency_ms
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from streamkd.checks import check_count, check_types
from streamkd.errors import OptionError, StudentError
from streamkd.exports import onnx_file, saved_model_file, tflite_file
from streamkd.exports.comparison import Comparison, agreement, pixels_of
from streamkd.exports.formats import ExportFormat, export_format
from streamkd.exports.output_path import NewOutput, class_names_path
from streamkd.exports.traced_model import TracedModel
from streamkd.image_options import ImageOptions
from streamkd.manifest.manifest import Manifest, as_manifest
from streamkd.models import families
from streamkd.models.inference import compiled_answer
from streamkd.models.interface import Interface
from streamkd.models.saving import save_model
from streamkd.public import public
from streamkd.reports import Report
from streamkd.results.evaluate import latency_ms
from streamkd.results.evaluated_model import (
    model_interface,
    no_size,
    open_model,
    own_color_mode,
)
from streamkd.runs.run_directory import config_of_model
from streamkd.store.decisions import fits_names

# Real images whose activations give the ranges of 'int8'; more move them little.
MAX_CALIBRATION, FEWEST_CALIBRATION = 200, 10


class ExportReport(Report):
    """The file that was written, and how its answers compare with the original's.

    Attributes:
      path: the file or directory.
      format: 'keras', 'savedmodel', 'tflite' or 'onnx'.
      precision: 'float32', 'float16', 'dynamic' or 'int8'.
      num_bytes: its size.
      original_bytes: size of the original as a `.keras` file.
      class_names_path: text file with a class name a line, in the order of the outputs; None where
        the names are not known.
      num_images: images that both answered.
      max_abs_difference: largest difference of an output.
      agreement: fraction of the compared images for which both choose the same class.
      tolerance: largest difference that counts as equal.
      parity: whether difference and agreement are within the tolerance of the format.
      latency_ms: median time of the export for one image alone, in milliseconds.
      original_latency_ms: of the original.
    """

    path: str
    format: str
    precision: str
    num_bytes: int
    original_bytes: int
    class_names_path: str | None
    num_images: int
    max_abs_difference: float
    agreement: float
    tolerance: float
    parity: bool
    latency_ms: float
    original_latency_ms: float


@public
def export(
    model: Any,
    out: str | os.PathLike,
    *,
    format: str = "keras",
    precision: str = "float32",
    images: Manifest | str | os.PathLike | None = None,
    max_images: int = 256,
    image_size: tuple[int, int] | None = None,
    class_names: Sequence[str] | None = None,
    model_output: str | int | None = None,
    batch_size: int = 64,
    trust: bool = False,
    progress: bool = True,
) -> ExportReport:
    """Writes a model for use without streamkd, and compares it with the original.

    Preprocessing that is part of the model is inside every format: it takes float32 pixels from 0
    to 255. Where the class names are known, a text file beside it lists them.

    Args:
      model: a Keras model, a `.keras` file or a run directory.
      out: path to write; an existing file is not replaced.
      format: 'keras'; 'savedmodel', a directory for programs of TensorFlow; 'tflite'; or 'onnx',
        which needs `pip install 'streamkd[export]'`.
      precision: for 'tflite': 'float32'; 'float16', half the size; 'dynamic', weights in 8 bits; or
        'int8', activations too, which needs `images` for their ranges.
      images: images to compare on; by default 16 images of noise.
      max_images: largest number of images to compare on.
      image_size: (height, width), for a model that takes any size; by default that of its training.
      class_names: in the order of the outputs; by default those of the run.
      model_output: name or number of one of several outputs; the model of that output is written.
      batch_size: images a batch.
      trust: allow a model file that runs code on loading.
      progress: show progress on standard error.

    Raises:
      OutputError: `out` exists or cannot be written.
      StudentError: `model` cannot be opened, or cannot be converted.
      OptionError: options that do not fit each other or the model.
      MissingExtraError: the format needs a package that is not installed.
    """
    check_types(export, locals())
    chosen = export_format(format, precision)
    check_count("batch_size", batch_size)
    check_count("max_images", max_images)
    images = None if images is None else as_manifest(images)
    _check_images(chosen, images)
    if format == "onnx":
        onnx_file.check_extra()
    new = NewOutput(Path(out), chosen)
    trained: dict[str, Any] = {}
    if isinstance(model, str | os.PathLike):
        trained = config_of_model(model)
        model = open_model(model, trust=trust)
    interface, options = _settled(model, model_output, image_size, trained.get("image_options", {}))
    comparison = Comparison(
        images, options, batch_size=batch_size, max_images=max_images, progress=progress
    )
    original = compiled_answer(interface.answers, refusal=StudentError)
    before = comparison.answers(original)
    names = _checked_names(class_names or trained.get("class_names"), before.shape[1])
    calibration = None
    if precision == "int8":
        assert images is not None  # it is checked above
        calibration = pixels_of(images, options, MAX_CALIBRATION, batch_size)
    traced = TracedModel(interface, options.shape)
    with new.writing(names) as path:
        exported = _written(chosen, interface, traced, path, calibration, names, trust)
        after = comparison.answers(exported)
        is_keras = chosen.name == "keras"
        original_bytes = path.stat().st_size if is_keras else new.size_of_original(interface.model)
    difference = float(np.abs(before - after).max())
    agreeing = agreement(before, after)
    tolerance = chosen.tolerance.difference * max(1.0, float(np.abs(before).max()))
    agrees = not comparison.is_of_images or agreeing >= chosen.tolerance.agreement
    return ExportReport(
        path=str(out),
        format=format,
        precision=precision,
        num_bytes=new.num_bytes,
        original_bytes=original_bytes,
        class_names_path=str(class_names_path(Path(out))) if names else None,
        num_images=comparison.num_images,
        max_abs_difference=difference,
        agreement=agreeing,
        tolerance=tolerance,
        parity=difference <= tolerance and agrees,
        latency_ms=latency_ms(exported, options),
        original_latency_ms=latency_ms(original, options),
    )


def _check_images(chosen: ExportFormat, images: Manifest | None) -> None:
    """Refuses 8-bit activations without images that tell their ranges."""
    if chosen.precision != "int8":
        return
    given = 0 if images is None else len(images)
    if given < FEWEST_CALIBRATION:
        raise OptionError(
            f"--precision int8 learns the ranges of the activations from real images, and "
            f"{'none are given' if images is None else f'{given} are too few'}.\n"
            f"Add `--images DIRECTORY` with at least {FEWEST_CALIBRATION} images such as the model "
            "will see, or give `--precision dynamic`."
        )


def _settled(
    model: Any,
    output: str | int | None,
    size: tuple[int, int] | None,
    trained: dict[str, Any],
) -> tuple[Interface, ImageOptions]:
    """Returns the model's interface, and the options of its images.

    Args:
      model: a Keras model.
      output: name or number of one of several outputs.
      size: (height, width) that was asked for, if any.
      trained: image options of its training; empty where they are not known.
    """
    interface = model_interface(model, output)
    size = size or interface.image_size or trained.get("image_size")
    if size is None:
        raise no_size(interface)
    mode = own_color_mode(interface, size) or trained.get("color_mode") or "rgb"
    options = ImageOptions(image_size=size, color_mode=mode)
    return model_interface(interface.model, None, options.shape), options


def _checked_names(names: Sequence[str] | None, num_outputs: int) -> list[str] | None:
    """Returns the class names, and refuses others than the model has outputs."""
    if names is None:
        return None
    if not fits_names(num_outputs, list(names)):
        raise OptionError(
            f"The model has {num_outputs} outputs, and there are {len(names)} class names.\n"
            "Give a name for each output, in their order."
        )
    return list(names)


def _written(
    chosen: ExportFormat,
    interface: Interface,
    traced: TracedModel,
    path: Path,
    calibration: np.ndarray | None,
    names: list[str] | None,
    trust: bool,
) -> Callable[[Any], Any]:
    """Writes the model to `path`, and returns the answers of what was written."""
    if chosen.name == "savedmodel":
        saved_model_file.write_saved_model(traced, path)
        return saved_model_file.open_saved_model(traced, path)
    if chosen.name == "tflite":
        tflite_file.write_tflite(traced, path, chosen.precision, calibration)
        return tflite_file.open_tflite(path)
    if chosen.name == "onnx":
        onnx_file.write_onnx(traced, path, names)
        return onnx_file.open_onnx(traced, path)
    save_model(interface.model, path)
    again = families.load_model(path, refusal=StudentError, trust=trust)
    settled = model_interface(again, None, traced.shape)
    return compiled_answer(settled.answers, refusal=StudentError)

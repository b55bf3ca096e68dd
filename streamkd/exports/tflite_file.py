"""A model as a TensorFlow Lite file, for phones and small computers.

The file takes one image at a time, since delegates of phones want sizes that are known. Input and
output are float32 at every precision, so a program need not know how the file was made.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

from streamkd.errors import StudentError
from streamkd.exports.traced_model import TracedModel
from streamkd.teachers.foreign_errors import first_line


def write_tflite(
    traced: TracedModel, path: Path, precision: str, calibration: np.ndarray | None
) -> None:
    """Writes a TensorFlow Lite file.

    Args:
      traced: the model.
      path: of the file.
      precision: 'float32'; 'float16' for weights of half the size; 'dynamic' for weights in 8 bits
        and activations in float32; 'int8' for both in 8 bits.
      calibration: float32 images `[num_images, height, width, channels]`, whose activations tell
        the ranges of 'int8'; None for the others.

    Raises:
      StudentError: TensorFlow cannot convert the model.
    """
    try:
        # Constants, since the calibration of 'int8' does not find variables.
        function = convert_variables_to_constants_v2(traced.function(1).get_concrete_function())
        converter = tf.lite.TFLiteConverter.from_concrete_functions([function], tf.Module())
        if precision != "float32":
            converter.optimizations = [tf.lite.Optimize.DEFAULT]
        if precision == "float16":
            converter.target_spec.supported_types = [tf.float16]
        if precision == "int8":
            converter.representative_dataset = lambda: _one_by_one(calibration)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the converter's own, about its own arguments
            content = converter.convert()
    except Exception as error:  # the converter raises errors of every kind
        raise StudentError(
            f"The model {traced.name!r} cannot be converted to TensorFlow Lite: "
            f"{first_line(error)}.\n"
            "Give another `--format`, or replace the layer that the message names."
        ) from error
    path.write_bytes(content)


def _one_by_one(images: np.ndarray | None) -> Iterator[list[np.ndarray]]:
    assert images is not None
    for image in images:
        yield [image[None]]


def open_tflite(path: Path) -> Callable[[Any], np.ndarray]:
    """Returns a function from images to the answers of the file, asked one by one."""
    interpreter = _interpreter(path)
    source, target = (
        part[0]["index"]
        for part in (interpreter.get_input_details(), interpreter.get_output_details())
    )

    def answer(images: Any) -> np.ndarray:
        answers = []
        for image in np.asarray(images, np.float32):
            interpreter.set_tensor(source, image[None])
            interpreter.invoke()
            answers.append(interpreter.get_tensor(target)[0].copy())
        return np.stack(answers)

    return answer


def _interpreter(path: Path) -> Any:
    """Returns the interpreter, of the package that phones have where it is installed."""
    try:
        from ai_edge_litert.interpreter import Interpreter
    except ImportError:
        Interpreter = tf.lite.Interpreter  # noqa: N806
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TensorFlow's own interpreter will move to that package
        interpreter = Interpreter(model_content=path.read_bytes())
    interpreter.allocate_tensors()
    return interpreter

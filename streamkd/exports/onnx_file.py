"""A model as an ONNX file, for ONNX Runtime and what converts from ONNX."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from streamkd.errors import MissingExtraError, StudentError
from streamkd.exports.traced_model import INPUT_NAME, TracedModel
from streamkd.teachers.foreign_errors import first_line
from streamkd.teachers.onnx_teacher import new_session

# The operators that every runtime of the last years knows.
_OPSET = 17
# Key of the class names in the file's metadata: a list in JSON, in the order of the outputs.
CLASS_NAMES_KEY = "class_names"


def check_extra() -> None:
    """Refuses to begin without the packages that write and run ONNX files."""
    try:
        import onnxruntime  # noqa: F401
        import tf2onnx  # noqa: F401
    except ImportError as error:
        raise MissingExtraError(
            f"--format onnx needs the package {error.name}, and it is not installed.\n"
            "Install it: `pip install 'streamkd[export]'`."
        ) from error


def write_onnx(traced: TracedModel, path: Path, class_names: list[str] | None) -> None:
    """Writes an ONNX file with the input `images` of any batch size and one named output.

    Raises:
      StudentError: the model has an operation that ONNX has not.
    """
    import tf2onnx

    tf2onnx.logging.set_level(logging.ERROR)
    try:
        model, _ = tf2onnx.convert.from_function(
            traced.function(), input_signature=[traced.spec()], opset=_OPSET
        )
    except Exception as error:  # the converter raises errors of every kind
        raise StudentError(
            f"The model {traced.name!r} cannot be converted to ONNX: {first_line(error)}.\n"
            "Give another `--format`, or replace the layer that the message names."
        ) from error
    for part in (*model.graph.input, *model.graph.output):
        size = part.type.tensor_type.shape.dim[0]
        if not size.dim_value:
            size.dim_param = "batch"
    if class_names is not None:
        model.metadata_props.add(key=CLASS_NAMES_KEY, value=json.dumps(class_names))
    path.write_bytes(model.SerializeToString())


def open_onnx(traced: TracedModel, path: Path) -> Callable[[Any], np.ndarray]:
    """Returns a function from images to the answers of the file.

    Raises:
      StudentError: ONNX Runtime lacks an operation of the file.
    """
    try:
        session = new_session(str(path))
    except Exception as error:  # onnxruntime has classes of its own for each reason
        raise StudentError(
            f"The model {traced.name!r} was converted to ONNX, and ONNX Runtime cannot run it: "
            f"{first_line(error)}.\nGive another `--format`, or replace the layer that the "
            "message names."
        ) from error

    def answer(images: Any) -> np.ndarray:
        return session.run([traced.output_name], {INPUT_NAME: np.asarray(images, np.float32)})[0]

    return answer

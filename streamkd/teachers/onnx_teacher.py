"""An ONNX model as teacher; TensorFlow is not needed for it.

teacher = onnx_teacher("resnet50.onnx", preprocess="123.7,116.3,103.5,58.4,57.1,57.4")

Most models that PyTorch has written take channels first; the images are transposed for them.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np

from streamkd.errors import TeacherError
from streamkd.teachers.file_teacher import file_teacher
from streamkd.teachers.foreign_errors import failure, first_line
from streamkd.teachers.image_axes import (
    ImageAxes,
    InParts,
    as_rows,
    as_whole_numbers,
    chosen_output,
    refuse_several_inputs,
)
from streamkd.teachers.onnx_files import external_files
from streamkd.teachers.onnx_graph import last_operation
from streamkd.teachers.teacher import Teacher

# Kinds of input that images can be written in.
_TYPES = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(double)": np.float64,
    "tensor(uint8)": np.uint8,
    "tensor(int32)": np.int32,
    "tensor(int64)": np.int64,
}
# Whole numbers are those of classes.
_OUTPUT_TYPES = (*_TYPES, "tensor(bool)")
_FATAL_ONLY = 4  # severity of lines on standard error; errors are exceptions besides


def onnx_teacher(
    path: str | os.PathLike,
    *,
    name: str | None = None,
    output: str = "auto",
    model_output: str | int | None = None,
    **options: Any,
) -> Teacher:
    """Returns the teacher in a `.onnx` file; arguments as of `load_teacher`.

    A model whose last operation is a sigmoid answers with probabilities of independent labels.

    Raises:
      TeacherError: the package for it is missing, or the file is no model of images.
    """
    path = Path(path)
    name = name or path.name
    beside = external_files(path)
    session = _session(path, from_path=bool(beside))
    inputs, outputs = session.get_inputs(), session.get_outputs()
    refuse_several_inputs([part.name for part in inputs], name)
    number = chosen_output([part.name for part in outputs], model_output, name)
    source, target = inputs[0], outputs[number]
    for part, types in ((source, tuple(_TYPES)), (target, _OUTPUT_TYPES)):
        if part.type not in types:
            raise TeacherError(
                f"The teacher {name!r} has {part.name!r} of the type {part.type}; streamkd takes "
                f"{', '.join(types)}.\nExport the model with such an input and output."
            )
    if output == "auto" and last_operation(path, target.name) == "Sigmoid":
        output = "sigmoid"
    axes = ImageAxes.of_shape(_sizes(source), name)
    kind = _TYPES[source.type]

    def ask(images: np.ndarray) -> np.ndarray:
        try:
            return session.run([target.name], {source.name: images})[0]
        except Exception as error:  # onnxruntime has classes of its own for each reason
            raise failure(name, images, error) from error

    def answer(images: Any) -> np.ndarray:
        pixels = axes.arranged(np.asarray(images, np.float32))
        if np.issubdtype(kind, np.integer):
            pixels = as_whole_numbers(pixels, options.get("preprocess", "none"), name)
        return as_rows(np.asarray(in_parts(pixels.astype(kind)))).astype(np.float32)

    in_parts = InParts(ask, axes.batch)
    return file_teacher(
        answer,
        axes,
        name=name,
        output=output,
        sizes=_sizes(target),
        files={"model": path, **beside},
        chosen=target.name if len(outputs) > 1 else "",
        **options,
    )


def _session(path: Path, *, from_path: bool) -> Any:
    """Returns the model, ready to be asked; `from_path` if it reads files beside it."""
    try:
        import onnxruntime  # noqa: F401
    except ImportError as error:
        raise TeacherError(
            f"{path} is an ONNX model, and the package onnxruntime is not installed.\n"
            "Install it: `pip install 'streamkd[onnx]'`."
        ) from error
    try:
        return new_session(str(path) if from_path else path.read_bytes())
    except Exception as error:  # onnxruntime has classes of its own for each reason
        raise TeacherError(
            f"{path} cannot be loaded as an ONNX model: {first_line(error)}.\n"
            "Export the model again, with operations of ONNX alone."
        ) from error


def new_session(model: str | bytes) -> Any:
    """Returns ONNX Runtime's session of a model, given by its path or its bytes.

    ONNX Runtime raises errors of its own classes, and writes nothing beside them.
    """
    import onnxruntime

    settings = onnxruntime.SessionOptions()
    settings.log_severity_level = _FATAL_ONLY
    settings.intra_op_num_threads = len(os.sched_getaffinity(0))
    return onnxruntime.InferenceSession(model, settings, providers=["CPUExecutionProvider"])


def _sizes(part: Any) -> list[int | None]:
    """Returns the sizes of the axes; None for an axis of any size, which has a name or nothing."""
    return [size if isinstance(size, int) and size > 0 else None for size in part.shape or []]

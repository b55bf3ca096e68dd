"""A TensorFlow Lite model as teacher; TensorFlow itself is not needed for it.

teacher = tflite_teacher("mobilenet_v2_1.0_224_quant.tflite", drop_output=0)

Quantised numbers are real ones: scale * (number - zero point). A model whose input is quantised
from pixels of 0 to 255 gets them so. One whose input is quantised from normalised pixels, about -2
to 2, takes the bytes of the image as they are where no preprocessing is asked for: byte 0 is its
smallest number and byte 255 its largest.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np

from streamkd.errors import TeacherError
from streamkd.teachers.file_teacher import file_teacher
from streamkd.teachers.foreign_errors import first_line
from streamkd.teachers.image_axes import (
    ImageAxes,
    as_rows,
    as_whole_numbers,
    asked_in_parts,
    chosen_output,
    refuse_several_inputs,
)
from streamkd.teachers.teacher import Teacher

_TYPES = (np.float32, np.uint8, np.int8, np.int16)
# Other whole numbers: pixels as they are, and the numbers of classes.
_WHOLE_TYPES = (np.int32, np.int64)
# Largest real input of a model of normalised pixels; one of pixels from 0 to 255 has more.
_MAX_NORMALISED = 32
# Kind of the answers by the operation that makes them. Rounding to 256 levels moves the sum of
# probabilities, so that the numbers of a quantised model do not tell.
_KINDS = {"SOFTMAX": "probabilities", "LOG_SOFTMAX": "log-probabilities", "LOGISTIC": "sigmoid"}
# Largest difference between answers to the same image in batches of different sizes, as a
# fraction of the largest answer.
_TOLERANCE = 1e-2


def tflite_teacher(
    path: str | os.PathLike,
    *,
    name: str | None = None,
    output: str = "auto",
    model_output: str | int | None = None,
    preprocess: str = "none",
    **options: Any,
) -> Teacher:
    """Returns the teacher in a `.tflite` file; arguments as of `load_teacher`.

    Raises:
      TeacherError: the package for it is missing, or the file is no model of images.
    """
    path = Path(path)
    model = _Model(path, name or path.name, model_output, preprocess)
    if output == "auto":
        output = _KINDS.get(model.last_operation, "auto")
    return file_teacher(
        model,
        model.axes,
        name=name or path.name,
        sizes=model.sizes,
        files={"model": path},
        chosen=model.chosen,
        output=output,
        preprocess=preprocess,
        **options,
    )


class _Model:
    """Answers images, for as many at once as there are, where the model can.

    Args:
      path: of the file.
      name: of the teacher, for messages.
      model_output: name or number of the output; None for the only one.
      preprocess: of the pixels; 'none' for pixels as they are in the image, 0 to 255.
    """

    def __init__(
        self, path: Path, name: str, model_output: str | int | None, preprocess: str
    ) -> None:
        self._path, self._name, self._preprocess = path, name, preprocess
        self._interpreter = _interpreter(path)
        inputs = self._interpreter.get_input_details()
        outputs = self._interpreter.get_output_details()
        refuse_several_inputs([part["name"] for part in inputs], name)
        number = chosen_output([part["name"] for part in outputs], model_output, name)
        self._input, self._output = inputs[0], outputs[number]
        self.chosen = self._output["name"] if len(outputs) > 1 else ""
        for part in (self._input, self._output):
            if part["dtype"] not in (*_TYPES, *_WHOLE_TYPES):
                raise TeacherError(
                    f"The teacher {name!r} has a tensor {part['name']!r} of "
                    f"{np.dtype(part['dtype']).name}; streamkd takes float32 and whole "
                    "numbers.\nConvert the model with such an input and output."
                )
        self.axes = ImageAxes.of_shape([None, *_sizes(self._input)[1:]], name)
        self.sizes = _sizes(self._output)
        self.last_operation = _last_operation(self._interpreter, self._output["index"])
        self._own_batch = int(self._input["shape"][0])
        self._shape = tuple(self._input["shape"])  # that the interpreter has memory for
        self._can_resize: bool | None = None  # None until it was tried

    def __call__(self, images: Any) -> np.ndarray:
        """Returns float32 `[batch, num_outputs]` for `[batch, height, width, channels]`."""
        values = self._as_input(self.axes.arranged(np.asarray(images, np.float32)))
        if self._can_resize is None and len(values) != self._own_batch:
            self._can_resize = self._agrees_when_resized(values)
        batch = None if self._can_resize else self._own_batch
        return self._as_real(as_rows(asked_in_parts(self._ask, values, batch)))

    def _agrees_when_resized(self, values: np.ndarray) -> bool:
        """Returns whether a batch of any size is answered as one of the file's own size is."""
        ends = values[[0, -1]]
        alone = self._as_real(asked_in_parts(self._ask, ends, self._own_batch))
        try:
            together = self._ask(values)
        except (RuntimeError, ValueError):  # operations that are made for one size
            self._interpreter = _interpreter(self._path)
            self._shape = tuple(self._input["shape"])
            return False
        if len(together) != len(values) or together.shape[1:] != alone.shape[1:]:
            return False
        together = self._as_real(together[[0, -1]])
        bound = _TOLERANCE * float(np.abs(alone).max())
        return bool(np.allclose(together, alone, rtol=0, atol=bound, equal_nan=True))

    def _ask(self, values: np.ndarray) -> np.ndarray:
        if values.shape != self._shape:
            self._shape = ()  # unknown, should the interpreter fail
            self._interpreter.resize_tensor_input(self._input["index"], values.shape)
            self._interpreter.allocate_tensors()
            self._shape = values.shape
        self._interpreter.set_tensor(self._input["index"], values)
        self._interpreter.invoke()
        return self._interpreter.get_tensor(self._output["index"])

    def _as_input(self, pixels: np.ndarray) -> np.ndarray:
        """Returns float32 pixels in the model's own kind of number."""
        kind = self._input["dtype"]
        if kind == np.float32:
            return np.ascontiguousarray(pixels)
        if kind in _WHOLE_TYPES:
            return as_whole_numbers(pixels, self._preprocess, self._name).astype(kind)
        limits = np.iinfo(kind)
        scale, zero = self._input["quantization"]
        largest = scale * (limits.max - zero)
        if scale == 0 or (
            self._preprocess == "none" and kind != np.int16 and largest <= _MAX_NORMALISED
        ):
            numbers = pixels + (0 if scale == 0 else limits.min)
        else:
            numbers = pixels / np.float32(scale) + zero
        return np.clip(np.rint(numbers), limits.min, limits.max).astype(kind)

    def _as_real(self, answers: np.ndarray) -> np.ndarray:
        scale, zero = self._output["quantization"]
        if self._output["dtype"] == np.float32 or scale == 0:
            return answers.astype(np.float32)
        return (answers.astype(np.float32) - zero) * np.float32(scale)


def _interpreter(path: Path) -> Any:
    try:
        from ai_edge_litert.interpreter import Interpreter
    except ImportError as error:
        raise TeacherError(
            f"{path} is a TensorFlow Lite model, and the package ai-edge-litert is not installed.\n"
            "Install it: `pip install 'streamkd[tflite]'`."
        ) from error
    try:
        interpreter = Interpreter(
            model_content=path.read_bytes(), num_threads=len(os.sched_getaffinity(0))
        )
        interpreter.allocate_tensors()
    except (RuntimeError, ValueError) as error:
        raise TeacherError(
            f"{path} cannot be loaded as a TensorFlow Lite model: {first_line(error)}.\n"
            "Copy the file again, as a whole, or convert the model again with operations of "
            "TensorFlow Lite alone."
        ) from error
    return interpreter


def _sizes(part: dict[str, Any]) -> list[int | None]:
    """Returns the sizes of a tensor's axes; None for an axis of any size."""
    signature = part.get("shape_signature")
    sizes = part["shape"] if signature is None or not len(signature) else signature
    return [None if size < 0 else int(size) for size in sizes]


def _last_operation(interpreter: Any, tensor: int) -> str:
    """Returns the name of the operation that makes a tensor; empty where it cannot be told."""
    list_operations = getattr(interpreter, "_get_ops_details", None)
    operations = [] if list_operations is None else list_operations()
    makers = {}
    for operation in operations:
        # A delegate computes what operations beside it in the list say.
        if operation["op_name"] != "DELEGATE":
            makers.update(dict.fromkeys(map(int, operation["outputs"]), operation))
    sizes = {part["index"]: part["shape"] for part in interpreter.get_tensor_details()}
    num_outputs = int(np.prod(sizes[tensor][1:]))  # of an image
    maker = makers.get(tensor)
    # Numbers that are only written otherwise, or laid out otherwise, are of the same kind.
    while maker and maker["op_name"] in ("QUANTIZE", "DEQUANTIZE", "RESHAPE", "SQUEEZE"):
        maker = makers.get(tensor := int(maker["inputs"][0]))
    if maker is None or (maker["op_name"].endswith("SOFTMAX") and sizes[tensor][-1] != num_outputs):
        return ""  # such as several softmaxes beside each other
    return str(maker["op_name"])

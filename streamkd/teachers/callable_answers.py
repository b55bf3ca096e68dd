"""Asks a teacher that is a function of the user's own, and takes one array from its answer.

answers = answers_of(function, images, "mystery")       # float32 [batch, num_classes]

A function may answer with anything like an array: lists of numbers, a tensor of TensorFlow, JAX or
PyTorch (also one that needs its gradient cut off). From a dict, a tuple of arrays or an object with
`.logits` it is the array that was chosen. Anything else is refused by name, as is an exception
within the function.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from streamkd.errors import StreamkdError, TeacherError
from streamkd.models.model_outputs import chosen_output, named_outputs
from streamkd.models.reasons import last_lines

_WANTED = "It must answer with [batch, num_classes]: one row of numbers for each image."


def answers_of(
    function: Callable[[Any], Any],
    images: np.ndarray,
    name: str,
    output: str | int | None = None,
) -> np.ndarray:
    """Returns what a function answers, float32 of any shape.

    Args:
      function: of the user's own; it is given `images`.
      images: float32 `[batch, height, width, channels]`.
      name: of the teacher, for messages.
      output: name or number of the array to take, from a dict, a tuple or an object.

    Raises:
      TeacherError: it raises an exception, or answers with something else than numbers.
    """
    subject = f"The teacher {name!r}"
    try:
        answered = function(images)
    except StreamkdError:
        raise
    except Exception as error:
        raise TeacherError(
            f"{subject} raised an exception when it was asked about {_words(images)}.\n"
            f"  {last_lines(error)}\n"
            "It is called with one NumPy array, float32 [batch, height, width, channels]."
        ) from error
    if isinstance(answered, tuple | list) and not _are_outputs(answered):
        return _numbers([_plain(row) for row in answered], images, subject)
    outputs = named_outputs(answered)
    if output is not None and outputs:
        answered = chosen_output(outputs, output, subject, TeacherError).array
    elif outputs and outputs[0].path:
        names = ", ".join(repr(each.name) for each in outputs)
        raise TeacherError(
            f"{subject} answered {_words(images)} with {_kind(answered)} around arrays: {names}.\n"
            f"Return one array, or choose it: `--output {outputs[0].name}`, in Python "
            f"`model_output={outputs[0].name!r}`."
        )
    return _numbers(_plain(answered), images, subject)


def _are_outputs(answered: tuple | list) -> bool:
    """Returns whether a tuple or list holds several outputs, not the rows of one."""
    return any(isinstance(part, Mapping) or len(_shape(part)) >= 2 for part in answered)


def _shape(array: Any) -> tuple[int, ...]:
    return tuple(getattr(array, "shape", ()))


def _plain(array: Any) -> Any:
    """Returns an array without PyTorch's gradient and device, where it has these."""
    for step in ("detach", "cpu"):
        call = getattr(array, step, None)
        array = call() if callable(call) else array
    # NumPy has no such type.
    return array.float() if str(getattr(array, "dtype", "")) == "torch.bfloat16" else array


def _numbers(array: Any, images: np.ndarray, subject: str) -> np.ndarray:
    """Returns anything like an array as float32."""
    answers: np.ndarray | None = None
    try:
        if hasattr(array, "__array__") or not _is_drawn_once(array):
            answers = np.asarray(array)
    except Exception as error:  # a tensor that cannot be copied, rows of different lengths
        raise TeacherError(
            f"{subject} answered {_words(images)} with {_kind(array)} that is no array.\n"
            f"  {last_lines(error)}\n{_WANTED}"
        ) from error
    # bfloat16, which NumPy knows from a package of its own, has kind V.
    is_number = answers is not None and (
        answers.dtype.kind in "fiub" or answers.dtype.name.startswith(("bfloat", "float"))
    )
    if answers is None or not is_number:
        what = _kind(array)
        if answers is not None and answers.ndim:
            what = {"U": "text", "S": "text", "c": "complex numbers"}.get(
                answers.dtype.kind, f"numbers and other things, in {what}"
            )
        raise TeacherError(f"{subject} answered {_words(images)} with {what}.\n{_WANTED}")
    return answers.astype(np.float32)


def _is_drawn_once(array: Any) -> bool:
    """Returns whether this is a generator or the like, whose numbers come one after the other."""
    return isinstance(array, Iterable) and not hasattr(array, "__len__")


def _kind(array: Any) -> str:
    name = type(array).__name__
    if array is None:
        return "None"
    return f"{'an' if name[0].lower() in 'aeiou' else 'a'} {name}"


def _words(images: np.ndarray) -> str:
    return f"{len(images)} images of {' x '.join(map(str, images.shape[1:]))}"

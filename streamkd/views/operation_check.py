"""Checks, before a pass or a join, that a user's view operation can be replayed.

    check_operation(operation, options.shape)

The function is traced twice and run on random pixels: again, in another order, and row by row. If
the results differ, teacher and student would not see the same view.
"""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import tensorflow as tf

from streamkd.errors import OptionError
from streamkd.views.operation import ViewOperation
from streamkd.views.render import seeds_of

# Rows of the random pixels: enough for another order, few enough for large images.
NUM_ROWS = 4
# Largest difference of two results, of 255 levels. The batch size moves convolutions a few 1e-5.
TOLERANCE = 1e-2
# Faults of operations, each with its advice.
_UNREPEATABLE = (
    "returns other pixels when it is called again with the same pixels and seeds",
    "Draw from the seeds that it is given, by `tf.random.stateless_uniform`.",
)
_MIXES_ROWS = (
    "returns other pixels for a row when the other rows change",
    "Compute each row from its own pixels and its own seed.",
)
_RETURN = "Return finite pixels of the type and shape that it is given."


def check_operation(operation: ViewOperation, shape: tuple[int, int, int]) -> None:
    """Refuses an operation whose result does not depend on pixels and seeds alone.

    `shape` is height, width and channels of the images that the operation will get.

    Raises:
      OptionError: names the operation, and the difference of two results.
    """
    if operation.function is None:
        raise OptionError(
            f"The view operation {operation} has no function; give it one: "
            f"`kd.ViewOperation({operation.name!r}, {operation.version}, function)`."
        )
    random = np.random.default_rng(0)
    pixels = random.uniform(0, 255, (NUM_ROWS, *shape)).astype(np.float32)
    seeds = random.integers(1, 2**64, NUM_ROWS, np.uint64)
    function = _traced(operation, shape)
    result = _run(operation, function, pixels, seeds)
    if not np.isfinite(result).all():
        raise _refusal(operation, "returns numbers that are not finite")
    # A second trace shows numbers that Python drew while the function was traced.
    for traced in (function, _traced(operation, shape)):
        _compare(operation, result, _run(operation, traced, pixels, seeds), _UNREPEATABLE)
    reversed_result = _run(operation, function, pixels[::-1], seeds[::-1])[::-1]
    _compare(operation, result, reversed_result, _MIXES_ROWS)
    single_rows = [
        _run(operation, function, pixels[row : row + 1], seeds[row : row + 1])
        for row in range(NUM_ROWS)
    ]
    _compare(operation, result, np.concatenate(single_rows), _MIXES_ROWS)


def _traced(operation: ViewOperation, shape: tuple[int, int, int]) -> Any:
    """Returns the function as a graph of its own; refuses another type or shape of the result."""
    function: Any = operation.function
    rows = tf.TensorSpec([None, *shape], tf.float32)
    try:
        graph = tf.function(
            lambda pixels, seeds: tf.convert_to_tensor(function(pixels, seeds)),
            input_signature=[rows, tf.TensorSpec([None, 2], tf.int32)],
        ).get_concrete_function()
    except Exception as error:  # the user's code may raise any error
        raise _failed(operation, error) from error
    result = graph.structured_outputs
    fixed = result.shape.rank is not None and result.shape[:1].is_fully_defined()
    if result.dtype != tf.float32 or not result.shape.is_compatible_with(rows.shape) or fixed:
        raise _refusal(
            operation,
            f"returns {result.dtype.name}{_shown(result.shape)} for float32{_shown(rows.shape)}",
        )
    return graph


def _run(
    operation: ViewOperation, function: Any, pixels: np.ndarray, seeds: np.ndarray
) -> np.ndarray:
    """Returns the result for rows of pixels, float32 of the shape of `pixels`."""
    try:
        result = function(tf.constant(pixels), seeds_of(tf.constant(seeds))).numpy()
    except tf.errors.OpError as error:
        raise _failed(operation, error) from error
    if result.shape != pixels.shape:
        raise _refusal(operation, f"returns {list(result.shape)} for {list(pixels.shape)}")
    return result


def _compare(
    operation: ViewOperation,
    first: np.ndarray,
    second: np.ndarray,
    fault_and_advice: tuple[str, str],
) -> None:
    """Refuses the operation if two results differ."""
    difference = float(np.abs(first - second).max())
    if not difference <= TOLERANCE:
        fault, advice = fault_and_advice
        raise _refusal(
            operation,
            f"{fault}, up to {difference:.3g} of 255 levels apart: the student would not see the "
            "views that the teacher saw",
            advice,
        )


def _refusal(operation: ViewOperation, fault: str, advice: str = _RETURN) -> OptionError:
    return OptionError(f"The view operation {operation} {fault}.\n{advice}")


def _failed(operation: ViewOperation, error: Exception) -> OptionError:
    """Returns the refusal of a function that raises an error.

    TensorFlow's message ends with the error itself, after the lines of a traceback.
    """
    lines = [line.strip() for line in str(error).splitlines()]
    texts = [line for line in lines if line and not line.startswith("[[")]
    named = [line for line in texts if re.match(r"\w+(Error|Exception): ", line)]
    reason = (named or texts or [type(error).__name__])[-1].rpartition("}} ")[2]
    return OptionError(
        f"The view operation {operation} fails on random pixels: {reason}\n"
        "A TensorFlow graph calls it with float32 [rows, height, width, channels] and int32 "
        "[rows, 2], the number of rows unknown; try it with `tf.function`."
    )


def _shown(shape: tf.TensorShape) -> str:
    """Returns a shape as text, with the word 'rows' for an unknown size."""
    if shape.rank is None:
        return "[…]"
    return str(["rows" if size is None else size for size in shape]).replace("'", "")

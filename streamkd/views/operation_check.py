"""Finds out, before anything is paid, whether a user's view operation can be replayed.

    check_operation(operation, options.shape)

The function is traced twice and run on random pixels: again, in another order, row by row. If the
results differ, teacher and student would not see the same view.
"""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import tensorflow as tf

from streamkd.errors import OptionError
from streamkd.views.operation import ViewOperation
from streamkd.views.render import seeds_of

# Rows that it is tried on: enough for another order, few enough for large images.
NUM_ROWS = 4
# Of 255 levels. Convolutions of other batch sizes round in another order, a few 1e-5 apart.
TOLERANCE = 1e-2
# What is wrong, and what to do instead.
_AGAIN = (
    "returns other pixels for the same pixels and seeds when it is called again",
    "Draw from the seeds that it is given, by `tf.random.stateless_uniform`.",
)
_BESIDE = (
    "returns other pixels for a row when the rows beside it are others",
    "Compute each row from its own pixels and its own seed.",
)
_RETURN = "Return finite pixels of the type and shape that it is given."


def check_operation(operation: ViewOperation, shape: tuple[int, int, int]) -> None:
    """Refuses an operation that pixels and seeds alone do not decide on.

    Args:
      operation: with its function.
      shape: height, width and channels of the images that it is to be called with.

    Raises:
      OptionError: names the operation and says what differs.
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
    found = _run(operation, function, pixels, seeds)
    if not np.isfinite(found).all():
        raise _refusal(operation, "returns numbers that are not finite")
    # The second trace finds what Python drew while the first was made.
    for again in (function, _traced(operation, shape)):
        _compare(operation, found, _run(operation, again, pixels, seeds), _AGAIN)
    turned = _run(operation, function, pixels[::-1], seeds[::-1])[::-1]
    _compare(operation, found, turned, _BESIDE)
    single = [
        _run(operation, function, pixels[row : row + 1], seeds[row : row + 1])
        for row in range(NUM_ROWS)
    ]
    _compare(operation, found, np.concatenate(single), _BESIDE)


def _traced(operation: ViewOperation, shape: tuple[int, int, int]) -> Any:
    """Returns the function as a graph of its own, for any number of rows.

    Raises:
      OptionError: it cannot be traced, or its result has another type or shape.
    """
    function: Any = operation.function
    rows = tf.TensorSpec([None, *shape], tf.float32)
    try:
        graph = tf.function(
            lambda pixels, seeds: tf.convert_to_tensor(function(pixels, seeds)),
            input_signature=[rows, tf.TensorSpec([None, 2], tf.int32)],
        ).get_concrete_function()
    except Exception as error:  # whatever the user's code raises
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
    """Returns the result for some rows, float32 of the shape of `pixels`."""
    try:
        result = function(tf.constant(pixels), seeds_of(tf.constant(seeds))).numpy()
    except tf.errors.OpError as error:
        raise _failed(operation, error) from error
    if result.shape != pixels.shape:
        raise _refusal(operation, f"returns {list(result.shape)} for {list(pixels.shape)}")
    return result


def _compare(
    operation: ViewOperation, first: np.ndarray, second: np.ndarray, words: tuple[str, str]
) -> None:
    apart = float(np.abs(first - second).max())
    if not apart <= TOLERANCE:
        what, ending = words
        raise _refusal(
            operation,
            f"{what}: up to {apart:.3g} of 255 levels apart, so that the student would not see "
            "what the teacher saw",
            ending,
        )


def _refusal(operation: ViewOperation, what: str, ending: str = _RETURN) -> OptionError:
    return OptionError(f"The view operation {operation} {what}.\n{ending}")


def _failed(operation: ViewOperation, error: Exception) -> OptionError:
    """Returns the refusal of a function that raises; TensorFlow tells the error itself last."""
    lines = [line.strip() for line in str(error).splitlines()]
    told = [line for line in lines if line and not line.startswith("[[")]
    named = [line for line in told if re.match(r"\w+(Error|Exception): ", line)]
    reason = (named or told or [type(error).__name__])[-1].rpartition("}} ")[2]
    return OptionError(
        f"The view operation {operation} fails on random pixels: {reason}\n"
        "It is called in a TensorFlow graph with float32 [rows, height, width, channels] and int32 "
        "[rows, 2], the number of rows unknown; try it with `tf.function`."
    )


def _shown(shape: tf.TensorShape) -> str:
    """Returns a shape as text, with a word for the rows."""
    if shape.rank is None:
        return "[…]"
    return str(["rows" if size is None else size for size in shape]).replace("'", "")

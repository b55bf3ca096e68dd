"""Calls Python from the graph: results get names, refusals keep their class, nothing is kept alive.

    with keeping() as functions:
        batch = python_call(read, [numbers], {"file_bytes": tf.TensorSpec([32], tf.string)})
    del functions              # `read`, and all that it holds, may now go

    raise_refusal_of(error)    # the refusal that `read` raised, if any

TensorFlow keeps every function that a graph calls until the process ends, and with it the store's
maps, the caches and their descriptors. Here it keeps a small object that refers to the function
weakly; the owner of the graph owns the function.
"""

from __future__ import annotations

import collections
import contextlib
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from typing import Any

import tensorflow as tf

from streamkd.errors import StreamkdError

# Functions of the graphs that are being traced, where somebody keeps them.
_KEEPER: ContextVar[list[Any] | None] = ContextVar("keeper", default=None)
# Class, message and key of the last refusals: an exception itself would keep its frames.
_REFUSALS: collections.deque[tuple[type[StreamkdError], str, bytes | None]]
_REFUSALS = collections.deque(maxlen=64)


class _Function:
    """A function that a graph calls; it is an object that can be referred to weakly."""

    def __init__(self, function: Callable[..., Mapping[str, Any]]) -> None:
        self.function = function


@contextlib.contextmanager
def keeping() -> Iterator[list[Any]]:
    """Gives a list of the functions that graphs call which are traced in the block.

    Whoever runs these graphs holds the list. Without this block a function is kept for ever.
    """
    functions: list[Any] = []
    token = _KEEPER.set(functions)
    try:
        yield functions
    finally:
        _KEEPER.reset(token)


def python_call(
    function: Callable[..., Mapping[str, Any]],
    arguments: Sequence[Any],
    spec: Mapping[str, tf.TensorSpec],
) -> dict[str, tf.Tensor]:
    """Calls a Python function from the graph and names its results.

    Args:
      function: given the arguments as NumPy arrays; returns an array for each name in `spec`. Its
        refusals are found again by `raise_refusal_of`.
      arguments: tensors.
      spec: dtype and static shape of each result.
    """
    kept = _Function(function)
    keeper = _KEEPER.get()
    if keeper is not None:
        keeper.append(kept)
    call = _caller(weakref.ref(kept) if keeper is not None else lambda: kept, list(spec))
    results = tf.numpy_function(call, arguments, [tensor.dtype for tensor in spec.values()])
    for result, tensor in zip(results, spec.values(), strict=True):
        result.set_shape(tensor.shape)
    return dict(zip(spec, results, strict=True))


def _caller(kept: Callable[[], _Function | None], names: list[str]) -> Callable[..., list[Any]]:
    """Returns what TensorFlow calls and keeps: it holds no more than its arguments here."""

    def call(*values: Any) -> list[Any]:
        owner = kept()
        if owner is None:  # a last call of an iterator that is being deleted
            raise RuntimeError("The dataset of this iterator was deleted.")
        try:
            results = owner.function(*values)
        except StreamkdError as refusal:
            _REFUSALS.append((type(refusal), refusal.message, refusal.key))
            raise
        return [results[name] for name in names]

    return call


def raise_refusal_of(error: BaseException) -> None:
    """Raises the refusal that a function raised within a graph, if any; see `_refusal_of`."""
    refusal = _refusal_of(error)
    if refusal is None:
        return
    try:
        raise refusal from error
    finally:
        # The frames of a refusal hold the iterator. A frame that held the refusal as well would
        # keep both until the next collection, or until Python ends, when calls never return.
        del refusal


def _refusal_of(error: BaseException) -> StreamkdError | None:
    """Returns the refusal that a function raised within a graph, or None.

    TensorFlow keeps the words of an exception and loses its class and its key.

    Args:
      error: as TensorFlow raised it outside of the graph.
    """
    text = str(getattr(error, "message", None) or error)
    for kind, message, key in reversed(_REFUSALS):
        if message in text:
            return kind(message, key=key)
    return None

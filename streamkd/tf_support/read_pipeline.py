"""The tf.data pipeline that all images are read through: fetch in Python, decode in the graph.

    dataset = read_pipeline(steps, fetch, decode)

There are two maps. The first holds the Python function that reads files and looks up labels and
logits, by the batch (about ten microseconds an image); the second is TensorFlow alone and decodes
several batches at once. If they were one, op determinism would make the decoding serial too.

A batch that cannot be decoded is an error. `explain` may say more about it than TensorFlow does; or
the batch goes through `rescue` and is decoded again: tf.data drops the first try and takes the
second. A batch without faults pays 0.1 ms for `rescue`, and next to nothing for `explain`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

from streamkd.tf_support.autograph import unconverted

# Number of batches that are read at once: one waits for the disk while the other is passed on.
# More of them compete for Python's lock (1.5 µs an image with 4).
NUM_FETCHES = 2
# Number of results that wait for the reader of a dataset.
PREFETCHED_BATCHES = 2
# Stands behind the last element, where a number of a source would stand.
_END = -1


def read_pipeline(
    source: tf.data.Dataset,
    fetch: Callable[..., Any],
    decode: Callable[..., Any],
    rescue: Callable[..., Any] | None = None,
    after: Sequence[Callable[..., Any]] = (),
    *,
    explain: Callable[[tf.Tensor], tf.Tensor] | None = None,
    one_at_a_time: bool = False,
    num_prefetched: int = PREFETCHED_BATCHES,
) -> tf.data.Dataset:
    """Returns `source` mapped through `fetch` and then `decode`, in order, ahead of its reader.

    Args:
      source: one number a batch, such as its step; int64, at least 0.
      fetch: graph function of an element, with a `python_call` inside.
      decode: graph function of a fetched batch.
      rescue: graph function of a batch that `decode` failed on; returns it without bad files.
      after: graph functions of the decoded batch, in order, each with one batch in flight a core.
      explain: graph function of the number of a batch that could not be fetched or decoded; raises
        the reason, and never returns. Not with `rescue`.
      one_at_a_time: `decode` runs in the reader's thread, when a batch is asked for; by default it
        has one batch in flight a core.
      num_prefetched: number of finished results that wait for the reader.
    """
    options = tf.data.Options()
    options.deterministic = True
    # The tuner takes about 4 µs an image for small files and ends with the numbers set here; one
    # batch a core in TensorFlow's decoder leaves no work for threads within an operation.
    options.autotune.enabled = False
    options.threading.max_intra_op_parallelism = 1
    # Reading begins with the iterator, not with the first batch that is asked for: batches get
    # ready while a model is being compiled, which takes seconds.
    options.experimental_warm_start = True
    num_cores = os.cpu_count() or 1
    num_decoders = None if one_at_a_time else num_cores
    if rescue is not None:
        dataset = _rescued(source, fetch, decode, rescue, num_decoders)
    elif explain is not None:
        dataset = _explained(source, fetch, decode, explain, num_decoders)
    else:
        dataset = source.map(unconverted(fetch), num_parallel_calls=NUM_FETCHES)
        dataset = dataset.map(unconverted(decode), num_parallel_calls=num_decoders)
    for function in after:
        dataset = dataset.map(unconverted(function), num_parallel_calls=num_cores)
    if num_prefetched:
        dataset = dataset.prefetch(num_prefetched)
    return dataset.with_options(options)


def _rescued(
    source: tf.data.Dataset,
    fetch: Callable[..., Any],
    decode: Callable[..., Any],
    rescue: Callable[..., Any],
    num_decoders: int | None,
) -> tf.data.Dataset:
    """Returns the decoded batches; one that cannot be decoded goes through `rescue` first."""
    # Traced once for both tries.
    decode = tf.function(unconverted(decode), autograph=False)

    def decode_or_rescue(*fetched: Any) -> tf.data.Dataset:
        # A dict stays one argument here, as it does for `map`.
        one = tf.data.Dataset.from_tensors(fetched[0] if len(fetched) == 1 else fetched)
        first = one.map(decode).ignore_errors()
        return first.concatenate(one.map(unconverted(rescue)).map(decode)).take(1)

    return source.map(unconverted(fetch), num_parallel_calls=NUM_FETCHES).interleave(
        unconverted(decode_or_rescue),
        cycle_length=num_decoders or 1,
        block_length=1,
        num_parallel_calls=num_decoders,
    )


def _explained(
    source: tf.data.Dataset,
    fetch: Callable[..., Any],
    decode: Callable[..., Any],
    explain: Callable[[tf.Tensor], tf.Tensor],
    num_decoders: int | None,
) -> tf.data.Dataset:
    """Returns the decoded batches; the first that fails is explained.

    Batches that fail are dropped, and each of the others is compared with the number that is due.
    """

    def fetch_numbered(number: tf.Tensor) -> Any:
        return number, fetch(number)

    def decode_numbered(number: tf.Tensor, fetched: Any) -> Any:
        return number, decode(fetched)

    def due(number: tf.Tensor, numbered: Any) -> Any:
        found, decoded = numbered
        is_due = tf.cond(found == number, lambda: True, lambda: explain(number))
        with tf.control_dependencies([is_due]):
            return tf.nest.map_structure(tf.identity, decoded)

    dataset = source.map(unconverted(fetch_numbered), num_parallel_calls=NUM_FETCHES)
    dataset = dataset.map(unconverted(decode_numbered), num_parallel_calls=num_decoders)
    _, spec = dataset.element_spec

    def end(_: tf.Tensor) -> Any:
        nothing = tf.nest.map_structure(
            lambda part: tf.zeros([size or 0 for size in part.shape], part.dtype), spec
        )
        return tf.constant(_END, tf.int64), nothing

    # The end is reached only where the last batch failed.
    found = dataset.ignore_errors().concatenate(source.take(1).map(unconverted(end)))
    return tf.data.Dataset.zip(source, found).map(unconverted(due))

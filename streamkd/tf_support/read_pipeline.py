"""The tf.data pipeline that all images are read through: fetch in Python, decode in the graph.

    dataset = read_pipeline(steps, fetch, decode)

There are two maps. The first holds the Python function that reads files and looks up labels and
logits, by the batch (about ten microseconds an image); the second is TensorFlow alone and decodes
several batches at once. If they were one, op determinism would make the decoding serial too.

A batch that cannot be decoded is an error, or goes through `rescue` and is decoded again: tf.data
drops the first try and takes the second. A batch without faults pays 0.1 ms for that.
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


def read_pipeline(
    source: tf.data.Dataset,
    fetch: Callable[..., Any],
    decode: Callable[..., Any],
    rescue: Callable[..., Any] | None = None,
    after: Sequence[Callable[..., Any]] = (),
    *,
    one_at_a_time: bool = False,
    num_prefetched: int = PREFETCHED_BATCHES,
) -> tf.data.Dataset:
    """Returns `source` mapped through `fetch` and then `decode`, in order, ahead of its reader.

    Args:
      source: one element a batch, such as its step.
      fetch: graph function of an element, with a `python_call` inside.
      decode: graph function of a fetched batch.
      rescue: graph function of a batch that `decode` failed on; returns it without bad files.
      after: graph functions of the decoded batch, in order, each with one batch in flight a core.
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
    fetch, decode, *after = map(unconverted, (fetch, decode, *after))
    dataset = source.map(fetch, num_parallel_calls=NUM_FETCHES)
    num_cores = os.cpu_count() or 1
    num_decoders = None if one_at_a_time else num_cores
    if rescue is None:
        dataset = dataset.map(decode, num_parallel_calls=num_decoders)
    else:
        # Traced once for both tries.
        decode = tf.function(decode, autograph=False)

        def decode_or_rescue(*fetched: Any) -> tf.data.Dataset:
            # A dict stays one argument here, as it does for `map`.
            one = tf.data.Dataset.from_tensors(fetched[0] if len(fetched) == 1 else fetched)
            first = one.map(decode).ignore_errors()
            return first.concatenate(one.map(unconverted(rescue)).map(decode)).take(1)

        dataset = dataset.interleave(
            unconverted(decode_or_rescue),
            cycle_length=num_decoders or 1,
            block_length=1,
            num_parallel_calls=num_decoders,
        )
    for function in after:
        dataset = dataset.map(function, num_parallel_calls=num_cores)
    if num_prefetched:
        dataset = dataset.prefetch(num_prefetched)
    return dataset.with_options(options)

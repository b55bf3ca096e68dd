"""The tf.data pipeline that everything here is read through: fetch in Python, decode in the graph.

    dataset = read_pipeline(steps, fetch, decode)

Two maps, on purpose. The first holds the Python function that reads files and looks labels and
logits up, by the batch (about ten microseconds an image); the second is TensorFlow alone and
decodes several batches at once. Were they one, op determinism would make the decoding serial too.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import tensorflow as tf

# Batches read at once: one waits for the disk while the other is taken over. More of them get in
# each other's way for Python's lock (1.5 µs an image with 4).
NUM_FETCHES = 2
PREFETCHED_BATCHES = 2


def read_pipeline(
    source: tf.data.Dataset, fetch: Callable[..., Any], decode: Callable[..., Any]
) -> tf.data.Dataset:
    """Returns `source` mapped through `fetch` and then `decode`, in order, ahead of its reader.

    Args:
      source: one element a batch, such as its step.
      fetch: graph function of an element, with a `tf.numpy_function` inside.
      decode: graph function of what `fetch` returns.
    """
    options = tf.data.Options()
    options.deterministic = True
    # The tuner takes about 4 µs an image for small files and ends where this begins; one batch
    # a core in TensorFlow's decoder leaves no work for threads within an operation.
    options.autotune.enabled = False
    options.threading.max_intra_op_parallelism = 1
    dataset = source.map(fetch, num_parallel_calls=NUM_FETCHES)
    dataset = dataset.map(decode, num_parallel_calls=os.cpu_count() or 1)
    return dataset.prefetch(PREFETCHED_BATCHES).with_options(options)

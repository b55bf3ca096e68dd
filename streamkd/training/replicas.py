"""Sums over the replicas of a student, within a compiled step.

    total, = sum_over_replicas(strategy, [tf.reduce_sum(weights)])     # called on every replica
    finite = first_replica(strategy, strategy.run(...))                # the same on all of them

With one replica both return what they were given.
"""

from __future__ import annotations

from typing import Any

import tensorflow as tf

SUM = tf.distribute.ReduceOp.SUM


def sum_over_replicas(strategy: Any, values: list[Any]) -> list[Any]:
    """Returns the sum of each value over all replicas; to be called on every replica."""
    if strategy.num_replicas_in_sync == 1:
        return values
    context, sums = tf.distribute.get_replica_context(), list(values)
    for dtype in dict.fromkeys(value.dtype for value in values):  # one message for each dtype
        indices = [index for index, value in enumerate(values) if value.dtype == dtype]
        totals = context.all_reduce(SUM, [values[index] for index in indices])
        for index, total in zip(indices, totals, strict=True):
            sums[index] = total
    return sums


def first_replica(strategy: Any, value: Any) -> tf.Tensor:
    """Returns this worker's first replica's value, where all replicas have the same one."""
    return strategy.experimental_local_results(value)[0]

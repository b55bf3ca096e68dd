"""AutoGraph rewrites the user's code, and none of streamkd's own.

    tf.function(step, autograph=False)     # streamkd's own
    dataset.map(unconverted(decode))       # streamkd's own
    answer = converted(model)              # the user's, in whichever graph it is called

AutoGraph reads the source of a function and of all functions that it calls, and writes functions
whose `if` and `while` may test tensors. That takes seconds at the start of a run. Functions of
streamkd use `tf.cond` and `tf.while_loop` instead. As under `fit`, the user's code is rewritten.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tensorflow as tf

# AutoGraph's status outside of all graphs, in which it rewrites functions.
_UNSPECIFIED = tf.__internal__.autograph.control_status_ctx()


def unconverted(function: Callable[..., Any]) -> Callable[..., Any]:
    """Returns a function that is traced as it is written, with all that it calls."""
    return tf.autograph.experimental.do_not_convert(function)


def converted(function: Callable[..., Any]) -> Callable[..., Any]:
    """Returns a function that is rewritten when it is traced, even in an unconverted function."""
    return tf.__internal__.autograph.tf_convert(function, _UNSPECIFIED)  # as Keras does for `call`

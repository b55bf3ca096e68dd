"""What TensorFlow's AutoGraph rewrites: the user's code, and none of ours.

    tf.function(step, autograph=False)     # ours
    dataset.map(unconverted(decode))       # ours
    answer = converted(model)              # the user's, whichever graph it is called in

AutoGraph reads the source of a function and everything it calls, and writes another one whose `if`
and `while` may ask tensors. That takes seconds at the start of a run. Our own functions say
`tf.cond` and `tf.while_loop` instead; the user's layers are rewritten as they are under `fit`, and
so are operations.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tensorflow as tf

# Outside of all graphs nobody has said whether to rewrite or not, and then it is done.
_UNSPECIFIED = tf.__internal__.autograph.control_status_ctx()


def unconverted(function: Callable[..., Any]) -> Callable[..., Any]:
    """Returns a function that is traced as it is written, and so is what it calls."""
    return tf.autograph.experimental.do_not_convert(function)


def converted(function: Callable[..., Any]) -> Callable[..., Any]:
    """Returns a function that is rewritten when it is traced, even by one that is not."""
    return tf.__internal__.autograph.tf_convert(function, _UNSPECIFIED)  # as Keras does for `call`

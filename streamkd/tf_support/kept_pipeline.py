"""A tf.data pipeline whose graphs are made once, for any range of steps.

pipeline = KeptPipeline(build)             # build(start, stop) returns a dataset
pipeline.dataset(0, 100)                   # traces the functions of the pipeline: 0.3 s
pipeline.dataset(100, 200)                 # takes the same graphs: 3 ms
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tensorflow as tf
from tensorflow.python.data.ops.dataset_ops import _VariantDataset

from streamkd.tf_support.python_calls import keeping


class KeptPipeline:
    """Builds a dataset from the numbers of its first element and of the one after its last.

    Attributes:
      functions: the Python functions that the graphs call; whoever runs a dataset holds them.
    """

    def __init__(self, build: Callable[[tf.Tensor, tf.Tensor], tf.data.Dataset]) -> None:
        self._element_spec: Any = None
        number = tf.TensorSpec((), tf.int64)

        def variant(start: tf.Tensor, stop: tf.Tensor) -> tf.Tensor:
            dataset = build(start, stop)
            self._element_spec = dataset.element_spec
            return dataset._variant_tensor

        with keeping() as self.functions, tf.init_scope():
            graph = tf.function(variant, input_signature=[number, number], autograph=False)
            self._variant = graph.get_concrete_function()

    def dataset(self, start: int, stop: int) -> tf.data.Dataset:
        """Returns the dataset of a range; it lives as long as `functions` do."""
        numbers = (tf.constant(number, tf.int64) for number in (start, stop))
        return _VariantDataset(self._variant(*numbers), self._element_spec)

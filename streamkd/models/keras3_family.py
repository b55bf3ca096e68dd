"""Keras 3, as the rest of the package sees it.

family = Keras3()
family.keras is keras
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from typing import Any

from streamkd.errors import OptionError
from streamkd.models.family_base import Call, Family, is_last_axis
from streamkd.tf_support.keras_configuration import BACKEND, backend_of_configuration

# Better direction of a metric, by the metric's own word for it.
DIRECTIONS = {"up": "max", "down": "min"}


class Keras3(Family):
    """Keras 3 on TensorFlow; its variables wrap TensorFlow's."""

    name = "keras"
    chief_only_callbacks = ("CSVLogger", "ModelCheckpoint", "TensorBoard")

    def check_backend(self) -> None:
        backend = os.environ.get("KERAS_BACKEND") or backend_of_configuration()
        if backend != BACKEND:
            raise OptionError(
                f"Keras 3 is set to the backend {backend!r}, and streamkd trains with TensorFlow.\n"
                "Set KERAS_BACKEND=tensorflow and run again."
            )

    def operations_of(self, model: Any) -> list[Any]:
        layer = self.keras.layers.Layer
        operations = getattr(model, "operations", [])
        return [operation for operation in operations if not isinstance(operation, layer)]

    def call_of(self, tensor: Any) -> Call:
        history = tensor._keras_history
        node = history.operation._inbound_nodes[history.node_index]
        given = node.arguments
        return Call.of(history.operation, node.input_tensors, given.args, given.kwargs)

    def operation_name(self, call: Call) -> str | None:
        keras, kind = self.keras, type(call.layer)
        if call.arguments or not self.defines(kind) or kind.__name__ not in ("Softmax", "Sigmoid"):
            return None
        if isinstance(call.layer, keras.layers.Layer):
            return None
        axis = getattr(call.layer, "axis", -1)
        return kind.__name__.lower() if is_last_axis(axis, call.source) else None

    def matmul(self, inputs: Any, kernel: Any) -> Any:
        return self.keras.ops.matmul(inputs, kernel)

    def as_tf_variable(self, variable: Any) -> Any:
        # A user's metric may hold a TensorFlow variable.
        return variable.value if self.defines(type(variable)) else variable

    def random_states(self, model: Any) -> list[Any]:
        weights = {id(variable) for variable in model.weights}
        others = [variable for variable in model.variables if id(variable) not in weights]
        return [variable.value for variable in others if "seed_generator" in variable.path]

    def restorable_random_layers(
        self, model: Any, strategy: Any
    ) -> contextlib.AbstractContextManager[None]:
        """Does nothing: random layers draw from variables anyway."""
        return contextlib.nullcontext()

    def saved_as_it_can_be_read(self, model: Any) -> contextlib.AbstractContextManager[None]:
        """Does nothing: Keras 3 writes all that it computes with."""
        return contextlib.nullcontext()

    def variables_of(self, optimizer: Any) -> list[Any]:
        return list(optimizer.variables)

    def average_of(self, optimizer: Any, variable: Any) -> Any:
        index = optimizer._get_variable_index(variable)
        return optimizer._model_variables_moving_average[index]

    def scaled_loss(self, optimizer: Any, loss: Any) -> Any:
        return optimizer.scale_loss(loss)

    def expect_summed_gradients(self, optimizer: Any) -> None:
        optimizer._all_reduce_sum_gradients = list

    def apply_gradients(self, optimizer: Any, gradients: Any, variables: Sequence[Any]) -> None:
        optimizer.apply_gradients(zip(gradients, variables, strict=True))

    def direction_of(self, metric: Any) -> str | None:
        return DIRECTIONS.get(getattr(metric, "_direction", ""))

    def rename_metric(self, metric: Any, name: str) -> None:
        if "name" in vars(metric):  # else it is a property of the user's class
            metric.name = name

    def count_steps(self, model: Any, num_steps: int) -> None:
        """Does nothing: TensorBoard counts by itself."""

    def lacks_direction(self, callback: Any) -> bool:
        return hasattr(callback, "_set_monitor_op") and callback.monitor_op is None

    def settle_direction(self, callback: Any, mode: str) -> None:
        callback.mode = mode
        callback._set_monitor_op()

    def takes_smallest_as_best(self, callback: Any) -> bool:
        # Undecided yet: `settle_direction` will know what is better.
        return not hasattr(callback, "_set_monitor_op") and super().takes_smallest_as_best(callback)

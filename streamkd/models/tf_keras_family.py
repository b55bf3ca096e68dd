"""tf_keras, as the rest of the package sees it.

family = TfKeras()
family.keras is tf_keras
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

from streamkd.models.family_base import Call, Family, is_last_axis

# TensorFlow's names of the operations that a classifier may end in.
OPERATIONS = {"nn.softmax": "softmax", "math.sigmoid": "sigmoid"}


class TfKeras(Family):
    """The family of Keras 2; its variables are TensorFlow's own."""

    name = "tf_keras"
    # The others know of workers: all save together, and only the chief's files are kept.
    chief_only_callbacks = ("CSVLogger",)

    def check_backend(self) -> None:
        """Does nothing: there is no other backend."""

    def operations_of(self, model: Any) -> list[Any]:
        return []  # operations are layers here

    def call_of(self, tensor: Any) -> Call:
        history = tensor._keras_history
        node = history.layer._inbound_nodes[history.node_index]
        sources = [] if node.is_input else node.keras_inputs
        return Call.of(history.layer, sources, node.call_args, node.call_kwargs)

    def operation_name(self, call: Call) -> str | None:
        layer = call.layer
        if type(layer).__name__ != "TFOpLambda" or not self.defines(type(layer)):
            return None
        options = {name: value for name, value in call.arguments.items() if name != "name"}
        axis = options.pop("axis", -1)
        name = OPERATIONS.get(layer.symbol)
        return name if not options and is_last_axis(axis, call.source) else None

    def matmul(self, inputs: Any, kernel: Any) -> Any:
        import tensorflow as tf

        if inputs.shape.rank == 2:
            return tf.matmul(inputs, kernel)
        return tf.tensordot(inputs, kernel, axes=1)

    def as_tf_variable(self, variable: Any) -> Any:
        return variable

    def random_states(self, model: Any) -> list[Any]:
        generators = [layer._random_generator._generator for layer in _random_layers(model)]
        return [generator.state for generator in generators if generator is not None]

    @contextlib.contextmanager
    def restorable_random_layers(self, model: Any, strategy: Any) -> Iterator[None]:
        """Replaces the generators of random layers.

        By default the layers draw from a counter within TensorFlow that cannot be read. They get
        their own generators back at the end, so that the student is saved as it was built. Under a
        strategy each replica draws other numbers.
        """
        from tf_keras.src.backend import RandomGenerator

        before = {}
        for layer in _random_layers(model):
            own = layer._random_generator
            if own._rng_type == RandomGenerator.RNG_LEGACY_STATEFUL:
                before[layer] = own
                seed = own._create_seed(own._seed)
                stateful = RandomGenerator(seed, rng_type=RandomGenerator.RNG_STATEFUL)
                layer._random_generator = stateful
            with strategy.scope():
                layer._random_generator._maybe_init()
        try:
            yield
        finally:
            for layer, own in before.items():
                layer._random_generator = own

    def has_operations(self, model: Any) -> bool:
        _, layers = self.models_and_layers(model)
        return any(type(layer).__module__.endswith(".tf_op_layer") for layer in layers)

    @contextlib.contextmanager
    def saved_as_it_can_be_read(self, model: Any) -> Iterator[None]:
        """Writes out what `...` stands for in slices of tensors, for which there is no JSON.

        The preprocessing of some applications slices so.
        """
        _, layers = self.models_and_layers(model)
        slicings = [layer for layer in layers if type(layer).__name__ == "SlicingOpLambda"]
        before = {node: node.call_args for layer in slicings for node in layer._inbound_nodes}
        for node, (tensor, *parts) in before.items():
            node.call_args = (tensor, *(_written_out(part, tensor.shape.rank) for part in parts))
        try:
            yield
        finally:
            for node, arguments in before.items():
                node.call_args = arguments

    def variables_of(self, optimizer: Any) -> list[Any]:
        variables = list(optimizer.variables)
        scale: Any = getattr(optimizer, "_loss_scale", None)  # not among the optimizer's variables
        if hasattr(scale, "current_loss_scale"):
            variables += [scale.current_loss_scale, scale.counter]
        return variables

    def average_of(self, optimizer: Any, variable: Any) -> Any:
        index = optimizer._index_dict[optimizer._var_key(variable)]
        return optimizer._model_variables_moving_average[index]

    def scaled_loss(self, optimizer: Any, loss: Any) -> Any:
        scales = hasattr(optimizer, "get_scaled_loss")
        return optimizer.get_scaled_loss(loss) if scales else loss

    def expect_summed_gradients(self, optimizer: Any) -> None:
        """Does nothing: `apply_gradients` has an argument for it."""

    def apply_gradients(self, optimizer: Any, gradients: Any, variables: Sequence[Any]) -> None:
        if hasattr(optimizer, "get_unscaled_gradients"):  # left to the caller by tf_keras
            gradients = optimizer.get_unscaled_gradients(gradients)
        pairs = zip(gradients, variables, strict=True)
        optimizer.apply_gradients(pairs, skip_gradients_aggregation=True)

    def direction_of(self, metric: Any) -> str | None:
        return None

    def rename_metric(self, metric: Any, name: str) -> None:
        """Does nothing, like `compile`."""

    def count_steps(self, model: Any, num_steps: int) -> None:
        """Sets the counter by which TensorBoard numbers its steps."""
        counter = getattr(model, "_train_counter", None)
        if counter is not None:
            counter.assign(num_steps)

    def lacks_direction(self, callback: Any) -> bool:
        return False  # it is decided when the callback is made

    def settle_direction(self, callback: Any, mode: str) -> None:
        """Does nothing: no callback lacks a direction."""


def _random_layers(model: Any) -> list[Any]:
    """Returns the layers of a model that draw random numbers."""
    return [layer for layer in model._flatten_layers() if hasattr(layer, "_random_generator")]


def _written_out(index: Any, rank: int) -> Any:
    """Returns an index of a tensor, as tf_keras keeps it, without `...`."""
    parts = index if isinstance(index, tuple) else (index,)
    places = [place for place, part in enumerate(parts) if part is Ellipsis]
    if not places:
        return index
    num_axes = sum(part is not Ellipsis and part is not None for part in parts)
    everything = {"start": None, "stop": None, "step": None}
    place = places[0]
    return (*parts[:place], *[everything] * (rank - num_axes), *parts[place + 1 :])

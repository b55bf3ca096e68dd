"""The interface to a Keras family: every question that tf_keras and Keras 3 answer differently.

    family = families.family_of(model)             # a `TfKeras` or a `Keras3`
    family.keras.optimizers.get("adamw")           # the module `tf_keras` or `keras`
    family.apply_gradients(optimizer, gradients, variables)

The rest of the package neither compares the names of families nor reads private attributes of
Keras. Attributes that both families have are read in this module, all others by the subclasses.
"""

from __future__ import annotations

import abc
import contextlib
import dataclasses
import importlib
import sys
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any, ClassVar

import numpy as np

from streamkd.tf_support.keras_configuration import check_configuration


@dataclasses.dataclass(frozen=True)
class Call:
    """The call of a layer or an operation that made a symbolic tensor.

    Attributes:
      layer: the layer or operation that was called.
      source: its first input, a symbolic tensor; None for an input of the model.
      arguments: all others that are not None, by name; "args" are those without a name.
    """

    layer: Any
    source: Any
    arguments: dict[str, Any]

    @classmethod
    def of(cls, layer: Any, sources: Sequence[Any], args: Sequence[Any], kwargs: Any) -> Call:
        """Returns a call with these input tensors and with all that was given to it."""
        arguments = {name: value for name, value in kwargs.items() if value is not None}
        if len(args) > 1:
            arguments["args"] = args[1:]
        return cls(layer, sources[0] if sources else None, arguments)


class Family(abc.ABC):
    """One of the two Keras families.

    Attributes:
      name: of its module, 'tf_keras' or 'keras'.
      chief_only_callbacks: names of its callbacks that write files and know nothing of workers.
        Several workers must not write the same files, so only the chief calls them.
    """

    name: ClassVar[str]
    chief_only_callbacks: ClassVar[tuple[str, ...]]

    @property
    def keras(self) -> ModuleType:
        """The module `tf_keras` or `keras`, imported now and not before."""
        self.check_backend()
        if self.name not in sys.modules:
            check_configuration()
        return importlib.import_module(self.name)

    @abc.abstractmethod
    def check_backend(self) -> None:
        """Raises OptionError for a family that does not compute with TensorFlow."""

    def defines(self, thing: Any) -> bool:
        """Returns whether a class or a function is the family's own."""
        return package_of(thing) == self.name

    def is_registered(self, name: str) -> bool:
        """Returns whether the user's program has registered a class or function under a name.

        Classes that the family itself registers, such as optimizers, do not count.
        """
        thing = self.keras.saving.get_registered_object(name)
        return thing is not None and not self.defines(thing)

    # Models and layers.

    def models_and_layers(self, model: Any) -> tuple[list[Any], list[Any]]:
        """Returns a model with all models in it, and their layers that are no models."""
        kind = self.keras.Model
        layers = list(model._flatten_layers(include_self=False, recursive=True))
        models = [model, *(layer for layer in layers if isinstance(layer, kind))]
        return models, [layer for layer in layers if not isinstance(layer, kind)]

    def untrainable_kernels(self, model: Any) -> list[str]:
        """Returns the names of layers that are to learn, with kernels that were quantised.

        Whole numbers have no gradient. Kernels of 8-bit floats have one, and so has what LoRA adds
        to a kernel.
        """
        _, layers = self.models_and_layers(model)
        return [
            layer.name
            for layer in layers
            if getattr(layer, "quantization_mode", None) not in (None, "float8")
            and layer.trainable
            and not getattr(layer, "lora_enabled", False)
        ]

    @abc.abstractmethod
    def operations_of(self, model: Any) -> list[Any]:
        """Returns the operations on tensors in a model that are no layers."""

    @abc.abstractmethod
    def call_of(self, tensor: Any) -> Call:
        """Returns the call that made a symbolic tensor."""

    def own_kind(self, layer: Any) -> str | None:
        """Returns the class name of a layer that computes as the family's class of that name does.

        None for a class of the user's own, whatever its name, for a layer whose `call` was
        replaced, and for a quantised layer, which computes with other numbers than its kernel.
        """
        kind = type(layer)
        name = kind.__name__
        own = getattr(self.keras.layers, name, None)
        quantised = getattr(layer, "quantization_mode", None) is not None
        return name if kind is own and "call" not in vars(layer) and not quantised else None

    def is_graph(self, model: Any) -> bool:
        """Returns whether a model's layers tell all that it computes, and it has one output.

        So it is with a Sequential or functional model that is built, and with a subclass of these
        that leaves `call` as it is.
        """
        for base in type(model).__mro__:
            if base.__name__ in ("Functional", "Sequential") and self.defines(base):
                outputs = getattr(model, "outputs", None)
                return outputs is not None and len(outputs) == 1 and "call" not in vars(model)
            if "call" in vars(base) or "__call__" in vars(base):
                return False
        return False

    def activation_name(self, function: Any) -> str | None:
        """Returns 'softmax', 'sigmoid' or 'linear' for a function that is Keras' or TensorFlow's.

        Those of the other family count, too, for layers take them. None for any other: a function
        of the user's own may have any name.
        """
        import tensorflow as tf

        # A family that was not imported cannot have given the function.
        families = [sys.modules[name] for name in ("keras", "tf_keras") if name in sys.modules]
        homes = [tf.nn, *(keras.activations for keras in families)]
        homes += [keras.ops for keras in families if hasattr(keras, "ops")]
        for name in ("softmax", "sigmoid", "linear"):
            if function in [getattr(home, name) for home in homes if hasattr(home, name)]:
                return name
        return None

    @abc.abstractmethod
    def operation_name(self, call: Call) -> str | None:
        """Returns 'softmax' over the last axis, or 'sigmoid', for a call of such an operation.

        None for any other operation, and for a layer.
        """

    @abc.abstractmethod
    def matmul(self, inputs: Any, kernel: Any) -> Any:
        """Returns the matrix product that the family's Dense layer computes."""

    def has_operations(self, model: Any) -> bool:
        """Returns whether a model computes with operations on tensors besides its layers."""
        models, _ = self.models_and_layers(model)
        return any(self.operations_of(part) for part in models)

    @abc.abstractmethod
    def saved_as_it_can_be_read(self, model: Any) -> contextlib.AbstractContextManager[None]:
        """Lets a model be saved whose settings the family computes with and cannot write."""

    # Variables.

    @abc.abstractmethod
    def as_tf_variable(self, variable: Any) -> Any:
        """Returns the TensorFlow variable of a variable of the family."""

    @abc.abstractmethod
    def random_states(self, model: Any) -> list[Any]:
        """Returns the TensorFlow variables that a model's random layers draw from."""

    @abc.abstractmethod
    def restorable_random_layers(
        self, model: Any, strategy: Any
    ) -> contextlib.AbstractContextManager[None]:
        """Lets a model's random layers draw from variables, which a checkpoint can hold."""

    # Optimizers.

    @abc.abstractmethod
    def variables_of(self, optimizer: Any) -> list[Any]:
        """Returns the variables of an optimizer, including those of a loss scale."""

    @abc.abstractmethod
    def average_of(self, optimizer: Any, variable: Any) -> Any:
        """Returns the moving average of a model's variable, a variable of the optimizer."""

    @abc.abstractmethod
    def scaled_loss(self, optimizer: Any, loss: Any) -> Any:
        """Returns the loss times the optimizer's loss scale; the loss itself if it has no scale."""

    @abc.abstractmethod
    def expect_summed_gradients(self, optimizer: Any) -> None:
        """Keeps an optimizer, not one with a loss scale, from summing gradients over replicas."""

    @abc.abstractmethod
    def apply_gradients(self, optimizer: Any, gradients: Any, variables: Sequence[Any]) -> None:
        """Updates variables by gradients of the scaled loss that are summed over all replicas."""

    def schedule_of(self, optimizer: Any) -> Callable[[Any], Any] | None:
        """Returns an optimizer's learning rate schedule; None if its learning rate is a number."""
        rate = optimizer._learning_rate
        return rate if callable(rate) else None

    # Metrics.

    def function_of(self, metric: Any) -> Callable[..., Any] | None:
        """Returns the function that a metric averages; None for a metric that computes itself."""
        if type(metric).__name__ != "MeanMetricWrapper":
            return None
        return getattr(metric, "_fn", None)

    @abc.abstractmethod
    def direction_of(self, metric: Any) -> str | None:
        """Returns 'max' or 'min' for a metric that says which is better, else None."""

    @abc.abstractmethod
    def rename_metric(self, metric: Any, name: str) -> None:
        """Gives a metric the name that the user asked for it by, where `compile` does so."""

    # Callbacks.

    @abc.abstractmethod
    def count_steps(self, model: Any, num_steps: int) -> None:
        """Sets the counter of training steps that the family's callbacks read."""

    def is_tracing(self, tensorboard: Any) -> bool:
        """Returns whether a TensorBoard callback profiles batches."""
        return tensorboard._should_trace

    @abc.abstractmethod
    def lacks_direction(self, callback: Any) -> bool:
        """Returns whether a callback does not know yet if large or small values are better."""

    @abc.abstractmethod
    def settle_direction(self, callback: Any, mode: str) -> None:
        """Tells a callback that lacks its direction: 'max' or 'min'."""

    def takes_smallest_as_best(self, callback: Any) -> bool:
        """Returns whether a callback prefers small values of its metric.

        A callback that guesses by the metric's name takes 'min' for a name that it does not know.
        """
        if not getattr(callback, "save_best_only", True):
            return False  # a ModelCheckpoint that keeps every epoch compares nothing
        compares = getattr(callback, "monitor_op", None)
        return compares is np.less or getattr(callback, "mode", "") == "auto"


def is_last_axis(axis: Any, tensor: Any) -> bool:
    """Returns whether an axis, an int that may count from the end, is a tensor's last one."""
    rank = len(tensor.shape)
    return isinstance(axis, int) and axis in (-1, rank - 1)


def package_of(thing: Any) -> str:
    """Returns the name of the top-level package that defines a class or a function."""
    return str(getattr(thing, "__module__", "")).partition(".")[0]

"""Finds the logits of a Keras model that ends in softmax or sigmoid.

    logits = logits_model(model)      # shares every weight with `model`
    logits.removed                    # 'softmax': the last activation was taken off
    tf.nn.softmax(logits.model(x)) == model(x)

The model itself is never changed: layers may be shared, and a compiled function would keep the
old activation. A last Dense or convolution with an activation is replaced by a small layer that
uses the same kernel and bias. Activation layers at the end are left out. Layers between activation
and output (Reshape, Flatten, Dropout) are applied again. Nested models are entered.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from streamkd.models.families import family_of
from streamkd.models.family_base import Family

# Last activations that are taken off.
ACTIVATIONS = ("softmax", "sigmoid")
# Layers without weights that may stand between the activation and the output.
PASS_THROUGH = ("Reshape", "Flatten", "Dropout")


@dataclasses.dataclass(frozen=True)
class LogitsModel:
    """A model that answers with logits.

    Attributes:
      model: callable on a batch of images; shares the weights of the model it was made from.
      removed: 'softmax' or 'sigmoid' where that was taken off, None where the layers show neither.
      inspected: False for a model whose layers cannot be looked into (subclassed); its answers
        alone tell whether they are logits.
    """

    model: Any
    removed: str | None
    inspected: bool


def logits_model(model: Any) -> LogitsModel:
    """Returns `model` without its last softmax or sigmoid."""
    if not _is_graph(model):
        return LogitsModel(model, removed=None, inspected=False)
    family = family_of(model)
    output, removed = _before_activation(family, model.outputs[0])
    if removed is None:
        return LogitsModel(model, removed=None, inspected=_ends_visibly(family, model))
    inputs = model.inputs[0] if len(model.inputs) == 1 else model.inputs
    rebuilt = family.keras.Model(inputs, output, name=f"{model.name}_logits")
    return LogitsModel(rebuilt, removed=removed, inspected=True)


def _is_graph(model: Any) -> bool:
    """Returns whether this is a Sequential or functional model with one output."""
    for base in type(model).__mro__:
        if base.__name__ in ("Functional", "Sequential"):
            outputs = getattr(model, "outputs", None)
            return outputs is not None and len(outputs) == 1
        if "call" in vars(base):  # a subclass that calls the layers in its own way
            return False
    return False


def _ends_visibly(family: Family, model: Any) -> bool:
    """Returns whether the layers show that no activation stands at the end."""
    layer, source = family.producer_of(model.outputs[0])
    while source is not None and type(layer).__name__ in PASS_THROUGH:
        layer, source = family.producer_of(source)
    if _is_graph(layer):
        return _ends_visibly(family, layer)
    return _activation_name(layer) == "linear"


def _before_activation(family: Family, tensor: Any) -> tuple[Any, str | None]:
    """Returns the symbolic logits behind `tensor`, and the activation that was left out, if any."""
    layer, source = family.producer_of(tensor)
    kind = type(layer).__name__
    if source is None:
        return tensor, None
    if _is_graph(layer):
        if len(layer.inputs) != 1:
            return tensor, None
        inner = logits_model(layer)
        return (inner.model(source), inner.removed) if inner.removed else (tensor, None)
    activation = "softmax" if kind == "Softmax" else _activation_name(layer)
    if activation in ACTIVATIONS:
        if kind in ("Softmax", "Activation"):
            return source, activation
        linear = _linear_twin(family, layer)
        return (linear(source), activation) if linear is not None else (tensor, None)
    if kind in PASS_THROUGH or (kind == "Activation" and activation == "linear"):
        before, removed = _before_activation(family, source)
        if removed is None:
            return tensor, None
        return type(layer).from_config(layer.get_config())(before), removed
    return tensor, None


def _activation_name(layer: Any) -> str | None:
    name = getattr(getattr(layer, "activation", None), "__name__", None)
    return "softmax" if name == "softmax_v2" else name  # as `tf.nn.softmax` is called


def _linear_twin(family: Family, layer: Any) -> Any:
    """Returns a Dense or Conv2D layer without its activation; None for any other layer."""
    kind = type(layer).__name__
    if kind not in ("Dense", "Conv2D"):
        return None

    class LinearTwin(family.keras.layers.Layer):  # type: ignore[name-defined]
        """Kernel and bias of another layer, without its activation."""

        def __init__(self, original: Any, **kwargs: Any) -> None:
            super().__init__(**kwargs)
            self.original = original

        def call(self, inputs: Any) -> Any:
            original = self.original
            if kind == "Dense":
                outputs = family.matmul(inputs, original.kernel)
            else:
                outputs = original.convolution_op(inputs, original.kernel)
            return outputs + original.bias if original.use_bias else outputs

        def compute_output_shape(self, input_shape: Any) -> Any:
            return self.original.compute_output_shape(input_shape)

    # In the layer's own precision, so that the twin computes in the same types.
    return LinearTwin(layer, name=f"{layer.name}_linear", dtype=layer.dtype_policy)

"""Finds the logits of a Keras model that ends in softmax or sigmoid.

    logits = logits_model(model)      # shares every weight with `model`
    logits.removed                    # 'softmax': the last activation was taken off
    tf.nn.softmax(logits.model(x)) == model(x)

The model itself is never changed: layers may be shared, and a compiled function would keep the
old activation. A last Dense or convolution with an activation is replaced by a small layer that
uses the same kernel and bias. Activations at the end, layers and operations, are left out. Layers
between activation and output (Reshape, Flatten, Dropout) are applied again. Nested models are
entered.

Layers are told by their class and functions by what they are, never by a name: a user's own
`Dense` or `softmax` may compute anything. What is not Keras' own is not looked into, and the model
is taken as it is (`inspected` is False).
"""

from __future__ import annotations

import dataclasses
from typing import Any

from streamkd.models.families import family_of
from streamkd.models.family_base import Call, Family, is_last_axis

# Last activations that are taken off.
ACTIVATIONS = ("softmax", "sigmoid")
# Layers without weights that may stand between the activation and the output.
PASS_THROUGH = ("Reshape", "Flatten", "Dropout", "Identity")
# Layers with weights whose activation may be taken off.
WEIGHTED = ("Dense", "Conv2D")


@dataclasses.dataclass(frozen=True)
class LogitsModel:
    """A model that answers with logits.

    Attributes:
      model: callable on a batch of images; shares the weights of the model it was made from.
      removed: 'softmax' or 'sigmoid' where that was taken off, None where the layers show neither.
      inspected: False for a model whose end cannot be looked into (subclassed, not yet built, or
        with layers of the user's own); its answers alone tell whether they are logits.
    """

    model: Any
    removed: str | None
    inspected: bool


def logits_model(model: Any) -> LogitsModel:
    """Returns `model` without its last softmax or sigmoid."""
    family = family_of(model)
    if not family.is_graph(model):
        return LogitsModel(model, removed=None, inspected=False)
    output, removed = _before_activation(family, model.outputs[0])
    if removed is None:
        return LogitsModel(model, removed=None, inspected=_ends_linear(family, model))
    inputs = model.inputs[0] if len(model.inputs) == 1 else model.inputs
    rebuilt = family.keras.Model(inputs, output, name=f"{model.name}_logits")
    return LogitsModel(rebuilt, removed=removed, inspected=True)


def _ends_linear(family: Family, model: Any) -> bool:
    """Returns whether the layers show that no activation stands at the end."""
    call = family.call_of(model.outputs[0])
    while call.source is not None and _passes_through(family, call):
        call = family.call_of(call.source)
    if family.is_graph(call.layer):
        return _ends_linear(family, call.layer)
    return family.own_kind(call.layer) in WEIGHTED and _activation(family, call) == "linear"


def last_weighted(model: Any) -> list[Any] | None:
    """Returns the layer whose kernel makes the logits, a Dense or Conv2D, last in a list.

    The models in which it lies, from the outermost inwards, stand before it. None where the layers
    do not show that one bias is added to each logit: behind another activation or a second one, in
    a layer of the user's own, or in a convolution that answers for several places.
    """
    family = family_of(model)
    return _last_weighted(family, model, 0) if family.is_graph(model) else None


def _last_weighted(family: Family, model: Any, num_activations: int) -> list[Any] | None:
    """Returns the same for a model behind which activations were passed already."""
    tensor = model.outputs[0]
    while (call := family.call_of(tensor)).source is not None:
        if family.is_graph(call.layer):
            inner = _last_weighted(family, call.layer, num_activations)
            return None if inner is None else [model, *inner]
        activation = _activation(family, call)
        num_activations += activation in ACTIVATIONS
        if num_activations > 1:
            return None
        if family.own_kind(call.layer) in WEIGHTED:
            is_one_row = all(size == 1 for size in tensor.shape[1:-1])
            known = activation in (*ACTIVATIONS, "linear")
            return [model, call.layer] if known and is_one_row else None
        if activation not in ACTIVATIONS and not _passes_through(family, call):
            return None
        tensor = call.source
    return None


def _before_activation(family: Family, tensor: Any) -> tuple[Any, str | None]:
    """Returns the symbolic logits behind `tensor`, and the activation that was left out, if any."""
    call = family.call_of(tensor)
    layer, source = call.layer, call.source
    if source is None:
        return tensor, None
    if family.is_graph(layer):
        if len(layer.inputs) != 1 or set(call.arguments) - {"training"}:
            return tensor, None
        inner = logits_model(layer)
        # With `training` as it was given: a model may be held to what it does at inference.
        found = inner.model(source, **call.arguments) if inner.removed else tensor
        return found, inner.removed
    activation = _activation(family, call)
    if activation == "softmax" and any(size != 1 for size in tensor.shape[1:-1]):
        return tensor, None  # one softmax for each place of a map
    if activation in ACTIVATIONS:
        if family.own_kind(layer) in WEIGHTED:
            return _linear_twin(family, layer)(source), activation
        return source, activation
    if _passes_through(family, call):
        before, removed = _before_activation(family, source)
        if removed is None:
            return tensor, None
        return type(layer).from_config(layer.get_config())(before), removed
    return tensor, None


def _passes_through(family: Family, call: Call) -> bool:
    """Returns whether a layer only shapes what it is given, when it is not training."""
    if family.own_kind(call.layer) in PASS_THROUGH:
        return not {name: value for name, value in call.arguments.items() if value is not False}
    return family.own_kind(call.layer) == "Activation" and _activation(family, call) == "linear"


def _activation(family: Family, call: Call) -> str | None:
    """Returns the activation that a call ends in: 'softmax', 'sigmoid' or 'linear'.

    None where it is another, or cannot be told.
    """
    layer = call.layer
    operation = family.operation_name(call)
    kind = family.own_kind(layer)
    if operation is not None or kind is None or set(call.arguments) - {"training"}:
        return operation
    if kind == "Softmax":
        return "softmax" if is_last_axis(layer.axis, call.source) else None
    if kind == "Activation" or kind in WEIGHTED:
        channels_last = getattr(layer, "data_format", "channels_last") == "channels_last"
        return family.activation_name(layer.activation) if channels_last else None
    return None


def _linear_twin(family: Family, layer: Any) -> Any:
    """Returns a layer that is the family's own Dense or Conv2D without its activation."""
    is_dense = family.own_kind(layer) == "Dense"

    class LinearTwin(family.keras.layers.Layer):  # type: ignore[name-defined]
        """Kernel and bias of another layer, without its activation."""

        def __init__(self, original: Any, **kwargs: Any) -> None:
            super().__init__(**kwargs)
            self.original = original

        def call(self, inputs: Any) -> Any:
            original = self.original
            if is_dense:
                outputs = family.matmul(inputs, original.kernel)
            else:
                outputs = original.convolution_op(inputs, original.kernel)
            return outputs + original.bias if original.use_bias else outputs

        def compute_output_shape(self, input_shape: Any) -> Any:
            return self.original.compute_output_shape(input_shape)

    # In the layer's own precision, so that the twin computes in the same types.
    return LinearTwin(layer, name=f"{layer.name}_linear", dtype=layer.dtype_policy)

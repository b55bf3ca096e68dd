"""Finds the logits of a Keras model that ends in softmax or sigmoid.

    logits = logits_model(model)      # shares every weight with `model`
    logits.removed                    # 'softmax': the last activation was taken off
    tf.nn.softmax(logits.model(x)) == model(x)

The model itself is never changed: layers may be shared, and a compiled function would keep the
old activation. A last Dense or convolution with an activation is replaced by a small layer that
uses the same kernel and bias; activation layers at the end are left out; what stands between
(Reshape, Flatten, Dropout) is applied again; nested models are entered.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from streamkd.models.families import KERAS_3, family_name, family_of

ACTIVATIONS = ("softmax", "sigmoid")
# Layers without weights that may stand between the activation and the output.
PASS_THROUGH = ("Reshape", "Flatten", "Dropout")


@dataclasses.dataclass(frozen=True)
class LogitsModel:
    """A model that answers with logits.

    Attributes:
      model: callable on a batch of images; shares the weights of the model it was made from.
      removed: 'softmax' or 'sigmoid' where that activation was taken off, None where there was
        none to be seen.
      inspected: False for a model whose layers cannot be looked into (subclassed); what it
        answers with has to be probed.
    """

    model: Any
    removed: str | None
    inspected: bool


def logits_model(model: Any) -> LogitsModel:
    """Returns `model` without its last softmax or sigmoid."""
    if not _is_graph(model):
        return LogitsModel(model, removed=None, inspected=False)
    output, removed = _before_activation(model, model.outputs[0])
    if removed is None:
        return LogitsModel(model, removed=None, inspected=_ends_visibly(model))
    family = family_of(model)
    inputs = model.inputs[0] if len(model.inputs) == 1 else model.inputs
    rebuilt = family.Model(inputs, output, name=f"{model.name}_logits")
    return LogitsModel(rebuilt, removed=removed, inspected=True)


def _is_graph(model: Any) -> bool:
    """True for a Sequential or functional model with one output."""
    for base in type(model).__mro__:
        if base.__name__ in ("Functional", "Sequential"):
            outputs = getattr(model, "outputs", None)
            return outputs is not None and len(outputs) == 1
        if "call" in vars(base):  # a subclass that does something of its own with the layers
            return False
    return False


def _ends_visibly(model: Any) -> bool:
    """True where the layers show that no activation stands at the end."""
    layer, source = _producer(model.outputs[0])
    while source is not None and type(layer).__name__ in PASS_THROUGH:
        layer, source = _producer(source)
    if _is_graph(layer):
        return _ends_visibly(layer)
    return _activation_name(layer) == "linear"


def _producer(tensor: Any) -> tuple[Any, Any]:
    """Returns the layer that made a symbolic tensor, and the layer's input tensor."""
    history = tensor._keras_history
    layer = getattr(history, "layer", None) or history.operation
    node = layer._inbound_nodes[history.node_index]
    if family_name(layer) == KERAS_3:
        inputs = node.input_tensors
        return layer, inputs[0] if inputs else None
    if node.is_input:
        return layer, None
    inputs = node.keras_inputs
    return layer, inputs[0] if inputs else None


def _before_activation(model: Any, tensor: Any) -> tuple[Any, str | None]:
    """Returns the symbolic logits behind `tensor` and the activation left out, if any."""
    layer, source = _producer(tensor)
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
        linear = _linear_twin(layer)
        return (linear(source), activation) if linear is not None else (tensor, None)
    if kind in PASS_THROUGH or (kind == "Activation" and activation == "linear"):
        before, removed = _before_activation(model, source)
        if removed is None:
            return tensor, None
        return type(layer).from_config(layer.get_config())(before), removed
    return tensor, None


def _activation_name(layer: Any) -> str | None:
    name = getattr(getattr(layer, "activation", None), "__name__", None)
    return "softmax" if name == "softmax_v2" else name  # as `tf.nn.softmax` is called


def _linear_twin(layer: Any) -> Any:
    """Returns a layer that does what `layer` does before its activation, with its weights."""
    kind = type(layer).__name__
    if kind not in ("Dense", "Conv2D"):
        return None
    family = family_of(layer)
    matmul = _keras_3_matmul if family_name(layer) == KERAS_3 else _tf_matmul

    class LinearTwin(family.layers.Layer):  # type: ignore[name-defined]
        """Kernel and bias of another layer, without its activation."""

        def __init__(self, original: Any, **kwargs: Any) -> None:
            super().__init__(**kwargs)
            self.original = original

        def call(self, inputs: Any) -> Any:
            original = self.original
            if kind == "Dense":
                outputs = matmul(inputs, original.kernel)
            else:
                outputs = original.convolution_op(inputs, original.kernel)
            return outputs + original.bias if original.use_bias else outputs

        def compute_output_shape(self, input_shape: Any) -> Any:
            return self.original.compute_output_shape(input_shape)

    return LinearTwin(layer, name=f"{layer.name}_linear", dtype=_policy(layer))


def _policy(layer: Any) -> Any:
    """Returns the precision policy of a layer, so that its twin computes in the same types."""
    policy = getattr(layer, "dtype_policy", None)
    return policy if policy is not None else layer._dtype_policy


def _tf_matmul(inputs: Any, kernel: Any) -> Any:
    import tensorflow as tf

    if inputs.shape.rank == 2:
        return tf.matmul(inputs, kernel)
    return tf.tensordot(inputs, kernel, axes=1)


def _keras_3_matmul(inputs: Any, kernel: Any) -> Any:
    import keras

    return keras.ops.matmul(inputs, kernel)

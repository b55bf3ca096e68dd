"""The layers of a functional model reach each other, and each computes from an input.

reason = why_graph_is_refused(config, is_keras_3=False)    # the part "config" of a functional model

tf_keras waits for ever for a layer that is never called, and both families compute at once what
depends on no input, however large it gets.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Iterator, Mapping
from typing import Any, TypeGuard

# Name of a layer and number of its call.
Call = tuple[str, int]
# The first word of tf_keras where a constant stands in place of a layer.
_CONSTANT = "_CONSTANT_VALUE"
# Layers and operations of tf_keras that may have several outputs, besides models.
_SEVERAL_OUTPUTS = """
    AdditiveAttention Attention Bidirectional ConvLSTM1D ConvLSTM2D ConvLSTM3D GRU GRUCell LSTM
    LSTMCell MultiHeadAttention RNN SimpleRNN SimpleRNNCell SpectralNormalization StackedRNNCells
    TimeDistributed
    nn.moments split unstack
"""
_SHAPES = ("batch_input_shape", "batch_shape", "input_shape", "input_dim")


def why_graph_is_refused(config: Mapping[str, Any], *, is_keras_3: bool) -> str | None:
    """Returns why a functional model cannot be built; None for one that can, or another thing.

    Args:
      config: the part `config` of the model.
      is_keras_3: whether Keras 3 wrote the file, which itself refuses layers that wait.
    """
    layers = config.get("layers")
    if not isinstance(layers, list):
        return None
    calls: dict[str, list[tuple[Call, set[Call]]]] = {}
    made: set[Call] = set()
    single: set[str] = set()  # layers of one output
    wanted: set[tuple[str, str]] = set()  # a layer, and another whose further output it takes
    for layer in layers:
        if not isinstance(layer, Mapping) or "inbound_nodes" not in layer:
            continue
        name, nodes = layer.get("name"), layer["inbound_nodes"]
        if not isinstance(name, str) or not isinstance(nodes, list):
            return f"a layer has the name {name!r:.80} and the calls {nodes!r:.80}"
        if name in calls:
            return f"two layers have the name {name!r:.80}"
        if layer.get("class_name") == "InputLayer":
            made.add((name, 0))
        inputs = [list(_inputs_of(node, is_keras_3)) for node in nodes]
        if not all(inputs):
            return f"the layer {name!r:.80} computes from constants alone"
        wanted |= {(name, source) for taken in inputs for source, _, k in taken if k != 0}
        if not _may_have_several_outputs(layer):
            single.add(name)
        # A model within the model was called once, by its own input, when it was made.
        first = int("layers" in _config_of(layer) and _begins_with_input(layer))
        calls[name] = [
            ((name, first + i), {(source, call) for source, call, _ in taken})
            for i, taken in enumerate(inputs)
        ]
    return None if is_keras_3 else _why_it_waits(calls, made, single, wanted)


def _why_it_waits(
    calls: Mapping[str, list[tuple[Call, set[Call]]]],
    made: set[Call],
    single: set[str],
    wanted: set[tuple[str, str]],
) -> str | None:
    for name, source in sorted(wanted):
        if source in single:
            return f"the layer {name!r:.80} takes a second output of {source!r:.80}, which has one"
    waiting = _waiting(calls, made)
    if waiting:
        return f"the layer {waiting[0]!r:.80} waits for a layer that is never called"
    return None


def _waiting(calls: Mapping[str, list[tuple[Call, set[Call]]]], made: set[Call]) -> list[str]:
    """Returns the layers whose calls cannot all be made in their order; `made` grows."""
    num_made = dict.fromkeys(calls, 0)
    woken_by: dict[Call, list[str]] = defaultdict(list)
    ready = deque(calls)
    while ready:
        name = ready.popleft()
        for call, inputs in calls[name][num_made[name] :]:
            missing = next((other for other in inputs if other not in made), None)
            if missing is not None:
                woken_by[missing].append(name)
                break
            made.add(call)
            num_made[name] += 1
            ready.extend(woken_by.pop(call, ()))
    return [name for name in calls if num_made[name] < len(calls[name])]


def _inputs_of(node: Any, is_keras_3: bool) -> Iterator[tuple[str, int, Any]]:
    """Yields what a call of a layer takes: another layer, its call, the number of the output."""
    as_keras_3 = is_keras_3 and isinstance(node, Mapping)  # it reads the form of tf_keras, too
    pending = [node]
    while pending:
        value = pending.pop()
        if isinstance(value, Mapping):
            history = _config_of(value).get("keras_history")
            if as_keras_3 and value.get("class_name") == "__keras_tensor__" and _is_call(history):
                yield _call(history)
            else:
                pending += value.values()
        elif not as_keras_3 and _is_call(value):
            if value[0] != _CONSTANT:
                yield _call(value)
            pending += value[3:]  # the named arguments
        elif isinstance(value, list):
            pending += value


def _is_call(value: Any) -> TypeGuard[list[Any]]:
    """Returns whether a value is [layer, number of the call, number of the output, ...]."""
    return isinstance(value, list) and len(value) in (3, 4) and isinstance(value[0], str)


def _call(value: list[Any]) -> tuple[str, int, Any]:
    return value[0], value[1] if isinstance(value[1], int) else -1, value[2]


def _may_have_several_outputs(layer: Mapping[str, Any]) -> bool:
    name, registered, config = (
        layer.get("class_name"),
        layer.get("registered_name"),
        _config_of(layer),
    )
    is_own = registered is not None and registered != name
    kind = config.get("function") if name == "TFOpLambda" else name
    return (
        is_own or "layers" in config or (isinstance(kind, str) and kind in _SEVERAL_OUTPUTS.split())
    )


def _config_of(layer: Any) -> Mapping[str, Any]:
    config = layer.get("config") if isinstance(layer, Mapping) else None
    return config if isinstance(config, Mapping) else {}


def _begins_with_input(layer: Any) -> bool:
    """Returns whether tf_keras gives a layer an input of its own when it is made."""
    config = _config_of(layer)
    layers = config.get("layers")
    if not isinstance(layers, list):
        is_input = isinstance(layer, Mapping) and layer.get("class_name") == "InputLayer"
        return is_input or any(config.get(name) is not None for name in _SHAPES)
    if any(isinstance(part, Mapping) and "inbound_nodes" in part for part in layers):
        return True
    return bool(layers) and _begins_with_input(layers[0])

"""Digests of a student's layers, so that a run is not resumed with other layers.

    describe_layers(student)
    {"0 InputLayer": "93f0a1c2", "1 Rescaling": "5d0e77b1", "2 Dense": "0c4b92aa"}

Shapes of weights do not tell relu from gelu. Names do not count, since Keras numbers them anew in
every process; neither do seeds and initializers, which a restored run does not use again.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

import numpy as np

from streamkd.models.families import family_of

# Layer settings that may differ between two runs of one student. An input has the batch that it was
# first called with, and a nested model numbers its layers.
IGNORED_SETTINGS = (
    *("name", "seed", "dtype", "shared_object_id", "module", "registered_name"),
    *("batch_shape", "batch_input_shape", "build_input_shape", "build_config"),
    *("inbound_nodes", "input_layers", "output_layers"),
)
# Ending of the settings that are initializers.
INITIALIZER = "_initializer"
# Class name of a saved lambda; its code holds the numbers of its lines.
LAMBDA = "__lambda__"
# Settings of a Lambda layer that hold code.
CODE = ("function", "lambda")


def describe_layers(model: Any) -> dict[str, str]:
    """Returns a digest of each layer's settings, by the layer's index and class.

    Layers of nested models are included; operations on tensors come last. The connections between
    layers are not compared, nor is the code of a user's own layer. A layer without `get_config` is
    described by its class alone.
    """
    family = family_of(model)
    # The layers describe a nested model.
    models, parts = family.models_and_layers(model)
    for nested in models:
        parts += family.operations_of(nested)
    return {
        f"{index} {type(part).__name__}": _digest(_settings(part))
        for index, part in enumerate(parts)
    }


def _settings(part: Any) -> Any:
    """Returns the settings of a layer that matter; None if it cannot tell them."""
    try:
        return _without_ignored(part.get_config())
    except Exception:  # raised by the user's code; only this description depends on it
        return None


def _without_ignored(settings: Any) -> Any:
    """Returns settings without those that make no difference to a resumed run."""
    if isinstance(settings, (list, tuple)):
        return [_without_ignored(value) for value in settings]
    if not isinstance(settings, dict):
        return settings
    if settings.get("class_name") == LAMBDA:
        return LAMBDA
    return {
        str(name): _without_ignored(value)
        for name, value in settings.items()
        if not (
            name in IGNORED_SETTINGS
            or str(name).endswith(INITIALIZER)
            or (name in CODE and isinstance(value, (list, tuple)))
        )
    }


def settings_text(settings: Any) -> str:
    """Returns settings as JSON that is the same in every process.

    Arrays and tensors become their numbers, functions their names, and any other object the name of
    its type: the text of an object may be an address.
    """

    def stand_in(value: Any) -> Any:
        if hasattr(value, "numpy"):
            value = value.numpy()
        if isinstance(value, (np.generic, np.ndarray)):
            return value.tolist()
        return getattr(value, "__qualname__", type(value).__qualname__)

    return json.dumps(settings, sort_keys=True, default=stand_in)


def _digest(settings: Any) -> str:
    text = settings_text(settings)
    return hashlib.blake2b(text.encode(), digest_size=4).hexdigest()


# Digest of a layer that could not tell its settings.
UNKNOWN = _digest(None)

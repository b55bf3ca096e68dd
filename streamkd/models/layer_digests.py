"""What the layers of a student are, so that a run does not go on with other ones.

    describe_layers(student)
    {"0 InputLayer": "93f0a1c2", "1 Rescaling": "5d0e77b1", "2 Dense": "0c4b92aa"}

Shapes of weights do not tell relu from gelu. Names do not count, since Keras numbers them anew in
every session, and neither do seeds and initializers, which a restored run does not ask any more.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

import numpy as np

from streamkd.models.families import family_name, models_and_layers

# Of the settings of a layer: what differs between two students that train alike. An input has the
# batch it was first called with, and a nested model numbers its layers.
IGNORED_SETTINGS = (
    *("name", "seed", "dtype", "shared_object_id", "module", "registered_name"),
    *("batch_shape", "batch_input_shape", "build_input_shape", "build_config"),
    *("inbound_nodes", "input_layers", "output_layers"),
)
INITIALIZER = "_initializer"
# The code of a lambda holds the lines that it stood on.
LAMBDA = "__lambda__"
CODE = ("function", "lambda")


def describe_layers(model: Any) -> dict[str, str]:
    """Returns the place and the class of each layer, nested ones included, with a digest of its
    settings; operations on tensors come after them.

    How they are connected is not looked at, nor what a layer of the user's own does; of one that
    does not describe itself by `get_config` only the class is there.
    """
    # A model among the layers is described by its own.
    models, parts = models_and_layers(model)
    for one in models:  # of Keras 3: in tf_keras operations are layers
        parts += [part for part in getattr(one, "operations", []) if family_name(part) is None]
    return {
        f"{place} {type(part).__name__}": _digest(_settings(part))
        for place, part in enumerate(parts)
    }


def _settings(part: Any) -> Any:
    """Returns what a layer says of itself; nothing where that cannot be said."""
    try:
        return _with_effect(part.get_config())
    except Exception:  # it is the user's code, and what it describes is looked at by this alone
        return None


def _with_effect(settings: Any) -> Any:
    """Returns settings without those that make no difference to a run that goes on."""
    if isinstance(settings, (list, tuple)):
        return [_with_effect(value) for value in settings]
    if not isinstance(settings, dict):
        return settings
    if settings.get("class_name") == LAMBDA:
        return LAMBDA
    return {
        str(name): _with_effect(value)
        for name, value in settings.items()
        if not (
            name in IGNORED_SETTINGS
            or str(name).endswith(INITIALIZER)
            or (name in CODE and isinstance(value, (list, tuple)))
        )
    }


def settings_text(settings: Any) -> str:
    """Returns settings as JSON that is the same in every process.

    Of an array or a tensor there are its numbers; a function is told by its name and any other
    object by its type, since their texts may be addresses.
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

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

# Of the settings of a layer: what differs between two students that train alike.
WITHOUT_EFFECT = ("name", "seed", "dtype", "shared_object_id", "build_config")
INITIALIZER = "_initializer"
# The code of a Lambda holds the lines that it stood on.
CODE = ("function", "lambda")


def describe_layers(model: Any) -> dict[str, str]:
    """Returns the place and the class of each layer, nested ones included, with a digest of its
    settings.

    How the layers are connected is not looked at, nor what a layer of the user's own does; of one
    that does not describe itself by `get_config` only the class is there.
    """
    layers = model._flatten_layers(include_self=False, recursive=True)
    # A model among the layers is described by its own.
    own = [layer for layer in layers if not hasattr(layer, "layers")]
    return {
        f"{place} {type(layer).__name__}": _digest(_settings(layer))
        for place, layer in enumerate(own)
    }


def _settings(layer: Any) -> Any:
    """Returns what a layer says of itself; nothing where that cannot be said."""
    try:
        return _with_effect(layer.get_config())
    except Exception:  # it is the user's code, and what it describes is looked at by this alone
        return None


def _with_effect(settings: Any) -> Any:
    """Returns settings without those that make no difference to a run that goes on."""
    if isinstance(settings, (list, tuple)):
        return [_with_effect(value) for value in settings]
    if not isinstance(settings, dict):
        return settings
    return {
        str(name): _with_effect(value)
        for name, value in settings.items()
        if name not in (*WITHOUT_EFFECT, *CODE) and not str(name).endswith(INITIALIZER)
    }


def settings_text(settings: Any) -> str:
    """Returns settings as JSON that is the same in every process.

    An object that JSON has no form for is named by its type, since its text may be an address; of
    an array there are its numbers.
    """

    def stand_in(value: Any) -> Any:
        is_array = isinstance(value, (np.generic, np.ndarray))
        return value.tolist() if is_array else type(value).__qualname__

    return json.dumps(settings, sort_keys=True, default=stand_in)


def _digest(settings: Any) -> str:
    text = settings_text(settings)
    return hashlib.blake2b(text.encode(), digest_size=4).hexdigest()

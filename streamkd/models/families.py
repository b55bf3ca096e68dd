"""The thin adapter between the two Keras families, tf_keras and Keras 3.

Everything that differs between the families and matters here passes through this module:

    family = family_of(model)            # the module `tf_keras` or `keras`
    model = load_model("teacher.keras")  # of whichever family wrote the file
    family.optimizers.get("adamw")

Both can live in one process. A file is told apart by the version written in it, never by trying.
"""

from __future__ import annotations

import importlib
import json
import os
import zipfile
from pathlib import Path
from types import ModuleType
from typing import Any

from streamkd.errors import OptionError, StreamkdError, TeacherError

TF_KERAS = "tf_keras"
KERAS_3 = "keras"


def import_family(name: str) -> ModuleType:
    """Returns the module `tf_keras` or `keras`, imported now and not before."""
    if name == KERAS_3 and os.environ.get("KERAS_BACKEND", "tensorflow") != "tensorflow":
        raise OptionError(
            f"Keras 3 is set to the backend {os.environ['KERAS_BACKEND']!r}, and streamkd trains "
            "with TensorFlow. Set KERAS_BACKEND=tensorflow and run again."
        )
    return importlib.import_module(name)


def family_name(model: Any) -> str | None:
    """Returns 'tf_keras' or 'keras' for a Keras model or layer, None for anything else."""
    for base in type(model).__mro__:
        package = base.__module__.partition(".")[0]
        if package in (TF_KERAS, KERAS_3) and base.__name__ == "Layer":
            return package
    return None


def family_of(model: Any) -> ModuleType:
    """Returns the module that `model` belongs to: `tf_keras` or `keras`."""
    name = family_name(model)
    if name is None:
        raise OptionError(
            f"{type(model).__module__}.{type(model).__name__} is not a Keras model; "
            "give a tf_keras or a Keras 3 model."
        )
    return import_family(name)


def models_and_layers(model: Any) -> tuple[list[Any], list[Any]]:
    """Returns a model and all models in it; and all layers of them that are no models."""
    kind = family_of(model).Model
    layers = list(model._flatten_layers(include_self=False, recursive=True))
    models = [model, *(layer for layer in layers if isinstance(layer, kind))]
    return models, [layer for layer in layers if not isinstance(layer, kind)]


def precision_of(model: Any) -> str:
    """Returns the dtype policy of a model's layers, such as 'float32' or 'mixed_float16'; under a
    mixed one, some may stay float32."""
    # A model that is loaded and its input have the policy of now; layers, that of their file.
    _, layers = models_and_layers(model)
    own = [layer for layer in layers if type(layer).__name__ != "InputLayer"]
    names = {layer.dtype_policy.name for layer in own}
    return " and ".join(sorted(name for name in names if "float16" in name)) or "float32"


def load_model(
    path: str | os.PathLike, *, refusal: type[StreamkdError] = TeacherError, trust: bool = False
) -> Any:
    """Returns the model saved in `path`, loaded by the family that wrote it, uncompiled.

    Args:
      path: a `.keras` file.
      refusal: the error class to raise where the file is refused.
      trust: allow a model whose loading runs code of its own (Lambda layers).

    Raises:
      refusal: no such file, not a `.keras` file, weights only, damaged, or not trusted.
    """
    path = Path(path)
    family = import_family(KERAS_3 if _saved_version(path, refusal) >= 3 else TF_KERAS)
    try:
        return family.models.load_model(path, compile=False, safe_mode=not trust)
    except (ValueError, TypeError, OSError, KeyError, zipfile.BadZipFile) as error:
        hint = "Save the model again with `model.save(...)`."
        if "safe_mode" in str(error) or "Lambda" in str(error) or "lambda" in str(error):
            hint = "It runs code on loading; add `--trust` if the file is your own."
        reason = str(error).strip().splitlines()[0][:300] if str(error).strip() else repr(error)
        raise refusal(f"{path} could not be loaded as a Keras model: {reason}\n{hint}") from error


def _saved_version(path: Path, refusal: type[StreamkdError]) -> int:
    """Returns the major Keras version written in a `.keras` file."""
    if not path.exists():
        raise refusal(f"There is no model at {path}.\nGive the path of a saved `.keras` file.")
    if not zipfile.is_zipfile(path):
        raise refusal(
            f"{path} is not a `.keras` file (a zip with the model's parts).\n"
            "Save the model with `model.save('model.keras')` and give that file."
        )
    try:
        with zipfile.ZipFile(path) as parts:
            version = json.loads(parts.read("metadata.json"))["keras_version"]
            return int(version.partition(".")[0])
    except (KeyError, TypeError, ValueError, AttributeError, zipfile.BadZipFile) as error:
        raise refusal(
            f"{path} does not say which Keras wrote it: {error}.\n"
            "Save the model with `model.save('model.keras')` and give that file."
        ) from error

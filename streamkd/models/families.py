"""Tells which Keras family a model, an optimizer or a file belongs to: tf_keras or Keras 3.

    family = family_of(model)            # a `TfKeras` or a `Keras3`
    model = load_model("teacher.keras")  # of whichever family wrote the file
    family.keras.optimizers.get("adamw")

Both can live in one process. Everything that differs between them and matters here is in the two
classes; see `family_base.Family`. The version in a file tells its family.
"""

from __future__ import annotations

import json
import os
import zipfile
from pathlib import Path
from typing import Any

from streamkd.errors import OptionError, StreamkdError, TeacherError
from streamkd.models.family_base import Family, package_of
from streamkd.models.keras3_family import Keras3
from streamkd.models.tf_keras_family import TfKeras

TF_KERAS = TfKeras()
KERAS_3 = Keras3()
FAMILIES = {family.name: family for family in (TF_KERAS, KERAS_3)}
OPTIMIZER_BASES = ("Optimizer", "BaseOptimizer")


def family_name(model: Any) -> str | None:
    """Returns 'tf_keras' or 'keras' for a Keras model or layer, None for anything else."""
    return _name_by_base(model, ("Layer",))


def family_of(model: Any) -> Family:
    """Returns the family of a model or a layer.

    Raises:
      OptionError: it is neither, or of Keras 3 with another backend than TensorFlow.
    """
    name = family_name(model)
    if name is None:
        raise OptionError(
            f"{type(model).__module__}.{type(model).__name__} is not a Keras model; "
            "give a tf_keras or a Keras 3 model."
        )
    family = FAMILIES[name]
    family.check_backend()
    return family


def family_of_optimizer(optimizer: Any) -> Family | None:
    """Returns the family of an optimizer; None for anything else, legacy optimizers included."""
    name = _name_by_base(optimizer, OPTIMIZER_BASES)
    return None if name is None else FAMILIES[name]


def _name_by_base(thing: Any, bases: tuple[str, ...]) -> str | None:
    """Returns the name of the family that defines one of these base classes of an object."""
    packages = (package_of(kind) for kind in type(thing).__mro__ if kind.__name__ in bases)
    return next((package for package in packages if package in FAMILIES), None)


def load_model(
    path: str | os.PathLike, *, refusal: type[StreamkdError] = TeacherError, trust: bool = False
) -> Any:
    """Returns the model saved in a `.keras` file, loaded by the family that wrote it, uncompiled.

    Args:
      path: of the file.
      refusal: class of the error that refuses the file.
      trust: allow a model that runs code on loading (Lambda layers).

    Raises:
      refusal: no such file, no `.keras` file, weights alone, or a damaged or untrusted file.
      OptionError: Keras 3 wrote it, and is set to another backend than TensorFlow.
    """
    path = Path(path)
    family: Family = KERAS_3 if _saved_version(path, refusal) >= 3 else TF_KERAS
    keras = family.keras
    try:
        return keras.models.load_model(path, compile=False, safe_mode=not trust)
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

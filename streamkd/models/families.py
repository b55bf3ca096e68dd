"""Tells which Keras family a model, an optimizer or a file belongs to: tf_keras or Keras 3.

    family = family_of(model)            # a `TfKeras` or a `Keras3`
    model = load_model("teacher.keras")  # of whichever family wrote the file
    family.keras.optimizers.get("adamw")

Both can live in one process. Everything that differs between them and matters here is in the two
classes; see `family_base.Family`. The version in a file tells its family.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from streamkd.checks import did_you_mean_file
from streamkd.codes import warn
from streamkd.errors import OptionError, StreamkdError, TeacherError
from streamkd.file_kinds import PathKind, kind_of_path
from streamkd.models import h5_model, model_file, user_code
from streamkd.models.family_base import Family, package_of
from streamkd.models.keras3_family import Keras3
from streamkd.models.loading_limit import LoadingLimit, LoadingTakesTooMuch
from streamkd.models.model_file import DamagedModelError, NoModelFileError, UntrustedModelError
from streamkd.models.reasons import keras_reason
from streamkd.models.tf_keras_family import TfKeras
from streamkd.models.weights_limit import weights_limit

TF_KERAS = TfKeras()
KERAS_3 = Keras3()
FAMILIES = {family.name: family for family in (TF_KERAS, KERAS_3)}
# Words of both families about a class that is nowhere defined.
_MISSING = re.compile(
    r"[Cc]ould not locate|[Uu]nknown (layer|object)|module \S+ cannot be imported"
)
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
    """Returns the model saved in a file, loaded by the family that wrote it, uncompiled.

    Args:
      path: of a `.keras` file, or of an HDF5 file that holds a whole model.
      refusal: class of the error that refuses the file.
      trust: load the file although it may act when it is loaded, as a Lambda layer does; a
        warning says what would have been refused. See `model_file.py`.

    Raises:
      refusal: no such file, another format, weights alone, or a damaged or untrusted file.
      OptionError: Keras 3 wrote it, and is set to another backend than TensorFlow.
    """
    path = Path(path)
    if not path.exists():
        raise refusal(
            f"There is no model at {path}.\n{did_you_mean_file(path)}"
            "Give the path of a saved `.keras` file."
        )
    kind = kind_of_path(path)
    _refuse_other_kinds(path, kind, refusal)
    is_hdf5 = kind is not None and kind.code == "h5"
    opened = h5_model.opened if is_hdf5 else model_file.opened
    with _refusals(path, refusal), opened(path) as file:
        family: Family = KERAS_3 if file.version >= 3 else TF_KERAS
        if trust:
            reason = _why_untrusted(file, family)
            if reason is not None:
                warn(
                    "model_trusted",
                    f"{path} would be refused without --trust: {reason}.",
                    stacklevel=2,
                )
            name = h5_model.named_as_hdf5(path) if is_hdf5 else contextlib.nullcontext(path)
            with name as named:
                return _loaded(family, named, trust=True)
        with file.checked_copy(family.is_registered) as copy:
            return _loaded_within_limits(family, copy)


def _refuse_other_kinds(path: Path, kind: PathKind | None, refusal: type[StreamkdError]) -> None:
    """Refuses a file that is a model, but none that Keras can open, with what works."""
    if kind is None or kind.code not in ("weights", "saved_model", "tflite", "onnx"):
        return
    if kind.code == "weights":
        raise refusal(f"{path} holds {kind.words}.\n{kind.use}")
    raise refusal(
        f"{path} is {kind.words}, and a Keras model is needed here.\n"
        "As `--teacher` of `streamkd teach` it is taken. Here give a `.keras` or `.h5` file with a "
        "whole model, or a run directory."
    )


def _why_untrusted(file: model_file.ModelFile | h5_model.H5Model, family: Family) -> str | None:
    """Returns why a file would be refused without `--trust`; None if it would not be."""
    try:
        with file.checked_copy(family.is_registered):
            return None
    except (UntrustedModelError, DamagedModelError) as error:
        return str(error)


def _loaded_within_limits(family: Family, copy: model_file.CheckedCopy) -> Any:
    """Returns the model in a checked file.

    Raises:
      DamagedModelError: it takes more than a file of its size may, or Keras cannot build it.
    """
    limit = LoadingLimit(copy.config_bytes, copy.num_bytes)
    try:
        with weights_limit(copy.num_weights) as weights, limit.watching():
            return _loaded(family, copy.path, trust=False)
    except (LoadingTakesTooMuch, DamagedModelError) as error:
        raise DamagedModelError(limit.reason or weights.reason or str(error)) from error


def _loaded(family: Family, file: Path, *, trust: bool) -> Any:
    """Returns the model in a file, uncompiled.

    Raises:
      DamagedModelError: Keras cannot build it, or it is no model.
    """
    keras = family.keras
    try:
        model = keras.models.load_model(
            file, custom_objects=user_code.own_layers(), compile=False, safe_mode=not trust
        )
    except Exception as error:  # an odd configuration makes Keras raise errors of any class
        raise DamagedModelError(keras_reason(error)) from error
    if not isinstance(model, keras.Model):
        raise DamagedModelError(f"it holds a {type(model).__name__}, which is no model")
    return model


@contextlib.contextmanager
def _refusals(path: Path, refusal: type[StreamkdError]) -> Iterator[None]:
    """Turns the reasons why a file cannot be loaded into refusals that name it."""
    try:
        yield
    except UntrustedModelError as error:
        raise refusal(
            f"{path} may run code or touch files when it is loaded: {error}.\n"
            + _way_to_trust(error.module)
        ) from error
    except NoModelFileError as error:
        kind = kind_of_path(path)
        if kind is not None and kind.code == "keras" and path.suffix == ".keras":
            raise refusal(
                f"{path} is not a `.keras` file (a zip with the model's parts): {error}.\n"
                "Save the model with `model.save('model.keras')` and give that file, or copy it "
                "again, as a whole."
            ) from error
        words, use = ("", "") if kind is None else (f"; it is {kind.words}", f" {kind.use}")
        raise refusal(
            f"{path} is not a `.keras` file (a zip with the model's parts): {error}{words}.\n"
            f"Save the model with `model.save('model.keras')` and give that file.{use}"
        ) from error
    except DamagedModelError as error:
        raise refusal(
            f"{path} could not be loaded as a Keras model: {error}.\n" + _way_to_load(str(error))
        ) from error
    except OSError as error:
        raise refusal(
            f"{path} cannot be read or copied: {error.strerror or error}.\n"
            "Give the path of a saved `.keras` file, and look at the room in the temporary "
            "directory."
        ) from error


def _way_to_trust(module: str | None) -> str:
    """Returns what to do about a file in which an object of a module was refused."""
    way = "Do not load a file from a stranger; add `--trust` if the file is your own"
    if module is None:
        return f"{way}."
    if user_code.is_named(module):
        return (
            f"{way}.\nOr register it in {module} with "
            "`@keras.saving.register_keras_serializable()`, as functions must be."
        )
    return f"{way}, or `--import {module}` if that module is."


def _way_to_load(reason: str) -> str:
    """Returns what to do about a file that Keras cannot build."""
    if _MISSING.search(reason):
        return "Add `--import MODULE` with the module that defines it."
    return "Save the model again with `model.save(...)`."

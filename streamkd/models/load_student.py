"""Builds or loads the student.

student = load_student("student.keras", num_classes=10, image_size=(96, 96), num_channels=3)
load_student("my_package.models:small", ...)          # a function that returns a model
load_student("MobileNetV3Small:alpha=0.75", ...)      # a Keras application, untrained
"""

from __future__ import annotations

import ast
import importlib
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from streamkd.errors import StudentError
from streamkd.models import families


def load_student(
    source: str | os.PathLike,
    *,
    num_classes: int,
    image_size: tuple[int, int],
    num_channels: int,
    trust: bool = False,
    activation: str | None = None,
) -> Any:
    """Returns the student that `source` names.

    Args:
      source: a `.keras` file or a run directory; `package.module:function`, called with
        num_classes and image_shape (height, width, channels); or the name of a Keras application
        with arguments after a colon, built without weights.
      num_classes: number of outputs that the student must have.
      image_size: (height, width) of the stream's images.
      num_channels: channels of the stream's images.
      trust: allow a file that runs code on loading.
      activation: last activation of a Keras application; None for its own, softmax.

    Raises:
      StudentError: no such file, function or application, or the student cannot be built.
    """
    text = os.fspath(source)
    path = Path(text)
    if path.is_dir() and (path / "student.keras").exists():
        path = path / "student.keras"
    if path.suffix == ".keras" or path.exists():
        return families.load_model(path, refusal=StudentError, trust=trust)
    image_shape = (*image_size, num_channels)
    name, colon, rest = text.partition(":")
    if (colon and "." in name) or (colon and "=" not in rest and rest.isidentifier()):
        build = _function(name, rest)
        return _call(text, build, {"num_classes": num_classes, "image_shape": image_shape})
    build = _application(name)
    arguments: dict[str, Any] = {
        "weights": None,
        "classes": num_classes,
        "input_shape": image_shape,
    }
    if activation is not None:
        arguments["classifier_activation"] = activation
    return _call(text, build, {**arguments, **_arguments(text, rest)})


def _function(module_name: str, function_name: str) -> Callable[..., Any]:
    # As under `python -m`: a user keeps `my_model.py` in the working directory.
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise StudentError(
            f"The module {module_name!r} of --student {module_name}:{function_name} cannot be "
            f"imported: {error}.\nGive package.module:function as Python would import it from here."
        ) from error
    build = getattr(module, function_name, None)
    if not callable(build):
        raise StudentError(
            f"The module {module_name!r} has no function {function_name!r}.\n"
            "Give package.module:function; it is called with num_classes and image_shape."
        )
    return build


def _application(name: str) -> Callable[..., Any]:
    import tf_keras

    build = getattr(tf_keras.applications, name, None)
    if not callable(build):
        raise StudentError(
            f"There is no student {name!r}: no such file, and no Keras application of that name.\n"
            "Give a saved `.keras` file, package.module:function, or an application such as "
            "MobileNetV3Small:alpha=0.75."
        )
    return build


def _arguments(text: str, rest: str) -> dict[str, Any]:
    """Returns the arguments in 'alpha=0.75,minimalistic=True'."""
    arguments = {}
    for part in filter(None, rest.split(",")):
        name, equals, value = part.partition("=")
        try:
            if not equals:
                raise ValueError(part)
            arguments[name.strip()] = ast.literal_eval(value)
        except (ValueError, SyntaxError) as error:
            raise StudentError(
                f"The argument {part!r} of --student {text!r} cannot be read.\n"
                "Write NAME:argument=value,argument=value, with strings in quotes."
            ) from error
    return arguments


def _call(text: str, build: Callable[..., Any], arguments: dict[str, Any]) -> Any:
    try:
        student = build(**arguments)
    except (TypeError, ValueError) as error:
        shown = ", ".join(f"{name}={value!r}" for name, value in arguments.items())
        raise StudentError(
            f"The student {text!r} cannot be built: {error}\n  called with {shown}\n"
            "Give other arguments or another --image-size."
        ) from error
    if families.family_name(student) is None:
        raise StudentError(
            f"The student {text!r} returned {type(student).__name__}, not a Keras model.\n"
            "The function must return a tf_keras or a Keras 3 model."
        )
    return student

"""Builds or loads the student.

student = load_student("student.keras", num_classes=10, image_size=(96, 96), num_channels=3)
load_student("my_package.models:small:width=8", ...)  # a function that returns a model
load_student("MobileNetV3Small:alpha=0.75", ...)      # a Keras application, untrained
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from streamkd.errors import StudentError
from streamkd.models import families, user_code


def load_student(
    source: str | os.PathLike,
    *,
    num_classes: int,
    image_size: tuple[int, int],
    num_channels: int,
    trust: bool = False,
) -> Any:
    """Returns the student that `source` names.

    Args:
      source: a `.keras` file or a run directory; `package.module:function[:name=value,…]`, called
        with num_classes, image_shape (height, width, channels) and these arguments; or the name of
        a Keras application with arguments after a colon, built without weights.
      num_classes: number of outputs that the student must have.
      image_size: (height, width) of the stream's images.
      num_channels: channels of the stream's images.
      trust: allow a file that runs code on loading.

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
    name, _, rest = text.partition(":")
    if user_code.is_function(text):
        build, arguments = user_code.function_of(text, "--student", StudentError)
        arguments = {"num_classes": num_classes, "image_shape": image_shape, **arguments}
    else:
        build = _application(name)
        arguments = {"weights": None, "classes": num_classes, "input_shape": image_shape}
        arguments |= user_code.arguments_of(rest, f"--student {text}", StudentError)
    student = user_code.call(build, arguments, f"The student {text!r}", StudentError)
    if families.family_name(student) is None:
        raise StudentError(
            f"The student {text!r} returned {type(student).__name__}, not a Keras model.\n"
            "The function must return a tf_keras or a Keras 3 model."
        )
    return student


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

"""Builds or loads the student.

student = load_student("student.keras", num_classes=10, image_size=(96, 96), num_channels=3)
load_student("my_package.models:small:width=8", ...)  # a function that returns a model
load_student("MobileNetV3Small:alpha=0.75", ...)      # a Keras application, untrained
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from streamkd.checks import did_you_mean
from streamkd.errors import StudentError
from streamkd.models import families, run_code, user_code
from streamkd.models.precision import precision_of


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
      source: a `.keras` file or a run directory; `package.module:function[:name=value,…]`, called
        with num_classes, image_shape (height, width, channels) and these arguments; or the name of
        a Keras application with arguments after a colon, built without weights.
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
    if path.is_dir() and run_code.has_student(path):
        path = run_code.student_file(path)
    if path.suffix == ".keras" or path.exists():
        return families.load_model(path, refusal=StudentError, trust=trust)
    image_shape = (*image_size, num_channels)
    named = f"The student {text!r}"
    if user_code.is_function(text):
        build, given = user_code.function_of(text, "--student", StudentError)
        arguments = {"num_classes": num_classes, "image_shape": image_shape, **given}
        student = user_code.call(build, arguments, named, StudentError)
    else:
        name, _, rest = text.partition(":")
        build = _application(name)
        given = user_code.arguments_of(rest, f"--student {text}", StudentError)
        if activation is not None:
            given = {"classifier_activation": activation, **given}
        arguments = {"weights": None, "classes": num_classes, "input_shape": image_shape, **given}
        with _channels_last():
            student = user_code.call(build, arguments, named, StudentError)
    if families.family_name(student) is None:
        raise StudentError(
            f"{named} returned {type(student).__name__}, not a Keras model.\n"
            "The function must return a tf_keras or a Keras 3 model."
        )
    _check_floatx(student, named)
    return student


@contextlib.contextmanager
def _channels_last() -> Iterator[None]:
    """Builds applications for images as they come here, whatever Keras' configuration says."""
    from tf_keras import backend

    before = backend.image_data_format()
    backend.set_image_data_format("channels_last")
    try:
        yield
    finally:
        backend.set_image_data_format(before)


def _check_floatx(student: Any, named: str) -> None:
    """Refuses a student that computes in 16 bits only because Keras' configuration says so."""
    floatx = families.family_of(student).keras.backend.floatx()
    if floatx != "float32" and floatx == precision_of(student):
        raise StudentError(
            f"{named} would compute and keep its weights in {floatx}, since Keras' configuration "
            "sets floatx so.\nSet floatx to float32 in keras.json (in the directory KERAS_HOME, or "
            "~/.keras), and add `--precision mixed_float16` for speed."
        )


def _application(name: str) -> Callable[..., Any]:
    import tf_keras

    build = getattr(tf_keras.applications, name, None)
    if not callable(build):
        known = [other for other in dir(tf_keras.applications) if other[0].isupper()]
        raise StudentError(
            f"There is no student {name!r}: no such file, and no Keras application of that name.\n"
            f"{did_you_mean(name, known)}Give a saved `.keras` file, package.module:function, or "
            "an application such as MobileNetV3Small:alpha=0.75."
        )
    return build

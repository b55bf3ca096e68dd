"""A SavedModel directory as teacher.

teacher = saved_model_teacher("exported", trust=True)

A SavedModel is a program of TensorFlow, and such a program may read and write files. So nothing of
it is loaded without `trust`.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np

from streamkd.codes import warn
from streamkd.errors import TeacherError
from streamkd.teachers.file_teacher import file_teacher
from streamkd.teachers.foreign_errors import failure, first_line
from streamkd.teachers.image_axes import (
    ImageAxes,
    InParts,
    as_rows,
    as_whole_numbers,
    chosen_output,
    refuse_several_inputs,
)
from streamkd.teachers.teacher import Teacher

# Signatures that are taken without a word, the first that is there.
_SIGNATURES = ("serving_default", "serve")
_PROGRAM, _PARTS = "saved_model.pb", ("variables", "assets")


def saved_model_teacher(
    path: str | os.PathLike,
    *,
    name: str | None = None,
    model_output: str | int | None = None,
    trust: bool = False,
    **options: Any,
) -> Teacher:
    """Returns the teacher in a SavedModel directory; arguments as of `load_teacher`.

    `model_output` is a signature, an output, or 'SIGNATURE:OUTPUT'.

    Raises:
      TeacherError: without `trust`; or it cannot be loaded, or is no model of images.
    """
    path = Path(path)
    name = name or path.name
    if not trust:
        raise TeacherError(
            f"{path} is a SavedModel directory: a program of TensorFlow, which may read and write "
            "files when it is asked.\nDo not load one from a stranger; add `--trust` if it is your "
            "own. Or give the model as a `.keras` file, or a Python function from images to logits."
        )
    warn(
        "model_trusted",
        f"{path} would be refused without --trust: a SavedModel may read and write files.",
        stacklevel=3,
    )
    signature, model_output = _signature(path, name, model_output)
    inputs = signature.structured_input_signature[1]
    refuse_several_inputs(sorted(inputs), name)
    outputs = signature.structured_outputs
    keys = sorted(outputs) if isinstance(outputs, dict) else []
    key = keys[chosen_output(keys, model_output, name)] if keys else None
    (argument, spec), *_ = inputs.items()
    axes = _axes(spec, name)
    target = outputs[key]
    if not (target.dtype.is_floating or target.dtype.is_integer or target.dtype.is_bool):
        raise TeacherError(
            f"The teacher {name!r} answers with {target.dtype.name} (output {key!r}), and "
            "answers are numbers.\nGive another output, `--output NAME`, or export the model with "
            "the scores of the classes."
        )
    sizes = target.shape.as_list() if target.shape.rank is not None else []

    def answer(images: Any) -> np.ndarray:
        pixels = axes.arranged(np.asarray(images, np.float32))
        if spec.dtype.is_integer:
            pixels = as_whole_numbers(pixels, options.get("preprocess", "none"), name)
        return as_rows(in_parts(pixels).astype(np.float32))

    def ask(pixels: np.ndarray) -> np.ndarray:
        import tensorflow as tf

        try:
            return signature(**{argument: tf.constant(pixels, spec.dtype)})[key].numpy()
        except tf.errors.OpError as error:
            raise failure(name, pixels, error) from error

    in_parts = InParts(ask, axes.batch)
    return file_teacher(
        answer,
        axes,
        name=name,
        sizes=sizes,
        files=_files(path),
        chosen=f"{key}" if model_output is not None else "",
        **options,
    )


def _signature(path: Path, name: str, wanted: str | int | None) -> tuple[Any, str | int | None]:
    """Returns the signature that is asked, and the output that is wanted of it."""
    import tensorflow as tf

    try:
        loaded = tf.saved_model.load(str(path))
    except Exception as error:  # a damaged file, or operations that this TensorFlow has not
        raise TeacherError(
            f"{path} cannot be loaded as a SavedModel: {first_line(error)}.\n"
            "Export the model again with `model.export(...)`."
        ) from error
    signatures = dict(loaded.signatures)
    if not signatures:
        raise TeacherError(
            f"{path} has no signature, so it does not say what it takes and gives.\n"
            "Save it with one: `tf.saved_model.save(model, path, signatures=...)`, or give a "
            "Python function from images to logits as the teacher."
        )
    first, colon, second = str(wanted if wanted is not None else "").partition(":")
    if first in signatures:
        return _kept(signatures[first], loaded), (second if colon else None)
    usual = [key for key in _SIGNATURES if key in signatures]
    if not usual and len(signatures) > 1:
        shown = ", ".join(map(repr, sorted(signatures)))
        raise TeacherError(
            f"The teacher {name!r} has {len(signatures)} signatures ({shown}), and none is "
            f"{_SIGNATURES[0]!r}.\nChoose one: `--output SIGNATURE`."
        )
    key = usual[0] if usual else next(iter(signatures))
    return _kept(signatures[key], loaded), wanted


def _kept(signature: Any, loaded: Any) -> Any:
    """Returns a signature that keeps its model, whose variables would be deleted otherwise."""
    signature.streamkd_model = loaded
    return signature


def _axes(spec: Any, name: str) -> ImageAxes:
    if not (spec.dtype.is_floating or spec.dtype.is_integer):
        raise TeacherError(
            f"The teacher {name!r} takes {spec.dtype.name}, and images are numbers.\n"
            "Export it with pixels as its input; or give a Python function from images to logits."
        )
    shape = spec.shape.as_list() if spec.shape.rank is not None else []
    return ImageAxes.of_shape(shape, name)


def _files(path: Path) -> dict[str, Path]:
    """Returns the files that make the answers, by their names within the directory."""
    files = [path / _PROGRAM]
    for part in _PARTS:
        files += [file for file in (path / part).rglob("*") if file.is_file()]
    return {file.relative_to(path).as_posix(): file for file in files}

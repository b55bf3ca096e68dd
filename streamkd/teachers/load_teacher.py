"""Opens a teacher: a saved model of any format, a model in memory, or any callable.

teacher = load_teacher("teacher.keras", preprocess="ResNet50")
teacher = load_teacher("mobilenet_quant.tflite", drop_output=0)
teacher = load_teacher("exported", trust=True)     # a SavedModel directory
teacher = load_teacher(model)
teacher = load_teacher(lambda images: service.logits(images), name="mystery")
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from streamkd import small_files
from streamkd.checks import check_types
from streamkd.errors import TeacherError
from streamkd.file_kinds import kind_of_path
from streamkd.models import families, run_code, user_code
from streamkd.public import public
from streamkd.teachers.http_teacher import http_teacher, is_address, refuse_service
from streamkd.teachers.teacher import Teacher

# Endings of files that `streamkd import` may take, of files that only Python opens, and of models.
_PREDICTIONS = (".csv", ".tsv", ".parquet", ".pq", ".npy", ".npz")
_PICKLES = (".pkl", ".pickle", ".joblib", ".dill")
_MODELS = (".keras", ".h5", ".tflite", ".onnx")


@public
def load_teacher(
    source: Any,
    *,
    preprocess: str = "none",
    output: str = "auto",
    drop_output: int | Sequence[int] | None = None,
    model_output: str | int | None = None,
    name: str | None = None,
    trust: bool = False,
    **service: Any,
) -> Teacher:
    """Returns a `Teacher`.

    Args:
      source: path of a `.keras` or `.h5` file of either Keras family, of a SavedModel directory, of
        a `.tflite` or `.onnx` file, or of a run directory, whose student is the teacher; a Keras
        model; a callable that takes float32 `[batch, height, width, channels]` and returns
        `[batch, num_classes]`; an address (`http://HOST:8501/v1/models/NAME`); a
        `Teacher`, which is returned as it is; or `module:function[:name=value,…]`, which returns
        one of these. What a file is, its bytes say, not its name.
      preprocess: name of the preprocessing of pixels, 0 to 255; see
        `streamkd.models.preprocessing`.
      output: kind of the answers: 'logits', 'probabilities', 'log-probabilities', 'sigmoid' (a
        probability for each of several independent labels), 'sigmoid-logits' (the same before
        sigmoid), 'class' (the number of a class, or scores of which only the first choice is
        taken), or 'auto' to judge by the layers or the first answers.
      drop_output: index, or several indices, of outputs that are no class, such as background.
      model_output: name or number of the output to take, for a model or function with several.
      name: the teacher's name in the store; by default that of the file or the function.
      trust: allow a file that runs code when it is loaded.
      **service: for an address, `max_queries`, `queries_per_second`, `concurrency`, `timeout`,
        `headers` and `retries`; see `streamkd.teachers.http_teacher`.

    Raises:
      TeacherError: `source` cannot be loaded, or is none of these.
    """
    check_types(load_teacher, locals())
    if isinstance(source, str) and user_code.is_function(source):
        name, source = name or source, user_code.build_teacher(source)
    if isinstance(source, Teacher):
        return source
    options: dict[str, Any] = {
        "preprocess": preprocess,
        "output": output,
        "drop_output": drop_output,
        "model_output": model_output,
    }
    if is_address(source):
        return http_teacher(source, name=name, **options, **service)
    refuse_service(service)
    if isinstance(source, str | os.PathLike):
        return _from_path(Path(source), name, trust=trust, **options)
    if families.family_name(source) is not None:
        return Teacher.from_model(source, name=name or source.name, **options)
    if callable(source) and not isinstance(source, type):
        own_name = getattr(source, "__qualname__", type(source).__qualname__)
        return Teacher.from_callable(source, name=name or own_name, **options)
    kind = type(source).__name__
    if isinstance(source, type):
        kind = f"the class {source.__name__}: give an object, {source.__name__}(…)"
    raise TeacherError(
        f"A teacher cannot be made of {kind}.\n"
        "Give the path of a saved model, a Keras model, or a callable: images -> logits."
    )


def _from_path(path: Path, name: str | None, *, trust: bool, **options: Any) -> Teacher:
    """Returns the teacher that lies at a path."""
    kind = kind_of_path(path)
    code = "" if kind is None else kind.code
    if code == "store":
        raise TeacherError(
            f"{path} is a logit store: the answers of a teacher, and no teacher.\n"
            "Train a student from it with `streamkd train IMAGES --store ...`; the teacher is "
            "needed no more."
        )
    if code == "run":
        return _from_run(path, name, trust=trust, **options)
    named = {"name": name, **options}
    if code == "saved_model":
        from streamkd.teachers.saved_model import saved_model_teacher

        return saved_model_teacher(path, trust=trust, **named)
    if code == "tflite":
        from streamkd.teachers.tflite_teacher import tflite_teacher

        return tflite_teacher(path, **named)
    if code == "onnx":
        from streamkd.teachers.onnx_teacher import onnx_teacher

        return onnx_teacher(path, **named)
    _refuse_what_is_no_model(path)
    model = families.load_model(path, trust=trust)
    return Teacher.from_model(model, name=name or path.name, **options)


def _refuse_what_is_no_model(path: Path) -> None:
    """Refuses predictions, pickles, and a directory of models, with what to give instead."""
    ending = path.suffix.lower()
    if path.is_file() and ending in _PREDICTIONS:
        raise TeacherError(
            f"{path} is no model; by its ending it may hold a model's predictions.\n"
            f"Make a store of them, `streamkd import {path} --images IMAGES --out S.h5`, and train "
            "from it: `streamkd train IMAGES --store S.h5 ...`."
        )
    if path.is_file() and ending in _PICKLES:
        raise TeacherError(
            f"{path} ends in {ending!r}, and opening such a file runs code in it.\n"
            "Open it in a function of your own that returns a function from images to answers, and "
            "give that: `--teacher my_models:teacher`."
        )
    models = []
    if path.is_dir():
        named = (one for one in path.iterdir() if one.suffix.lower() in _MODELS)
        models = sorted(one for one in named if not _is_store(one))
    if models:
        raise TeacherError(
            f"{path} is a directory of {len(models)} model files, and a teacher is one of them.\n"
            f"Give its path, such as {models[0]}."
        )


def _is_store(path: Path) -> bool:
    kind = kind_of_path(path)
    return kind is not None and kind.code == "store"


def _from_run(path: Path, name: str | None, *, trust: bool, **options: Any) -> Teacher:
    """Returns the student of a run directory as a teacher, with the classes of the run."""
    if not run_code.has_student(path):
        raise TeacherError(
            f"{path} is a run directory without student.keras: its training has finished no epoch."
            "\nGo on with the run until then, or give another model."
        )
    model = run_code.open_student(path, trust=trust, refusal=TeacherError)
    teacher = Teacher.from_model(model, name=name or path.name, **options)
    teacher.class_names = _classes_of_run(path / run_code.CONFIG)
    return teacher


def _classes_of_run(path: Path) -> list[str] | None:
    """Returns the classes in the configuration of a run, in the order of its student's outputs."""
    try:
        names = small_files.entry(small_files.read_object(path), "class_names", list, None)
        for name in names or []:
            small_files.entry({"class_names": name}, "class_names", str)
        return names
    except small_files.DamagedFileError as error:
        raise TeacherError(
            f"{path} is damaged, so the classes of the teacher are not known: {error}.\n"
            f"Restore the file, or give the model itself: {path.parent / 'student.keras'}."
        ) from error

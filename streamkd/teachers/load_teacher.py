"""Opens a teacher: a saved model, a model in memory, or any callable.

teacher = load_teacher("teacher.keras", preprocess="ResNet50")
teacher = load_teacher(model)
teacher = load_teacher(lambda images: service.logits(images), name="mystery")
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from streamkd.errors import TeacherError
from streamkd.models import families
from streamkd.public import public
from streamkd.teachers.http_teacher import http_teacher, is_address, refuse_service
from streamkd.teachers.teacher import Teacher


@public
def load_teacher(
    source: Any,
    *,
    preprocess: str = "none",
    output: str = "auto",
    drop_output: int | None = None,
    name: str | None = None,
    trust: bool = False,
    **service: Any,
) -> Teacher:
    """Returns a `Teacher`.

    Args:
      source: path of a `.keras` file of either Keras family, a Keras model, a callable that takes
        float32 `[batch, height, width, channels]` and returns `[batch, num_classes]`, an
        address (`http://HOST:8501/v1/models/NAME`), or a `Teacher`, which is returned as it is.
      preprocess: name of the preprocessing of pixels, 0 to 255; see
        `streamkd.models.preprocessing`.
      output: kind of the answers: 'logits', 'probabilities', 'log-probabilities', or 'auto' to
        judge by the first answers.
      drop_output: index of an output that is no class, such as background.
      name: the teacher's name in the store; by default that of the file or the function.
      trust: allow a file that runs code when it is loaded.
      **service: for an address, `model_output`, `max_queries`, `queries_per_second`, `concurrency`,
        `timeout`, `headers` and `retries`; see `streamkd.teachers.http_teacher`.

    Raises:
      TeacherError: `source` cannot be loaded, or is none of these.
    """
    if isinstance(source, Teacher):
        return source
    options: dict[str, Any] = {
        "preprocess": preprocess,
        "output": output,
        "drop_output": drop_output,
    }
    if is_address(source):
        return http_teacher(source, name=name, **options, **service)
    refuse_service(service)
    if isinstance(source, str | os.PathLike):
        path = Path(source)
        model = families.load_model(path, trust=trust)
        return Teacher.from_model(model, name=name or path.name, **options)
    if families.family_name(source) is not None:
        return Teacher.from_model(source, name=name or source.name, **options)
    if callable(source):
        own_name = getattr(source, "__qualname__", type(source).__qualname__)
        return Teacher.from_callable(source, name=name or own_name, **options)
    raise TeacherError(
        f"A teacher cannot be made of {type(source).__name__}.\n"
        "Give the path of a `.keras` file, a Keras model, or a callable: images -> logits."
    )

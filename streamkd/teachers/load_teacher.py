"""Opens a teacher: a saved model, a model in memory, or any callable.

teacher = load_teacher("teacher.keras", preprocess="ResNet50")
teacher = load_teacher(model)
teacher = load_teacher(lambda images: service.logits(images), name="mystery")
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from streamkd.checks import check_types
from streamkd.errors import TeacherError
from streamkd.models import families, user_code
from streamkd.public import public
from streamkd.teachers.teacher import Teacher


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
) -> Teacher:
    """Returns a `Teacher`.

    Args:
      source: path of a `.keras` file of either Keras family, a Keras model, a callable that takes
        float32 `[batch, height, width, channels]` and returns `[batch, num_classes]`, a `Teacher`,
        which is returned as it is, or `module:function[:name=value,…]`, which returns one of these.
      preprocess: name of the preprocessing of pixels, 0 to 255; see
        `streamkd.models.preprocessing`.
      output: kind of the answers: 'logits', 'probabilities', 'log-probabilities', 'sigmoid' (a
        probability for each of several independent labels), 'sigmoid-logits' (the same before
        sigmoid), or 'auto' to judge by the layers or the first answers.
      drop_output: index, or several indices, of outputs that are no class, such as background.
      model_output: name or number of the output to take, for a model or function with several.
      name: the teacher's name in the store; by default that of the file or the function.
      trust: allow a file that runs code when it is loaded.

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
    if isinstance(source, str | os.PathLike):
        path = Path(source)
        model = families.load_model(path, trust=trust)
        return Teacher.from_model(model, name=name or path.name, **options)
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
        "Give the path of a `.keras` file, a Keras model, or a callable: images -> logits."
    )

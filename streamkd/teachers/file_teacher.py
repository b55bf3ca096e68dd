"""The teacher in a file of another library: its answers, its axes, the digest of its files.

teacher = file_teacher(answer, axes, sizes=[None, 1000], files={"model": path}, name="net.onnx")
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from streamkd.teachers.file_digest import digest_of_files
from streamkd.teachers.image_axes import ImageAxes
from streamkd.teachers.teacher import Teacher


def file_teacher(
    answer: Callable[[Any], np.ndarray],
    axes: ImageAxes,
    *,
    name: str,
    sizes: Sequence[int | None],
    files: Mapping[str, str | os.PathLike],
    chosen: str = "",
    **options: Any,
) -> Teacher:
    """Returns a teacher.

    Args:
      answer: from float32 `[batch, height, width, channels]` to float32 `[batch, num_outputs]`.
      axes: of its input.
      name: of the teacher.
      sizes: of the axes of its output; None for any size.
      files: all that its answers depend on, by names within the model.
      chosen: name of the output, where it was chosen among several.
      options: as of `Teacher`.
    """
    return Teacher(
        answer,
        name=name,
        num_outputs=sizes[-1] if len(sizes) > 1 else None,
        image_size=axes.image_size,
        num_channels=axes.num_channels,
        weights_digest=digest_of_files(files, chosen),
        **options,
    )

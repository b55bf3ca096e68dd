"""The student of a job: built anew, with the same first weights, each time that one is needed.

source = StudentSource("MobileNetV3Small", directory=Path("runs/first"), seed=0)
student = source.build(stream, label_weight=0.1)
is_trained(student)                       # whether it has more than first weights
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import tf_keras

from streamkd import disk
from streamkd.errors import ResumeError, StudentError
from streamkd.models import families
from streamkd.models.layer_digests import describe_layers
from streamkd.models.load_student import load_student
from streamkd.models.run_code import has_student, open_student, student_file
from streamkd.models.saving import check_can_be_saved, save_model
from streamkd.stream.stream import Stream
from streamkd.training.loss_choice import needs_sigmoid

# A student in memory is kept here, before its first step.
UNTRAINED = "student-untrained.keras"
# Weights that layers begin with as zeros.
_ZERO_AT_FIRST = ("bias", "beta", "moving_mean")


class StudentSource:
    """Where the students of a job come from.

    Args:
      student: as in `load_student`, or a Keras model, which is copied and stays as it is.
      directory: of the job.
      seed: of the first weights.
      trust: allow a file that runs code on loading.
    """

    def __init__(self, student: Any, *, directory: Path, seed: int, trust: bool = False) -> None:
        self.is_model = not isinstance(student, str | os.PathLike)
        if self.is_model and families.family_name(student) is None:
            raise StudentError(
                f"The student is of the type {type(student).__name__}, and no Keras model.\n"
                "Give a Keras model, or what `--student` takes: a path, module:function, or the "
                "name of a Keras application."
            )
        self._student = student
        self._seed, self._trust = seed, trust
        self._copy = directory / UNTRAINED

    @property
    def text(self) -> str:
        """What stands behind `--student` in a command; of a student in memory, its copy."""
        return str(self._copy) if self.is_model else os.fspath(self._student)

    def keep(self, directory: Path, shape: tuple[int, int, int] | None = None) -> None:
        """Keeps a copy of a student in memory in a directory, if none is kept there.

        Args:
          directory: the job's, or one that lasts until the job has its own.
          shape: height, width and channels of the images, where the student may not be built yet.

        Raises:
          StudentError: the student cannot be saved.
          ResumeError: another student is kept there.
        """
        if not self.is_model:
            return
        self._copy = directory / UNTRAINED
        if shape is not None:
            image = np.zeros((1, *shape), np.float32)
            if not self._student.built:
                self._student(image)
            check_can_be_saved(self._student, image)
        if not self._copy.exists():
            temporary = directory / f".{UNTRAINED}.tmp.keras"
            disk.remove(temporary)
            disk.open_new(temporary).close()
            save_model(self._student, temporary)
            temporary.replace(self._copy)
        elif describe_layers(self._load()) != describe_layers(self._student):
            raise ResumeError(
                f"The job {directory} was started with another student.\n"
                "Give the same again, or begin another job: give another `--out`."
            )

    def own_size(self) -> tuple[int, int] | None:
        """Returns height and width of the images that a model takes; None if it takes any."""
        model = self._student
        if not self.is_model:
            path = Path(self._student)
            path = student_file(path) if path.is_dir() else path
            if path.suffix != ".keras" or not path.exists():
                return None
            model = families.load_model(path, refusal=StudentError, trust=self._trust)
        shape = getattr(model, "input_shape", None)  # of several inputs, a list
        if not isinstance(shape, tuple) or len(shape) != 4 or None in shape[1:3]:
            return None
        return shape[1], shape[2]

    def build(self, stream: Stream, *, label_weight: float) -> Any:
        """Returns the student with its first weights, which depend on the seed alone."""
        if self.is_model:
            return self._load()
        tf_keras.utils.set_random_seed(self._seed)
        source = os.fspath(self._student)
        if has_student(source):
            return open_student(source, trust=self._trust)
        return load_student(
            source,
            num_classes=stream.num_classes,
            image_size=stream.options.image_size,
            num_channels=stream.options.num_channels,
            trust=self._trust,
            activation="sigmoid" if needs_sigmoid("auto", stream, label_weight) else None,
        )

    def _load(self) -> Any:
        tf_keras.utils.set_random_seed(self._seed)
        return families.load_model(self._copy, refusal=StudentError, trust=True)


def is_trained(student: Any) -> bool:
    """Returns whether a student has weights that training changed: new layers begin with zeros."""
    for weight in student.weights:
        name = getattr(weight, "path", weight.name).rsplit("/", 1)[-1].split(":")[0]
        if name in _ZERO_AT_FIRST and np.any(np.asarray(weight)):
            return True
    return False

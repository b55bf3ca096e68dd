"""What makes a distillation quietly worse, as far as student and stream tell before the first step.

warn_of_student(student, preprocess, stream, label_weight)
"""

from __future__ import annotations

from typing import Any

from streamkd.codes import warn
from streamkd.models.families import family_of
from streamkd.models.pixel_range import random_layers_of
from streamkd.models.pixel_warnings import warn_of_pixels
from streamkd.stream.stream import Stream
from streamkd.training.student_checks import LABELS_ALONE

# Methods of Keras' loop, in place of which a run has its own.
REPLACED_METHODS = ("fit", "train_step", "test_step", "compute_loss", "compute_metrics")


def warn_of_student(student: Any, preprocess: str, stream: Stream, label_weight: float) -> None:
    """Warns of methods that are never called, of odd pixels, and of random layers on pixels.

    Args:
      student: as the user gave it, without `preprocess`.
      preprocess: the name of the preprocessing of its pixels.
      stream: the stream to learn from.
      label_weight: as in `Distiller`.
    """
    _warn_of_methods(student)
    shape = stream.options.shape
    reach = warn_of_pixels(student, "student", preprocess=preprocess, shape=shape)
    learns_from_teacher = stream.store is not None and label_weight != LABELS_ALONE
    if reach is not None:
        layers = reach.random_layers
    else:  # where the pixels go is unknown, but these layers are for pixels alone
        layers = [layer for layer in random_layers_of(student) if layer.startswith("Random")]
    if layers and learns_from_teacher:
        several = len(layers) > 1
        warn(
            "random_layers",
            f"The student changes the pixels at random, by "
            f"{'these layers' if several else 'this layer'}: {', '.join(layers)}. The "
            "teacher has answered the pixels without that, so its logits fit less. Leave "
            f"{'them' if several else 'it'} out, and teach views instead: `streamkd teach … "
            "--views 8 --flip --crop 0.35 1`.",
            stacklevel=4,
        )


def _warn_of_methods(student: Any) -> None:
    family = family_of(student)
    own = []
    for name in REPLACED_METHODS:
        definition = next((kind for kind in type(student).__mro__ if name in vars(kind)), None)
        if definition is not None and not family.defines(definition):
            own.append(f"{definition.__name__}.{name}")
    if own:
        warn(
            "unused_methods",
            f"The student has methods of its own that a run never calls: {', '.join(own)}. It "
            "learns from the distillation loss and its layers' penalties alone. To train it by "
            "these methods, use its own `fit` with the loss `kd.packed_loss`.",
            stacklevel=4,
        )

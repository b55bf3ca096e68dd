"""How long an image takes in training on this machine, measured on a few steps.

seconds_per_image(student, sample, options, views=views, batch_size=32)
"""

from __future__ import annotations

from typing import Any

import numpy as np

from streamkd.manifest.listing import UNLABELLED
from streamkd.manifest.manifest import Manifest
from streamkd.stream.join import join
from streamkd.training.distiller import Distiller
from streamkd.views.views import Views

# Passes over the sample. The first decodes the files, and is left out: a run decodes once, too.
EPOCHS = 3


def seconds_per_image(
    student: Any,
    images: Manifest,
    pixels: dict[str, Any],
    *,
    views: Views | None,
    batch_size: int,
    class_names: list[str],
    student_preprocess: str,
) -> float:
    """Returns the time of one image in seconds; `student` is trained, and is of no further use.

    Args:
      student: like the one of the job.
      images: a sample; without labels they are given some, since only time counts.
      pixels: arguments of `join` that say how files become pixels.
      views: drawn anew, as for the student from labels alone; None for plain images.
      batch_size: of the job; at most the number of images.
      class_names: those of the student's outputs.
      student_preprocess: as in `Distiller`.
    """
    if images.multi_hot is None and (images.labels == UNLABELLED).any():
        numbers = np.arange(len(images)) % max(1, len(class_names))
        images = Manifest(images.root, images.keys, numbers, class_names)
    stream = join(
        images,
        None,
        batch_size=min(batch_size, len(images)),
        cache="memory",
        progress=False,
        augment="replay" if views is None else "independent",
        views=views,
        **pixels,
    )
    distiller = Distiller(student, label_weight=1.0, student_preprocess=student_preprocess)
    history = distiller.fit(stream, epochs=EPOCHS, progress=False)
    return 1 / max(float(epoch["images_per_second"]) for epoch in history.epochs[1:])

"""The images that a specialist is trained on: those of its classes, and some of all others.

    training = specialist_images(images, ["cat", "dog"], others=1.0, seed=1)
    model.fit(…)                            # training.images: classes cat, dog, other
    Member("cats.h5", dustbin=training.dustbin, oversampling=training.oversampling)

As in Hinton, Vinyals and Dean, arXiv:1503.02531, section 5.1, the images of other classes share one
class, the dustbin, and are fewer than they would be in all images.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from streamkd.checks import check_positive, check_seed, check_types
from streamkd.errors import ClassNamesError, OptionError, readable_names
from streamkd.manifest import look_alikes
from streamkd.manifest.listing import UNLABELLED
from streamkd.manifest.manifest import Manifest, as_manifest
from streamkd.public import public


@public
@dataclasses.dataclass(frozen=True)
class SpecialistImages:
    """The images for training a specialist, and what `Member` must know of them.

    Attributes:
      images: the manifest; its classes are the specialist's in the order given, then the dustbin.
      dustbin: name of the class of all other images.
      oversampling: how many times as often an image of the specialist's classes was taken as one of
        the others.
    """

    images: Manifest
    dustbin: str
    oversampling: float


@public
def specialist_images(
    images: Manifest | str,
    classes: list[str],
    *,
    others: float = 1.0,
    seed: int = 0,
    dustbin: str = "other",
) -> SpecialistImages:
    """Returns all images of some classes, and a random part of the others as one class.

    Args:
      images: labelled images, or their directory. Unlabelled ones are left out.
      classes: the specialist's classes, such as a cluster of `cluster_classes`.
      others: images of other classes for each image of `classes`; all of them, where they are no
        more. 1.0 makes half of the images those of the specialist, as in the paper.
      seed: of the choice; the same images and seed give the same choice.
      dustbin: name of the class of the others.

    Raises:
      ClassNamesError: a class that the images lack, that is named twice or has no image; a dustbin
        that is one of the images' classes.
      OptionError: images without classes or with several labels each, or an argument that does not
        fit.
    """
    check_types(specialist_images, locals())
    check_positive("others", others)
    check_seed(seed)
    images = as_manifest(images)
    numbers = _numbers_of(images, classes, dustbin)
    new_number = np.full(len(images.class_names or []), len(classes), np.int32)
    new_number[numbers] = np.arange(len(classes))
    labels = np.where(images.labels == UNLABELLED, UNLABELLED, new_number[images.labels])
    own = np.flatnonzero((labels >= 0) & (labels < len(classes)))
    rest = np.flatnonzero(labels == len(classes))
    if not len(rest):
        raise ClassNamesError(
            "Every labelled image is of one of the specialist's classes, so that none is left for "
            f"the class {dustbin!r}.\n  classes: {readable_names(classes)}\n"
            "A teacher of all classes is a generalist: train it on the images as they are."
        )
    count = max(1, min(len(rest), round(others * len(own))))
    generator = np.random.Generator(np.random.PCG64(seed))
    taken = generator.choice(rest, count, replace=False)
    chosen = np.sort(np.concatenate([own, taken]))
    weights = None if images.weights is None else images.weights[chosen]
    training = Manifest(
        images.root, images.keys.take(chosen), labels[chosen], [*classes, dustbin], weights
    )
    return SpecialistImages(training, dustbin, len(rest) / count)


def _numbers_of(images: Manifest, classes: list[str], dustbin: str) -> list[int]:
    """Returns the numbers of the specialist's classes; refuses names that do not fit."""
    names, counts = images.class_names, images.class_counts
    if names is None or counts is None or images.multi_hot is not None:
        fault = "have no classes" if names is None else "have several labels each"
        raise OptionError(
            f"A specialist knows some of the classes, and these images {fault}.\n"
            "Give a directory with one folder a class, or a table with one label an image."
        )
    if not classes:
        raise ClassNamesError("The specialist has no classes.\nGive a list such as ['cat', 'dog'].")
    for position, name in enumerate(classes):
        if name not in names:
            raise ClassNamesError(
                f"{look_alikes.shown(name)} is no class of the images.\n"
                f"  specialist: {readable_names(classes)}\n  images:     {readable_names(names)}\n"
                f"{look_alikes.difference(name, names)}Give classes that the images have."
            )
        if name in classes[:position]:
            raise ClassNamesError(
                f"The specialist's classes hold {look_alikes.shown(name)} twice.\n"
                "Name every class once."
            )
        if not counts[names.index(name)]:
            raise ClassNamesError(
                f"{look_alikes.shown(name)} is a class without an image, so that no specialist can "
                "learn it.\nLeave it out."
            )
    if dustbin in names:
        raise ClassNamesError(
            f"The dustbin {dustbin!r} is also a class of the images.\n"
            "Give the dustbin another name: `dustbin='none of these'`."
        )
    return [names.index(name) for name in classes]

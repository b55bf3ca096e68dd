"""`write_store`: a store of answers that PyTorch, JAX, or any other code computes.

    images = kd.scan("photos/train")

    def answer(batch):
        pixels = torch.stack([transform(Image.open(io.BytesIO(data))) for data in batch.contents])
        return model(pixels).numpy()                    # float [images, num_classes], logits

    kd.write_store(images, "teacher.h5", answer, teacher="resnet50, IMAGENET1K_V2",
                   image_size=(224, 224))

Nothing here imports TensorFlow; the content digest then comes from `pip install pyfarmhash`. Like
a pass of `streamkd teach`, the call can be killed at any moment; the same call resumes it.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from streamkd.checks import check_count, check_types
from streamkd.errors import BadImageError, TeacherError, readable_key
from streamkd.image_options import Background, ImageOptions
from streamkd.manifest.class_names import renumber
from streamkd.manifest.manifest import Manifest, as_manifest
from streamkd.manifest.own_outputs import refuse_store_in_class
from streamkd.manifest.wrapper import hinting
from streamkd.pixels.content_digest import digest_each
from streamkd.pixels.files import read_file
from streamkd.public import public
from streamkd.store.codecs.check_range import check_range
from streamkd.store.creation import create_store
from streamkd.store.decisions import fits_names
from streamkd.store.fill import Answer, fill_store
from streamkd.store.layout import ELSEWHERE, StoreHeader
from streamkd.store.reader import LogitStore
from streamkd.store.store_list import refuse_stale_index
from streamkd.teachers.last_checks import (
    warn_of_chance,
    warn_of_contradictions,
    warn_of_unanswered_classes,
)
from streamkd.teachers.provenance import check_same, package_versions
from streamkd.views.views import Views


@public
@dataclasses.dataclass(frozen=True)
class ImageBatch:
    """The images that an outside teacher is asked about at once.

    Attributes:
      indices: int64 `[images]`, their indices in the manifest that was given.
      keys: their paths below the root, as bytes.
      contents: the bytes of their files.
    """

    indices: np.ndarray
    keys: list[bytes]
    contents: list[bytes]


@public
def write_store(
    images: Manifest | str | os.PathLike,
    out: str | os.PathLike[str],
    answer: Callable[[ImageBatch], Any],
    *,
    teacher: str | dict[str, Any],
    image_size: tuple[int, int] | None = None,
    color_mode: str = "rgb",
    interpolation: str = "bilinear",
    crop_to_aspect_ratio: bool = False,
    pad_to_aspect_ratio: bool = False,
    decode: str = "exact",
    exif: str = "ignore",
    background: Background = None,
    class_names: list[str] | None = None,
    batch_size: int = 64,
    codec: str = "float16",
    progress: bool = True,
) -> LogitStore:
    """Fills a store with the answers of a function, or resumes an earlier call.

    Args:
      images: the transfer set.
      out: path of the store; an unfinished store is resumed.
      answer: given an `ImageBatch`, returns its logits, float `[images, num_classes]`: a NumPy
        array, or anything that `np.asarray` takes.
      teacher: the teacher's name, or a dict of all that its answers depend on; stored and compared.
        The entry `"output": "sigmoid-logits"` says that the logits are those of independent labels.
      image_size: (height, width) that the teacher sees; the student's default. Without it, the
        size has to be given when the store is joined.
      color_mode, interpolation, crop_to_aspect_ratio, pad_to_aspect_ratio: the options of Keras'
        loader that come nearest to the teacher's own; the student sees its images that way.
      decode: 'scaled' for antialiased resizing, as in Pillow and torchvision; see `ImageOptions`.
      exif: 'apply' if the teacher saw photographs turned as their EXIF tag says.
      background: (red, green, blue), the colour on which the teacher saw transparent images.
      class_names: the teacher's classes in the order of its outputs; by default the images'.
      batch_size: images that are answered and written at once.
      codec: how logits are kept, such as 'float16' or 'packed:3+8'; see `store/codecs/codec.py`.
      progress: show images per second and the time left on standard error.

    Returns:
      The finished store, open for reading.

    Raises:
      TeacherError: answers of another shape.
      BadImageError: a file that cannot be read.
      StreamkdError: anything else that does not fit; nothing that was written is lost.
    """
    check_types(write_store, locals())
    images = as_manifest(images)
    refuse_store_in_class(images, out)
    check_count("batch_size", batch_size)
    images_seen = ImageOptions(
        image_size=image_size or (1, 1),
        color_mode=color_mode,
        interpolation=interpolation,
        crop_to_aspect_ratio=crop_to_aspect_ratio,
        pad_to_aspect_ratio=pad_to_aspect_ratio,
        decode=decode,
        exif=exif,
        background=background,
    ).to_dict()
    order = images.keys.sort_order()
    given = class_names or images.class_names
    writing = _Writing(
        images=images.select(order),
        order=order,
        path=os.fspath(out),
        answer=answer,
        class_names=None if given is None else list(given),  # as a store keeps them
        fields={
            "codec": codec,
            "teacher": {"name": teacher} if isinstance(teacher, str) else teacher,
            "images": images_seen if image_size else {**images_seen, "image_size": None},
        },
        batch_size=batch_size,
    )
    with hinting(images):
        store = writing.run(progress)
    name = teacher if isinstance(teacher, str) else str(teacher.get("name", "teacher"))
    warn_of_chance(name, store)
    warn_of_unanswered_classes(store)
    warn_of_contradictions(store)
    return store


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Writing:
    """One call of `write_store`.

    Attributes:
      images: the images, in key order.
      order: int64, their indices in the manifest that was given.
      fields: codec, teacher and image specification, as the header of the store has them.
    """

    images: Manifest
    order: np.ndarray
    path: str
    answer: Callable[[ImageBatch], Any]
    class_names: list[str] | None
    fields: dict[str, Any]
    batch_size: int

    def run(self, progress: bool) -> LogitStore:
        """Creates or resumes the store, fills it, finishes it, and returns it."""
        if not os.path.exists(self.path):
            refuse_stale_index(self.path)
            self._create()
        self._check_same(LogitStore(self.path))
        return fill_store(self.path, self._answers, activity="writing", progress=progress)

    def _answers(self, groups: list[np.ndarray]) -> Iterator[Answer]:
        """Yields the answer to each group of images."""
        num_classes = LogitStore(self.path).num_classes
        for group in groups:
            batch = self._batch(group)
            yield Answer(self._ask(batch, num_classes), digest_each(batch.contents), {})

    def _create(self) -> None:
        """Creates the store once the first block has been answered."""
        first = np.arange(min(self.batch_size, len(self.images)))
        logits = self._ask(self._batch(first), None)
        digest_each([])  # refuses now if nothing can make digests
        check_range(logits, self.images.keys.take(first), self.fields["codec"])
        if self.class_names is not None and not fits_names(logits.shape[1], self.class_names):
            raise TeacherError(
                f"Each image has {logits.shape[1]} logits, and there are {len(self.class_names)} "
                "classes.\nGive the teacher's classes in the order of its outputs: `class_names`, "
                "on the command line `--class-names FILE`."
            )
        header = StoreHeader(
            num_images=len(self.images),
            num_views=1,
            num_classes=logits.shape[1],
            block_rows=self.batch_size,
            fingerprint=self.images.fingerprint,
            views=Views(0).to_dict(),
            decoder=ELSEWHERE,
            versions=package_versions("numpy"),
            **self.fields,
        )
        classes = self.class_names
        labels = renumber(self.images.labels, self.images.class_names, classes, "the teacher")
        create_store(self.path, header, self.images.keys, labels, classes or [])

    def _batch(self, indices: np.ndarray) -> ImageBatch:
        keys = self.images.keys.take(indices).tolist()
        contents = []
        for key, path in zip(keys, self.images.paths(indices), strict=True):
            try:
                contents.append(read_file(path))
            except OSError as error:
                raise BadImageError(
                    f"The image '{readable_key(key)}' cannot be read: {error.strerror}.\n"
                    "Put the file back, or leave the image out of the manifest.",
                    key=key,
                ) from error
        return ImageBatch(self.order[indices], keys, contents)

    def _ask(self, batch: ImageBatch, num_classes: int | None) -> np.ndarray:
        """Returns the teacher's logits, float `[images, num_classes]`."""
        logits = np.asarray(self.answer(batch))
        fits = logits.ndim == 2 and len(logits) == len(batch.keys) and logits.dtype.kind == "f"
        if not fits or num_classes not in (None, logits.shape[1]):
            wanted = "num_classes" if num_classes is None else str(num_classes)
            raise TeacherError(
                f"The answer to {len(batch.keys)} images is {logits.dtype}{list(logits.shape)}, "
                f"and must be floating-point numbers [{len(batch.keys)}, {wanted}].\n"
                "Return one row of logits an image."
            )
        return logits

    def _check_same(self, store: LogitStore) -> None:
        """Refuses a store, finished or not, that was begun with other settings."""
        header = store.header
        settings = {
            "fingerprint of images": (self.images.fingerprint, header.fingerprint),
            **{name: (value, getattr(header, name)) for name, value in self.fields.items()},
            "batch_size": (self.batch_size, header.block_rows),
            "class_names": (self.class_names or [], store.class_names),
        }
        check_same(store, settings)

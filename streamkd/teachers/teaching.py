"""The teacher pass: every image is answered once, and the answers are kept in a store.

    store = teach(scan("photos/train"), load_teacher("teacher.keras"), "teacher.h5")

The pass goes through the store's blocks of rows, always grouped in the same way, since regrouping
a batch changes the last bits of a float32 model's answers. A block that has been written is never
asked for again: kill the pass at any moment, give the same command, and it goes on. On the same
machine the finished file is the same to the byte.

The store is created when the first block has been answered, so that a teacher or an image that
does not fit leaves nothing behind; that block is then asked for once more.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from streamkd import options as options_module
from streamkd.errors import (
    OptionError,
    OtherImagesError,
    StoreError,
    TeacherError,
    readable_key,
)
from streamkd.images.classes import renumber, shown
from streamkd.images.decode import decode_batch, refuse_bad_image
from streamkd.images.files import read_files
from streamkd.images.manifest import UNLABELLED, Manifest
from streamkd.images.pipeline import read_pipeline
from streamkd.options import DECODER, ImageOptions
from streamkd.progress import image_progress
from streamkd.store import codecs
from streamkd.store.layout import StoreHeader
from streamkd.store.reader import LogitStore, open_store
from streamkd.store.writer import StoreWriter, check_range, create_store
from streamkd.teachers.loading import load_teacher
from streamkd.teachers.teacher import Teacher

PLAIN_VIEW = {"kind": "plain", "count": 1}
# Between two machines, or with float16 in the store, the last digits differ: up to 1e-3 of the
# largest logit. Another preprocessing or another teacher differs by tenths of it and more.
ANSWER_TOLERANCE = 0.01
# 64 images keep both cores busy in the forward pass of the models this was measured with.
BATCH_SIZE = 64


def teach(
    images: Manifest,
    teacher: Any,
    out: str | os.PathLike,
    *,
    image_size: tuple[int, int] | None = None,
    color_mode: str = "rgb",
    interpolation: str = "bilinear",
    crop_to_aspect_ratio: bool = False,
    pad_to_aspect_ratio: bool = False,
    batch_size: int = BATCH_SIZE,
    codec: str = "float16",
    class_names: list[str] | None = None,
    progress: bool = True,
) -> LogitStore:
    """Asks the teacher about every image, or goes on where an earlier pass stopped.

    Args:
      images: the transfer set.
      teacher: a `Teacher`, or whatever `load_teacher` takes.
      out: path of the store; an unfinished one is continued.
      image_size: (height, width) in pixels; by default what the teacher asks for.
      color_mode, interpolation, crop_to_aspect_ratio, pad_to_aspect_ratio: as in Keras' loader.
      batch_size: images a block; kept in the store, since another size gives other last bits.
      codec: 'float16' or 'float32'.
      class_names: the teacher's classes in the order of its outputs; by default the images'.
      progress: show images per second and the time left on standard error.

    Returns:
      The finished store, open for reading.

    Raises:
      StreamkdError: what does not fit; nothing that was written is lost.
    """
    teacher = load_teacher(teacher)
    options = ImageOptions(
        image_size=_teaching_size(teacher, image_size),
        color_mode=color_mode,
        interpolation=interpolation,
        crop_to_aspect_ratio=crop_to_aspect_ratio,
        pad_to_aspect_ratio=pad_to_aspect_ratio,
    )
    options_module.check_count("--batch-size", batch_size)
    options_module.check_choice("--codec", codec, codecs.NAMES)
    _check_channels(teacher, options)
    classes = class_names or images.class_names
    order = images.keys.sort_order()
    teaching = _Teaching(
        images=images.select(order),
        labels=renumber(images.labels, images.class_names, classes, "the teacher")[order],
        classes=classes,
        fingerprint=images.fingerprint,
        teacher=teacher,
        options=options,
        batch_size=batch_size,
        codec=codec,
        path=Path(out),
    )
    return teaching.run(progress)


class _Teaching:
    """One teacher pass; what is fixed before the first image is read."""

    def __init__(
        self,
        *,
        images: Manifest,
        labels: np.ndarray,
        classes: list[str] | None,
        fingerprint: str,
        teacher: Teacher,
        options: ImageOptions,
        batch_size: int,
        codec: str,
        path: Path,
    ) -> None:
        self.images = images
        self.labels = labels
        self.classes = classes
        self.fingerprint = fingerprint
        self.teacher = teacher
        self.options = options
        self.batch_size = batch_size
        self.codec = codec
        self.path = path

    def run(self, progress: bool) -> LogitStore:
        """Creates or continues the store, fills it and seals it."""
        if not self.path.exists():
            self._create()
        store = open_store(self.path)
        self._check_same(store)
        self._check_answers(store)
        if store.finished:
            return store
        with StoreWriter(self.path) as writer:
            pending = writer.pending_blocks()
            done = len(self.images) - sum(len(writer.images_of_block(b)) for b in pending)
            with image_progress(len(self.images), done, "teaching", progress) as bar:
                for block, pixels, contents in self._read_blocks(pending):
                    writer.write_block(block, self.teacher(pixels), contents)
                    bar.update(len(contents))
            writer.finish(teacher_summary(open_store(self.path)))
        store = open_store(self.path)
        self._warn_of_chance(store)
        return store

    def _check_answers(self, store: LogitStore) -> None:
        """Refuses a teacher that answers otherwise than the one that filled the store.

        Weights do not tell everything (a layer without weights may have been added), and a
        callable has none: so the images of one block are answered again and compared. Images that
        have changed since are left out; the join refuses them by name.
        """
        block = store.first_done_block()
        if block is None:
            return
        _, pixels, contents = next(self._read_blocks(np.array([block])))
        images = np.array(self._images_of(block))
        same = contents == store.content_of(images)
        if not same.any():
            return
        stored = store.gather(images[same] * store.num_views)
        now = self.teacher(pixels)[same]
        if now.shape == stored.shape and _nearly_equal(now, stored):
            return
        first = int(images[same][0])
        raise StoreError(
            f"The teacher answers otherwise than when the store {self.path} was begun.\n"
            f"  image '{readable_key(self.images.keys[first])}'\n"
            f"  now:   {_first_numbers(now[0])}\n"
            f"  store: {_first_numbers(stored[0])}\n"
            "Give the teacher it was begun with, or another path with `--out`."
        )

    def _warn_of_chance(self, store: LogitStore) -> None:
        """Warns where the teacher is hardly better than chance: mostly a wrong preprocessing."""
        accuracy = (store.summary or {}).get("teacher_accuracy")
        chance = 1 / store.num_classes
        # Of two classes, twice chance would be every image.
        if accuracy is not None and accuracy < min(2 * chance, chance + (1 - chance) / 10):
            warnings.warn(
                f"The teacher {self.teacher.name!r} is right on {accuracy:.1%} of the labelled "
                f"images, and chance is {chance:.1%}. Check `--preprocess` and the order of its "
                "classes (`--class-names`).",
                stacklevel=4,
            )

    def _create(self) -> None:
        """Creates the store once the teacher has answered the first block."""
        first = next(self._read_blocks(np.array([0])))
        logits = self.teacher(first[1])
        self._check_num_classes(logits.shape[1])
        check_range(logits, self.images.keys.take(self._images_of(0)), self.codec)
        header = StoreHeader(
            num_images=len(self.images),
            num_views=1,
            num_classes=logits.shape[1],
            codec=self.codec,
            block_rows=self.batch_size,
            fingerprint=self.fingerprint,
            images=self.options.to_dict(),
            views=PLAIN_VIEW,
            decoder=DECODER,
            teacher=self.teacher.identity(),
            versions=_versions(),
        )
        create_store(self.path, header, self.images.keys, self.labels, self.classes or [])

    def _read_blocks(self, blocks: np.ndarray) -> Iterator[tuple[int, tf.Tensor, np.ndarray]]:
        """Yields (block, pixels, content digests); a bad image is refused by name."""

        def contents_of(block: int) -> tuple[np.ndarray, np.bool_]:
            return read_files(self.images.paths(self._images_of(block)))

        def read(block: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            contents, one_size = tf.numpy_function(contents_of, [block], [tf.string, tf.bool])
            return tf.ensure_shape(contents, (None,)), tf.ensure_shape(one_size, ())

        dataset = read_pipeline(
            tf.data.Dataset.from_tensor_slices(np.asarray(blocks, np.int64)),
            read,
            lambda contents, one_size: decode_batch(contents, one_size, self.options),
        )
        batches = iter(dataset)
        for block in np.asarray(blocks).tolist():
            try:
                pixels, contents = next(batches)
            except tf.errors.OpError as error:
                refuse_bad_image(error, self.images, self._images_of(block), self.options)
                raise
            yield block, pixels, contents.numpy()

    def _images_of(self, block: int) -> range:
        return range(block * self.batch_size, min((block + 1) * self.batch_size, len(self.images)))

    def _check_num_classes(self, num_outputs: int) -> None:
        if self.classes is not None and num_outputs != len(self.classes):
            raise TeacherError(
                f"The teacher has {num_outputs} outputs, and there are {len(self.classes)} classes."
                f"\n  teacher: {self.teacher.name}, {num_outputs} outputs\n"
                f"  classes: {shown(self.classes)}\n"
                "Give the teacher's classes in the order of its outputs, one a line: "
                "`--class-names FILE`; an output that is no class is left out by `--drop-output N`."
            )

    def _check_same(self, store: LogitStore) -> None:
        """Refuses to continue, or to take as finished, a store made of anything else."""
        header = store.header
        if header.fingerprint != self.fingerprint:
            raise OtherImagesError(
                "The logit store was written for other images.\n"
                f"  images: {os.fsdecode(self.images.root)} ({len(self.images):,} images, "
                f"fingerprint {self.fingerprint[:8]})\n"
                f"  store:  {self.path} ({header.num_images:,} images, "
                f"fingerprint {header.fingerprint[:8]})\n"
                f"{_first_difference(self.images, store)}"
                "Give another path with `--out`, or move the old store away."
            )
        if self.teacher.output_kind == "auto":
            self.teacher.output_kind = header.teacher.get("output", "auto")
        mine = {
            "teacher": self.teacher.identity(),
            "image specification": self.options.to_dict(),
            "--codec": self.codec,
            "--batch-size": self.batch_size,
            "decoder": DECODER,
            "--class-names": self.classes or [],
        }
        theirs = {
            "teacher": header.teacher,
            "image specification": header.images,
            "--codec": header.codec,
            "--batch-size": header.block_rows // header.num_views,
            "decoder": header.decoder,
            "--class-names": store.class_names,
        }
        for what, value in mine.items():
            if value != theirs[what]:
                raise StoreError(
                    f"The store {self.path} was begun with another {what}.\n"
                    f"{_both_sides(value, theirs[what])}"
                    "Give what it was begun with, or another path with `--out`."
                )


def teacher_summary(store: LogitStore) -> dict[str, Any]:
    """Returns what is known only at the end: the teacher's accuracy on the labelled images."""
    labels = np.asarray(store.labels)
    labelled = np.flatnonzero(labels != UNLABELLED)
    num_correct = 0
    for start in range(0, len(labelled), 4096):
        part = labelled[start : start + 4096]
        answers = store.gather(part * store.num_views)  # view 0 is the plain image
        num_correct += int(np.sum(answers.argmax(axis=1) == labels[part]))
    accuracy = num_correct / len(labelled) if len(labelled) else None
    return {"teacher_accuracy": accuracy, "num_labelled": len(labelled)}


def _teaching_size(teacher: Teacher, image_size: tuple[int, int] | None) -> tuple[int, int]:
    if image_size is None and teacher.image_size is None:
        raise OptionError(
            f"The teacher {teacher.name!r} takes images of any size.\n"
            "Say which it is to be shown: `--image-size HEIGHTxWIDTH`."
        )
    if image_size is None:
        return teacher.image_size  # type: ignore[return-value]
    if teacher.image_size is not None and tuple(image_size) != teacher.image_size:
        asked, own = ("x".join(map(str, size)) for size in (image_size, teacher.image_size))
        raise OptionError(
            f"--image-size is {asked}, and the teacher {teacher.name!r} takes {own} only.\n"
            "Leave --image-size out."
        )
    return tuple(image_size)  # type: ignore[return-value]


def _check_channels(teacher: Teacher, options: ImageOptions) -> None:
    if teacher.num_channels not in (None, options.num_channels):
        raise OptionError(
            f"The teacher {teacher.name!r} takes images of {teacher.num_channels} channel(s), and "
            f"--color-mode {options.color_mode} gives {options.num_channels}.\n"
            "Choose --color-mode grayscale (1), rgb (3) or rgba (4)."
        )


def _first_difference(images: Manifest, store: LogitStore) -> str:
    """Returns a line that names the first image that one side has and the other has not."""
    missing = np.flatnonzero(store.images_of_keys(images.keys) < 0)
    if len(missing):
        key = readable_key(images.keys[missing[0]])
        return f"  first of {len(missing):,} images without logits: '{key}'\n"
    if len(images) < store.num_images:
        return f"  {store.num_images - len(images):,} images of the store are not there\n"
    return "  the same keys with other labels or class names\n"


def _both_sides(mine: Any, theirs: Any) -> str:
    """Returns two lines that show where two values differ."""
    if isinstance(mine, list):
        mine, theirs = shown(mine), shown(theirs)
    if isinstance(mine, dict):
        name = next(n for n in sorted({*mine, *theirs}) if mine.get(n) != theirs.get(n))
        mine, theirs = f"{name} = {mine.get(name)}", f"{name} = {theirs.get(name)}"
    return f"  now:   {mine}\n  store: {theirs}\n"


def _nearly_equal(now: np.ndarray, stored: np.ndarray) -> bool:
    """Returns whether two answers differ by no more than rounding, on this or another machine."""
    scale = np.abs(stored).max() + 1e-6
    return bool(np.abs(now - stored).max() <= ANSWER_TOLERANCE * scale)


def _first_numbers(logits: np.ndarray) -> str:
    more = ", …" if len(logits) > 5 else ""
    return ", ".join(f"{number:.4g}" for number in logits[:5]) + more


def _versions() -> dict[str, str]:
    import h5py

    import streamkd

    return {
        "streamkd": streamkd.__version__,
        "tensorflow": tf.__version__,
        "numpy": np.__version__,
        "h5py": h5py.__version__,
    }

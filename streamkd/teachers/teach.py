"""`teach`: asks the teacher about every image once and keeps its answers in a store.

    store = teach(scan("photos/train"), load_teacher("teacher.keras"), "teacher.h5")

Kill the pass at any moment and give the same command again: it resumes. On a finished store the
same command looks for images that are new or have changed since, and teaches them as a delta.
"""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from streamkd.checks import check_choice, check_count, check_types
from streamkd.codes import warn
from streamkd.errors import OptionError, readable_key
from streamkd.image_options import MAX_PIXELS, ON_BAD, Background, ImageOptions
from streamkd.manifest.manifest import Manifest, as_manifest
from streamkd.manifest.own_outputs import refuse_store_in_class
from streamkd.manifest.wrapper import hinting
from streamkd.pixels.image_notes import turned_in_sample
from streamkd.public import public
from streamkd.store import codecs
from streamkd.store.layout import REFUSED
from streamkd.store.reader import LogitStore
from streamkd.store.row_store import RowStore
from streamkd.store.store_list import is_index_file
from streamkd.teachers.deltas import teach_changes
from streamkd.teachers.kept_pixels import check_cache, kept_pixels
from streamkd.teachers.last_checks import (
    warn_of_chance,
    warn_of_contradictions,
    warn_of_lost_answers,
    warn_of_unanswered_classes,
)
from streamkd.teachers.load_teacher import load_teacher
from streamkd.teachers.teacher import Teacher
from streamkd.teachers.teacher_pass import TeacherPass, TeacherSetup
from streamkd.views.operation_check import check_operation
from streamkd.views.views import Views

# Default of `batch_size`, in rows: 64 kept both cores busy in the forward pass of measured models.
BATCH_SIZE = 64


@public
def teach(
    images: Manifest | str | os.PathLike,
    teacher: Any,
    out: str | os.PathLike,
    *,
    image_size: tuple[int, int] | None = None,
    color_mode: str = "rgb",
    interpolation: str = "bilinear",
    crop_to_aspect_ratio: bool = False,
    pad_to_aspect_ratio: bool = False,
    decode: str = "exact",
    exif: str | None = None,
    background: Background = None,
    batch_size: int = BATCH_SIZE,
    codec: str = "float16",
    class_names: list[str] | None = None,
    views: Views | None = None,
    shard: tuple[int, int] | None = None,
    on_bad: str = "raise",
    max_pixels: int = MAX_PIXELS,
    cache: str | None = None,
    cache_directory: str | os.PathLike | None = None,
    cache_bytes: int | None = None,
    progress: bool = True,
) -> RowStore:
    """Asks the teacher about every image, or resumes a pass that was stopped.

    On a finished store every file is compared with the one that the teacher saw. Images that are
    new or have changed go into a delta, a second store (`streamkd/teachers/deltas.py`).

    Args:
      images: the transfer set.
      teacher: a `Teacher`, or a source that `load_teacher` takes.
      out: path of the store; an unfinished store is resumed.
      image_size: (height, width) in pixels; by default the size that the teacher needs.
      color_mode, interpolation, crop_to_aspect_ratio, pad_to_aspect_ratio: as in Keras' loader.
      decode: 'exact' as in Keras' loader, or 'scaled' for large photographs; see `ImageOptions`.
      exif: 'ignore' as in Keras' loader, or 'apply' to turn photographs as their EXIF tag says; by
        default 'ignore', and a warning where there are such photographs.
      background: (red, green, blue) on which transparent images are laid; by default the colours
        behind the transparency are shown, as in Keras' loader.
      batch_size: rows that are answered and written at once; stored, since it changes last bits.
      codec: how logits are kept, such as 'float16' or 'packed:3+28'; see `store/codecs/codec.py`.
      class_names: the teacher's classes in the order of its outputs; by default those of its run
        directory, or the images'.
      views: the renditions of every image that the teacher answers besides the plain one. An
        operation of the user's own is first tried on random pixels.
      shard: (i, n), to teach the i-th of n parts of the images, counted from 1, into a store of its
        own. All parts merged are the store of an undivided pass, to the byte.
      on_bad: 'raise' ends the pass at the first file that cannot be decoded. 'skip' marks the image
        in the store, warns at the end, and does not ask again until the file changes;
        `refused_images` lists these images, and `join(..., missing="drop")` leaves them out.
      max_pixels: largest number of pixels of an image; one with more cannot be decoded.
      cache: 'disk' leaves the decoded images for `join(…, cache="disk")`: at the canonical size of
        the views, or else at the size that the teacher sees. A stream of the same list of images
        at that size then decodes none of them. A disk that gets full ends the cache, with a
        warning, and not the pass.
      cache_directory, cache_bytes: as in `join`.
      progress: show images per second and the time left on standard error.

    Returns:
      The finished store, with its deltas, open for reading.

    Raises:
      StreamkdError: setup, images and store do not fit; nothing that was written is lost.
    """
    check_types(teach, locals())
    images = as_manifest(images)
    refuse_store_in_class(images, out)
    check_choice("on_bad", on_bad, ON_BAD)
    skip_bad = on_bad == "skip"
    check_cache(cache, cache_directory, cache_bytes)
    setup = teacher_setup(
        images,
        teacher,
        image_size=image_size,
        color_mode=color_mode,
        interpolation=interpolation,
        crop_to_aspect_ratio=crop_to_aspect_ratio,
        pad_to_aspect_ratio=pad_to_aspect_ratio,
        max_pixels=max_pixels,
        decode=decode,
        exif=exif or "ignore",
        background=background,
        batch_size=batch_size,
        codec=codec,
        class_names=class_names,
        views=views,
    )
    if exif is None:
        _warn_of_turned(images)
    kept = kept_pixels(
        images,
        setup.options,
        setup.views,
        cache,
        directory=cache_directory,
        num_bytes=cache_bytes,
    )
    images, path = images.select(images.keys.sort_order()), os.fspath(out)
    if shard is not None:
        whole = TeacherPass(setup, images, path, skip_bad=skip_bad)
        setup.teacher.first_pixels = whole.first_pixels if shard[0] > 1 else None
        part = part_of(len(images), shard, setup.images_per_block)
        images, kept = images.select(part), None if kept is None else kept.selected(part)
    elif is_index_file(path) or (os.path.exists(path) and LogitStore(path).finished):
        with_deltas = teach_changes(
            setup, images, path, skip_bad=skip_bad, kept=kept, progress=progress
        )
        _warn_of_refused(images, with_deltas)
        return with_deltas
    with hinting(images):
        store = TeacherPass(setup, images, path, skip_bad=skip_bad, kept=kept).run(progress)
    _warn_of_refused(images, store)
    warn_of_lost_answers(setup.teacher.name, setup.teacher.output_kind)
    warn_of_chance(setup.teacher.name, store)
    warn_of_unanswered_classes(store)
    warn_of_contradictions(store)
    return store


def refused_images(images: Manifest, store: RowStore) -> np.ndarray:
    """Returns int64, the indices of images that could not be decoded for the teacher."""
    in_store = store.images_of_keys(images.keys)
    known = np.flatnonzero(in_store >= 0)
    return known[store.done_of(in_store[known] * store.num_views) == REFUSED]


def teacher_setup(
    images: Manifest,
    teacher: Any,
    *,
    batch_size: int,
    codec: str,
    class_names: list[str] | None = None,
    views: Views | None = None,
    image_size: tuple[int, int] | None = None,
    **pixels: Any,
) -> TeacherSetup:
    """Returns the checked setup of a pass; arguments and errors as in `teach`."""
    teacher = load_teacher(teacher)
    options = ImageOptions(image_size=_teaching_size(teacher, image_size), **pixels)
    check_count("--batch-size", batch_size)
    codecs.get(codec)
    _check_channels(teacher, options)
    teacher.settle_model(options.shape)
    if views is not None and views.operation is not None:
        check_operation(views.operation, options.shape)
    given = class_names or teacher.class_names or images.class_names
    classes = None if given is None else list(given)  # as a store keeps them
    if teacher.output_kind == "class" and teacher.num_outputs is None and classes:
        teacher.num_outputs = len(classes)
    return TeacherSetup(
        teacher=teacher,
        options=options,
        class_names=classes,
        batch_size=batch_size,
        codec=codec,
        views=views or Views(0),
    )


def part_of(num_images: int, shard: tuple[int, int], images_per_block: int) -> slice:
    """Returns part i of n of images in key order, cut between blocks; `shard` is (i, n), i from 1.

    Raises:
      OptionError: no such part, or a part without images.
    """
    number, count = shard
    if not 1 <= number <= count:
        raise OptionError(
            f"--shard is {number}/{count}; the parts of a pass are counted from 1 to {count}.\n"
            f"Give one of them, such as --shard 1/{max(count, 1)}."
        )
    num_blocks = -(-num_images // images_per_block)
    if count > num_blocks:
        raise OptionError(
            f"--shard is {number}/{count}, and {num_images:,} images are {num_blocks:,} blocks of "
            f"{images_per_block}: a part would be empty.\n"
            f"Divide the pass into at most {num_blocks:,} parts, or give a smaller --batch-size."
        )
    first = (number - 1) * num_blocks // count * images_per_block
    stop = min(number * num_blocks // count * images_per_block, num_images)
    return slice(first, stop)


def _warn_of_turned(images: Manifest) -> None:
    note = turned_in_sample(images)
    if note is not None:
        warn("odd_images", str(note), stacklevel=3)


def _warn_of_refused(images: Manifest, store: RowStore) -> None:
    refused = refused_images(images, store)
    if len(refused):
        warn(
            "images_refused",
            f"{len(refused):,} of {len(images):,} images cannot be decoded and have no logits in "
            f"{store.path}; the first is '{readable_key(images.keys[int(refused[0])])}'. "
            "`streamkd scan --check` gives the reasons; `--missing drop` trains without them.",
            stacklevel=3,
        )


def _teaching_size(teacher: Teacher, image_size: tuple[int, int] | None) -> tuple[int, int]:
    if image_size is None and teacher.image_size is None:
        if teacher.takes is not None and len(teacher.takes.sizes) == 1:
            raise OptionError(
                f"The teacher {teacher.name!r} takes the numbers of an image in one row, and does "
                "not say the height and width.\nGive them: `--image-size HEIGHTxWIDTH`, and "
                "`--color-mode grayscale` for grey images. Or begin the model with images and a "
                "Flatten layer."
            )
        raise OptionError(
            f"The teacher {teacher.name!r} takes images of any size.\n"
            "Give the size that it is to see: `--image-size HEIGHTxWIDTH`."
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

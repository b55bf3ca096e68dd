"""The join: pairs images with stored logits by key, and checks both before the first batch.

    stream = join(images, store, image_size=(160, 160), batch_size=128, seed=1)

`join` checks that class names agree by name, that every image has its rows, and that the teacher's
accuracy on a sample of joined rows is that of the teacher pass. The stream checks on every batch
that the content digest of the bytes just read equals the stored one. An image whose key the store
does not know is looked up by its content, so that renamed and moved files keep their logits.
"""

from __future__ import annotations

import dataclasses
import os
from typing import Any

import numpy as np

from streamkd.checks import check_choice, check_count, check_types
from streamkd.codes import warn
from streamkd.ensemble.ensemble_store import as_store
from streamkd.errors import MissingLogitsError, OptionError, readable_key
from streamkd.image_options import MAX_PIXELS, ON_BAD, Background, ImageOptions, as_background
from streamkd.manifest.class_names import renumber, several_labels
from streamkd.manifest.manifest import Manifest, as_manifest
from streamkd.manifest.wrapper import hinting
from streamkd.pixels.cache.cache_part import CachePart
from streamkd.pixels.cache.pixel_cache import PixelCache
from streamkd.public import public
from streamkd.store.layout import ELSEWHERE, REFUSED
from streamkd.store.match_images import match_images
from streamkd.store.row_store import RowStore
from streamkd.store.same_pass import check_finished
from streamkd.stream import join_checks
from streamkd.stream.cache.cache_choice import choose_cache
from streamkd.stream.stream import Stream
from streamkd.stream.stream_spec import StreamSpec
from streamkd.stream.teacher_columns import TO_MAP, Classes, ClassMap, choose_columns
from streamkd.views.operation import ViewOperation
from streamkd.views.operation_check import check_operation
from streamkd.views.render import cached_options
from streamkd.views.views import Views

CACHES = ("memory", "disk")
MISSING = ("raise", "drop", "label")


@public
def join(
    images: Manifest | str | os.PathLike,
    store: Any,
    *,
    weights: Any = None,
    rule: str = "auto",
    image_size: tuple[int, int] | None = None,
    batch_size: int = 32,
    seed: int = 0,
    shuffle: bool = True,
    color_mode: str | None = None,
    interpolation: str | None = None,
    crop_to_aspect_ratio: bool | None = None,
    pad_to_aspect_ratio: bool | None = None,
    decode: str | None = None,
    exif: str | None = None,
    background: Background = None,
    missing: str = "raise",
    augment: str = "replay",
    views: Views | None = None,
    operation: ViewOperation | None = None,
    balance: bool = False,
    views_per_decode: int = 1,
    on_bad: str = "raise",
    max_pixels: int = MAX_PIXELS,
    cache: str | None = None,
    cache_directory: str | os.PathLike | None = None,
    cache_bytes: int | None = None,
    classes: Classes = None,
    teacher_class_map: ClassMap = None,
    progress: bool = True,
) -> Stream:
    """Returns the stream of images joined with their stored logits.

    Args:
      images: the transfer set.
      store: a store, its path, or None for a stream of labels alone; or several stores, as a list
        of stores, paths and `Member`s, or as a mapping from paths to weights.
      weights, rule: of several stores, as in `combine_stores`.
      image_size: (height, width) that the student sees; by default what the teacher saw.
      batch_size: images a batch; every batch has this size, straddling epochs.
      seed: of the order, 0 to 2**32 - 1.
      shuffle: False for the manifest's order.
      color_mode: by default as the teacher saw them ('rgb' without a store).
      interpolation, crop_to_aspect_ratio, pad_to_aspect_ratio, decode, exif, background: part of
        what the teacher saw; with a store they can only be repeated. See `ImageOptions`.
      missing: 'raise' refuses images without logits; 'drop' leaves them out and warns; 'label' lets
        the student learn them from their labels alone and warns. A store that has logits of none of
        the images is always refused.
      augment: 'replay' shows the views that the teacher answered. 'independent' draws others for
        every epoch, while the logits stay those of the plain image: known to be no better than
        labels alone in long runs, and offered for comparison.
      views: the views that 'independent' draws, one an epoch; they cannot be mixed.
      operation: the operation of the store's views, if they have one: the store knows its name and
        version, the function is the caller's. It is first tried out on random pixels.
      balance: draw every class equally often, however many images it has; an epoch then has about
        one draw for each image.
      views_per_decode: number of views of a decoded image that share a batch. An epoch decodes
        every image once, and so has that many times as many steps.
      on_bad: 'raise' ends at the first file that cannot be decoded or was changed since the teacher
        saw it; 'skip' leaves the file out, and lists it in `Stream.skipped`.
      max_pixels: an image whose header says more pixels counts as one that cannot be decoded.
      cache: keep decoded pixels after the first epoch: 'memory' for this process, 'disk' for others
        as well. Views that are drawn are then cut from images of one size, so that they need
        `canonical_size`; plain images are kept at the student's size, rounded to whole numbers.
        A file that changes is noticed when a process first asks for its image, by the file's size
        and time of change.
      cache_directory: for 'disk'; by default `streamkd/pixels` in the user's cache directory.
      cache_bytes: largest size of the cache; images without room are decoded each time. By default
        half of the free memory, or nine tenths of the free disk space.
      classes: the student's classes, where they are only some of the teacher's: a list in the order
        of its outputs, or 'images' for those of the images. The teacher's logits of other classes
        are left out.
      teacher_class_map: the student's class of each of the teacher's classes, as a mapping or as
        the path of a JSON file; None, or null, and classes that are not named are left out. Where
        several are one class of the student, their probabilities are added.
      progress: show progress while files are read to find renamed ones.

    Raises:
      ClassNamesError: a class of the images is not one of the teacher's.
      MissingLogitsError: an image has no logits; the first is named.
      UnfinishedStoreError: the teacher pass is not finished.
      OptionError: options that do not fit.
    """
    check_types(join, locals())
    images = listed = as_manifest(images)
    check_choice("missing", missing, MISSING)
    check_choice("on_bad", on_bad, ON_BAD)
    independent = join_checks.independent_views(augment, views, operation)
    if store is not None or weights is not None or rule != "auto":
        store = as_store(store, weights, rule)
    with hinting(images):
        columns = choose_columns(store, images, classes=classes, class_map=teacher_class_map)
    given = {
        "interpolation": interpolation,
        "crop_to_aspect_ratio": crop_to_aspect_ratio,
        "pad_to_aspect_ratio": pad_to_aspect_ratio,
        "decode": decode,
        "exif": exif,
        "background": as_background(background),
    }
    options = image_options(store, image_size, color_mode, given, max_pixels)
    shown = independent or join_checks.replayed_views(store, operation)
    if shown.operation is not None:
        check_operation(shown.operation, options.shape)
    class_names: list[str] | None
    if store is None:
        rows, labels, class_names = _without_store(images)
    else:
        images, rows = find_rows(images, store, missing, progress)
        class_names = store.class_names or None
        if class_names is None and images.class_names is not None:
            warn(
                "labels_left_out",
                f"The store {store.path} was taught without class names, and these images have "
                "labels, which are left out. Teach a store with class names to use them.",
                stacklevel=2,
            )
        owner, remedy = "the store", TO_MAP
        if columns is not None:
            class_names, owner, remedy = columns.class_names, "the student", ""
        with hinting(images):
            labels = renumber(images.labels, images.class_names, class_names, owner, remedy)
    num_classes = store.num_classes if store and not columns else len(class_names or [])
    with hinting(images):
        multi_hot = several_labels(images, class_names, "the store", num_classes)
    if store is not None:
        join_checks.check_learnable(images, labels, rows, multi_hot)
        join_checks.check_accuracy(labels, rows, store, columns)
    join_checks.check_batch_size(batch_size, seed, len(images))
    if store is not None and independent is None:
        join_checks.check_pairs(batch_size, rows, store)
    replayed = independent is None
    join_checks.check_views_per_decode(views_per_decode, shown, batch_size, replayed)
    if balance:
        join_checks.check_balance(images, labels, shown, batch_size // views_per_decode)
    spec = StreamSpec(
        images=images,
        store=store,
        rows=rows,
        labels=labels,
        class_names=class_names,
        num_classes=num_classes,
        options=options,
        batch_size=batch_size,
        seed=seed,
        shuffle=shuffle,
        independent=independent,
        operation=shown.operation,
        on_bad=on_bad,
        cache=_pixel_cache(images, listed, shown, options, cache, cache_directory, cache_bytes),
        balance=balance,
        views_per_decode=views_per_decode,
        multi_hot=multi_hot,
        teacher_columns=columns,
    )
    return Stream(spec)


def _pixel_cache(
    images: Manifest,
    listed: Manifest,
    views: Views,
    options: ImageOptions,
    cache: str | None,
    directory: str | os.PathLike | None,
    num_bytes: int | None,
) -> PixelCache | CachePart | None:
    """Returns the cache of decoded images, or None; images that are left out are `listed`."""
    check_choice("cache", cache, (None, *CACHES))
    if num_bytes is not None:
        check_count("cache_bytes", num_bytes)
    if directory is not None and cache != "disk":
        raise OptionError(
            f"The cache directory is {os.fspath(directory)}, and the cache is {cache}.\n"
            "Add `--cache disk`."
        )
    if cache is None:
        return None
    canonical = cached_options(views, options)
    return choose_cache(images, listed, canonical, cache, directory=directory, num_bytes=num_bytes)


def image_options(
    store: RowStore | None,
    image_size: tuple[int, int] | None,
    color_mode: str | None,
    given: dict,
    max_pixels: int = MAX_PIXELS,
) -> ImageOptions:
    """Returns how the student's images are read: as the teacher's were, at the student's size."""
    if store is None:
        if image_size is None:
            raise OptionError(
                "No store says the size of the images, and none is given.\n"
                "Add image_size=(height, width); on the command line --image-size HEIGHTxWIDTH."
            )
        chosen = {name: value for name, value in given.items() if value is not None}
        chosen["max_pixels"] = max_pixels
        return ImageOptions(image_size=image_size, color_mode=color_mode or "rgb", **chosen)
    size = image_size or store.header.images.get("image_size")
    if size is None:
        raise OptionError(
            f"The store {store.path} does not say at which size its teacher saw the images.\n"
            "Give the size for the student: `--image-size HEIGHTxWIDTH`."
        )
    taught = ImageOptions.from_dict({**store.header.images, "image_size": size})
    for name, value in given.items():
        if value is not None and value != getattr(taught, name):
            raise OptionError(
                f"{name} is {value!r}, and the teacher saw images made with "
                f"{_said(getattr(taught, name))} (store {store.path}).\n"
                f"Leave {name} out: the student sees what the teacher saw."
            )
    return dataclasses.replace(
        taught, color_mode=color_mode or taught.color_mode, max_pixels=max_pixels
    )


def _said(value: object) -> str:
    """Returns a value of an option in words."""
    return "none" if value is None else repr(value)


def _without_store(images: Manifest) -> tuple[np.ndarray, np.ndarray, list[str]]:
    if images.class_names is None:
        raise OptionError(
            "These images have neither labels nor logits: there is nothing to learn.\n"
            "Give a store (`--store`), or images in one folder a class."
        )
    return np.full(len(images), -1, np.int64), images.labels, images.class_names


def find_rows(
    images: Manifest, store: RowStore, missing: str, progress: bool
) -> tuple[Manifest, np.ndarray]:
    """Returns the images that are joined, and the row of each: by key, else by content.

    Arguments and errors are those of `join`. The rows are int64 `[num_images]`, those of view 0; -1
    for an image without logits.
    """
    check_finished(store)
    matched = match_images(images, store, progress)
    refused = np.zeros(len(matched), bool)
    refused[matched >= 0] = store.done_of(matched[matched >= 0] * store.num_views) == REFUSED
    absent = np.flatnonzero((matched < 0) | refused)
    if not len(absent):
        return images, matched * store.num_views
    if missing == "raise" or len(absent) == len(images):
        _refuse_missing(images, store, absent, refused)
    fate = "are left out" if missing == "drop" else "learn from their labels alone"
    warn(
        "images_without_logits",
        f"{len(absent):,} of {len(images):,} images have no logits and {fate}; "
        f"the first is '{readable_key(images.keys[absent[0]])}'.",
        stacklevel=3,
    )
    if missing == "label":
        matched[absent] = -1
        return images, np.where(matched < 0, -1, matched * store.num_views)
    kept = np.flatnonzero((matched >= 0) & ~refused)
    return images.select(kept), matched[kept] * store.num_views


def _refuse_missing(
    images: Manifest, store: RowStore, absent: np.ndarray, refused: np.ndarray
) -> None:
    first = int(absent[0])
    store = store.store_without(images.keys[first])
    root = os.fsdecode(images.root)
    why = "" if not refused[first] else ", which could not be decoded when the teacher was asked"
    if store.header.decoder == ELSEWHERE:
        remedy = (
            "The logits of this store were made elsewhere. Import those of all images: "
            f"`streamkd import … --images {root} --out NEW.h5`."
        )
    elif len(absent) == len(images):
        remedy = f"Teach a store of these images: `streamkd teach {root} --teacher … --out NEW.h5`."
    else:
        remedy = (
            "Give the `teach` command of this store again, and only these images are answered: "
            f"`streamkd teach {root} --teacher … --out {store.path}`."
        )
    raise MissingLogitsError(
        f"{len(absent):,} of {len(images):,} images have no logits in the store.\n"
        f"  images: {root} ({len(images):,} images, fingerprint {images.fingerprint[:8]})\n"
        f"  store:  {store.path} ({store.num_images:,} images, fingerprint "
        f"{store.header.fingerprint[:8]})\n"
        f"  first without logits: '{readable_key(images.keys[first])}', image {first}{why}\n"
        f"{remedy} Or leave the images out: `--missing drop`.",
        key=images.keys[first],
    )

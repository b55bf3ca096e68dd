"""Planning: bytes, fidelity and hours for each codec, before anything is paid.

    report = plan(images, store="pilot.h5", views=8)       # or teacher="teacher.keras"
    report["recommended"]                                   # 'packed:3+28'

What a codec loses is measured on logits of the real teacher: those of a store, or its answers to a
sample of the images, which also tell how long the whole pass will take.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from streamkd.checks import check_count, check_positive
from streamkd.errors import OptionError, OtherImagesError, StoreError
from streamkd.manifest.manifest import Manifest
from streamkd.progress import image_progress
from streamkd.public import public
from streamkd.store import codecs
from streamkd.store.codecs import fidelity
from streamkd.store.layout import DONE, StoreHeader, dataset_specs
from streamkd.store.userblock import USERBLOCK_BYTES
from streamkd.views.views import Views

CODECS = (
    "float32",
    "float16",
    "packed:8+1",
    "packed:8",
    "packed:4+16",
    "packed:4",
    "packed:3+28",
    "packed:3+8",
    "packed:0+100",
)
SAMPLE = 1000
MAX_KL = 0.01


@public
def plan(
    images: Manifest,
    *,
    store: Any = None,
    teacher: Any = None,
    views: int | Views = 0,
    codecs: Sequence[str] | None = None,
    max_kl: float = MAX_KL,
    sample: int = SAMPLE,
    seed: int = 0,
    batch_size: int = 64,
    class_names: list[str] | None = None,
    progress: bool = True,
    clock: Callable[[], float] = time.perf_counter,
    **pixels: Any,
) -> dict[str, Any]:
    """Returns what a store of these images would take and lose with each codec.

    Args:
      images: the transfer set.
      store: a store, or the path of one, that has some of these images in float16 or float32.
      teacher: in its place, a `Teacher`, or whatever `load_teacher` takes.
      views: the views, or how many there are beside the plain one; there are 1 + `views` rows an
        image. A number stands for views with crop and flip, whose parameters take 17 bytes a row.
      codecs: names of those to compare; by default `CODECS`, without those that would keep more
        than half of the classes.
      max_kl: see `recommended`, in nats.
      sample: how many images are looked at, drawn by `seed`; fewer where there are fewer.
      seed: of the sample.
      batch_size, class_names, pixels: of the teacher, as in `teach`.
      progress: show the progress of the teacher on standard error.
      clock: tells seconds.

    Returns:
      A dict of num_images, num_views (rows an image), rows_total, num_classes, num_sampled,
      teacher, seconds_per_row and hours (of the whole pass on this machine; None where a store was
      given), max_kl, recommended, and codecs, a list in the order of their bytes, of dicts:
      `codec`, `row_bytes` (of the logits alone), `bytes_per_image`, `num_bytes` (of the whole
      store), `kl` (temperature to mean KL(true ‖ rebuilt) in nats) and `agreement` (share of rows
      whose largest logit stays that of the same class); the last two are None where logits of the
      sample are too large for the codec.

      `recommended` is the codec of the fewest bytes whose KL is at most `max_kl` at each of the
      four temperatures; float32 where there is none.

    Raises:
      OptionError: not exactly one of `store` and `teacher`, or a value that cannot be.
      StoreError: a packed store, which no longer holds what was lost.
      OtherImagesError: a store with none of the images.
    """
    check_source(store, teacher)
    if not isinstance(views, Views):
        views = Views(views, crop=(0.35, 1.0), flip=True) if views > 0 else Views(views)
    check_count("--sample", sample)
    check_positive("--max-kl", max_kl)
    drawn = np.random.default_rng(seed).permutation(len(images))[:sample]
    part = images.select(np.sort(drawn))
    if store is not None:
        name, logits = _from_store(part, store, seed)
        seconds = None
    else:
        setup = _setup(images, teacher, batch_size, class_names, pixels)
        name, (logits, seconds) = setup.teacher.name, _ask(part, setup, progress, clock)
    rows = len(images) * views.num_views
    compared = [
        _compare(codec, logits, images, views) for codec in _fitting_codecs(codecs, logits.shape[1])
    ]
    compared.sort(key=lambda entry: entry["num_bytes"])
    return {
        "num_images": len(images),
        "num_views": views.num_views,
        "rows_total": rows,
        "num_classes": logits.shape[1],
        "num_sampled": len(logits),
        "teacher": name,
        "seconds_per_row": seconds,
        "hours": None if seconds is None else seconds * rows / 3600,
        "max_kl": max_kl,
        "recommended": _recommended(compared, max_kl),
        "codecs": compared,
    }


def check_source(store: Any, teacher: Any) -> None:
    """Refuses to plan without logits, or with two sources of them."""
    if (store is None) == (teacher is None):
        raise OptionError(
            "A plan needs logits of the teacher: give one of --store S.h5 and --teacher T."
        )


def describe(report: dict[str, Any]) -> str:
    """Returns a plan as lines of text."""
    columns = " ".join(f"{f'T = {t}':>8}" for t in fidelity.TEMPERATURES)
    lines = [
        f"{report['num_images']:,} images, {report['num_views']} rows an image, "
        f"{report['num_classes']:,} classes; measured on {report['num_sampled']:,} answers of "
        f"{report['teacher']}",
        f"{'codec':<14} {'bytes/image':>11} {'all':>9}  KL {columns}  top-1 kept",
    ]
    for entry in report["codecs"]:
        line = f"{entry['codec']:<14} {entry['bytes_per_image']:>11,.0f} "
        line += f"{_readable_bytes(entry['num_bytes']):>9}     "
        if entry["kl"] is None:
            line += "logits too large for it"
        else:
            line += " ".join(f"{lost:>8.1e}" for lost in entry["kl"].values())
            line += f"  {entry['agreement']:.2%}"
        lines.append(line)
    if report["hours"] is not None:
        lines.append(
            f"asking the teacher takes {1000 * report['seconds_per_row']:.3g} ms a row, "
            f"{report['hours']:.2g} hours in all, on this machine"
        )
    lines.append(
        f"recommended: {report['recommended']}, the smallest with KL at most "
        f"{report['max_kl']:g} at every temperature"
    )
    return "\n".join(lines)


def _from_store(images: Manifest, store: Any, seed: int) -> tuple[str, np.ndarray]:
    """Returns the teacher's name and one row of each image that a store has, of any view."""
    from streamkd.store.collection import open_store

    store = open_store(store)
    if not isinstance(codecs.get(store.header.codec), codecs.FloatCodec):
        raise StoreError(
            f"The store {store.path} holds logits as {store.header.codec}, and what that lost "
            "cannot be measured any more.\n"
            "Give a store with --codec float16 or float32, such as one of some thousand images, "
            "or `--teacher T`."
        )
    found = store.images_of_keys(images.keys)
    views = np.random.default_rng(seed).integers(0, store.num_views, len(found))
    rows = (found * store.num_views + views)[found >= 0]
    rows = rows[store.done_of(rows) == DONE]
    if not len(rows):
        raise OtherImagesError(
            f"The store {store.path} has no logits of the images that were drawn.\n"
            f"  images: {os.fsdecode(images.root)}, {len(images):,} drawn\n"
            f"  store:  {store.num_images:,} images, {store.rows_done:,} rows done\n"
            "Give the store of these images, or `--teacher T`."
        )
    return str(store.header.teacher.get("name")), store.gather(rows)


def _setup(
    images: Manifest,
    teacher: Any,
    batch_size: int,
    class_names: list[str] | None,
    pixels: dict[str, Any],
) -> Any:
    from streamkd.teachers.teach import teacher_setup

    return teacher_setup(
        images, teacher, batch_size=batch_size, class_names=class_names, codec="float32", **pixels
    )


def _ask(
    images: Manifest, setup: Any, progress: bool, clock: Callable[[], float]
) -> tuple[np.ndarray, float]:
    """Returns the teacher's answers, and seconds an image.

    The first batch, which compiles the model, is not counted where there are others.
    """
    from streamkd.teachers.rendered_blocks import AllInBlocks
    from streamkd.teachers.teacher_pass import TeacherPass

    groups = list(AllInBlocks(len(images), setup.batch_size))
    answers, times = [], [clock()]
    asked = TeacherPass(setup, images, os.devnull)  # which writes nothing before `run`
    with image_progress(len(images), 0, "asking", progress) as bar:
        for answer in asked.answers(groups):
            logits = answer.logits
            asked.check_num_classes(logits.shape[1])
            answers.append(logits)
            times.append(clock())
            bar.update(len(logits))
    first = 1 if len(groups) > 1 else 0
    num_timed = sum(map(len, groups[first:]))
    return np.concatenate(answers), (times[-1] - times[first]) / num_timed


def _fitting_codecs(names: Sequence[str] | None, num_classes: int) -> list[codecs.Codec]:
    """Returns the codecs to compare; those that were asked for must fit."""
    if names is None:
        return [c for c in map(codecs.get, CODECS) if 2 * getattr(c, "num_kept", 0) <= num_classes]
    found = [codecs.get(name) for name in names]
    for codec in found:
        codec.check_num_classes(num_classes)
    return found


def _compare(
    codec: codecs.Codec, logits: np.ndarray, images: Manifest, views: Views
) -> dict[str, Any]:
    """Returns the entry of one codec."""
    num_bytes = store_bytes(images, codec, logits.shape[1], views)
    fits = bool((np.abs(logits) <= codec.largest).all())
    found = fidelity.measure(codec, logits) if fits else None
    return {
        "codec": codec.name,
        "row_bytes": fidelity.row_bytes(codec, logits.shape[1]),
        "bytes_per_image": num_bytes / len(images),
        "num_bytes": num_bytes,
        "kl": None if found is None else {str(t): kl for t, kl in found.divergences.items()},
        "agreement": None if found is None else found.agreement,
    }


def store_bytes(images: Manifest, codec: codecs.Codec, num_classes: int, views: Views) -> int:
    """Returns the bytes of a store of these images, but for up to 200 kB between its datasets."""
    names = images.class_names or []
    header = StoreHeader(
        num_images=len(images),
        num_views=views.num_views,
        num_classes=num_classes,
        codec=codec.name,
        block_rows=views.num_views,
        fingerprint=images.fingerprint,
        images={},
        views=views.to_dict(),
        decoder="any",
        teacher={},
        versions={},
    )
    specs = dataset_specs(
        header,
        num_key_bytes=len(images.keys.data),
        num_class_bytes=sum(len(name.encode("utf-8", "surrogateescape")) for name in names),
        num_class_names=len(names),
    )
    return USERBLOCK_BYTES + sum(spec.num_bytes for spec in specs.values())


def _recommended(compared: list[dict[str, Any]], max_kl: float) -> str:
    for entry in compared:  # the smallest first
        if entry["kl"] is not None and max(entry["kl"].values()) <= max_kl:
            return entry["codec"]
    return "float32"


def _readable_bytes(num_bytes: int) -> str:
    power = min(4, int(math.log(max(num_bytes, 1), 1000)))
    return f"{num_bytes / 1000**power:.3g} {['B', 'kB', 'MB', 'GB', 'TB'][power]}"

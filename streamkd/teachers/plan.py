"""`plan`: bytes, fidelity and hours for each codec, before the teacher pass is paid for.

    report = plan(images, store="pilot.h5", views=8)       # or teacher="teacher.keras"
    report.recommended                                      # 'packed:3+28'
    print(describe(report))

The loss of a codec is measured on logits of the real teacher: those of a store, or its answers to a
sample of the images, which also tell how long the whole pass will take.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from streamkd.checks import check_count, check_positive, check_types
from streamkd.ensemble import comparison
from streamkd.ensemble.compare_stores import compare_stores
from streamkd.ensemble.ensemble_store import EnsembleStore, as_store
from streamkd.errors import OptionError, OtherImagesError, StoreError
from streamkd.manifest.manifest import Manifest, as_manifest
from streamkd.progress import image_progress
from streamkd.public import public
from streamkd.reports import Report, readable_bytes
from streamkd.store.codecs import Codec, FloatCodec, fidelity
from streamkd.store.codecs import get as get_codec
from streamkd.store.layout import DONE, StoreHeader, dataset_specs, encode_class_names
from streamkd.store.userblock import USERBLOCK_BYTES
from streamkd.views.views import Views

# Codecs that are compared by default.
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
SAMPLE = 1000  # images whose logits are looked at
MAX_KL = 0.01  # nats


class CodecPlan(Report):
    """The size of a store with one codec, and the codec's loss.

    Attributes:
      codec: name of the codec.
      row_bytes: bytes of a row's logits alone.
      bytes_per_image: bytes of the whole store, divided by the number of images.
      num_bytes: bytes of the whole store.
      kl: mean KL(true ‖ rebuilt) in nats by temperature; None for logits too large for the codec.
      agreement: fraction of rows whose largest logit keeps its class; None where `kl` is.
    """

    codec: str
    row_bytes: int
    bytes_per_image: float
    num_bytes: int
    kl: dict[str, float] | None
    agreement: float | None


class PlanReport(Report):
    """The codecs that a store of these images could have, measured.

    Attributes:
      num_images, num_views, num_classes: counts; each image has `num_views` rows.
      rows_total: rows of the store.
      num_sampled: number of rows that the codecs were measured on.
      teacher: name of the teacher.
      seconds_per_row, hours: time of a row and of the pass on this machine; None with a store.
      max_kl: see `recommended`, in nats.
      recommended: the codec with the smallest store whose KL is at most `max_kl` at each of the
        four temperatures; float32 if no codec is that exact.
      codecs: one `CodecPlan` for each codec, the smallest store first.
      activation: 'sigmoid' where the teacher ends in it, else absent. KL and agreement are then
        those of each label by itself, averaged over the labels.
      comparison: of several stores, a `StoreComparison` of the sampled images; else absent.
    """

    num_images: int
    num_views: int
    rows_total: int
    num_classes: int
    num_sampled: int
    teacher: str
    seconds_per_row: float | None
    hours: float | None
    max_kl: float
    recommended: str
    codecs: list[CodecPlan]

    def to_dict(self) -> dict[str, Any]:
        """Returns plain dicts, as `--json` prints them."""
        return {**super().to_dict(), "codecs": [entry.to_dict() for entry in self.codecs]}


@public
def plan(
    images: Manifest | str | os.PathLike,
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
) -> PlanReport:
    """Returns the size of a store of these images with each codec, and the codec's loss.

    Args:
      images: the transfer set.
      store: a store, or its path, that has a part of these images in float16 or float32; or
        several, as in `join`.
      teacher: instead of a store, a `Teacher`, or a source that `load_teacher` takes.
      views: the views, or their number besides the plain one; each image has 1 + `views` rows. A
        number stands for views with crop and flip, whose parameters take 17 bytes a row.
      codecs: to compare; by default those of `CODECS` that keep at most half of the classes.
      max_kl: largest KL of a recommended codec, in nats.
      sample: largest number of images to look at, drawn by `seed`.
      seed: seed of the sample.
      batch_size, class_names, pixels: of the teacher, as in `teach`.
      progress: show the progress of the teacher on standard error.
      clock: returns seconds.

    Raises:
      OptionError: not exactly one of `store` and `teacher`, or a value that cannot be.
      StoreError: a packed store, which no longer has the exact logits.
      OtherImagesError: a store with none of the images.
    """
    check_types(plan, locals())
    images = as_manifest(images)
    check_source(store, teacher)
    if not isinstance(views, Views):
        views = Views(views, crop=(0.35, 1.0), flip=True) if views > 0 else Views(views)
    check_count("--sample", sample)
    check_positive("--max-kl", max_kl)
    drawn = np.random.default_rng(seed).permutation(len(images))[:sample]
    sampled = images.select(np.sort(drawn))
    seconds: float | None = None
    optional: dict[str, Any] = {}
    if store is not None:
        store = as_store(store)
        is_sigmoid = store.header.is_sigmoid
        name, logits = _from_store(sampled, store, seed)
        if isinstance(store, EnsembleStore):
            optional["comparison"] = compare_stores(store, sampled, progress=progress)
    else:
        from streamkd.teachers.teach import teacher_setup  # needs TensorFlow

        setup = teacher_setup(
            images,
            teacher,
            batch_size=batch_size,
            class_names=class_names,
            codec="float32",
            **pixels,
        )
        name, (logits, seconds) = setup.teacher.name, _ask(sampled, setup, progress, clock)
        is_sigmoid = setup.teacher.is_sigmoid or logits.shape[1] == 1
    if is_sigmoid:
        optional["activation"] = "sigmoid"
    num_rows = len(images) * views.num_views
    fitting = _fitting_codecs(codecs, logits.shape[1])
    compared = [_compare(codec, logits, images, views, is_sigmoid) for codec in fitting]
    compared.sort(key=lambda entry: entry.num_bytes)
    return PlanReport(
        num_images=len(images),
        num_views=views.num_views,
        rows_total=num_rows,
        num_classes=logits.shape[1],
        num_sampled=len(logits),
        teacher=name,
        seconds_per_row=seconds,
        hours=None if seconds is None else seconds * num_rows / 3600,
        max_kl=max_kl,
        recommended=_recommended(compared, max_kl),
        codecs=compared,
        **optional,
    )


def check_source(store: Any, teacher: Any) -> None:
    """Raises OptionError for a plan without a source of logits, or with two."""
    if (store is None) == (teacher is None):
        raise OptionError(
            "A plan needs logits of the teacher: give one of --store S.h5 and --teacher T."
        )


def describe(report: PlanReport) -> str:
    """Returns a plan as lines of text."""
    columns = " ".join(f"{f'T = {t}':>8}" for t in fidelity.TEMPERATURES)
    lines = []
    if "activation" in report:
        lines.append(
            "The teacher ends in sigmoid, so that its labels are independent: KL and the decisions "
            "kept are means over the labels; `train` takes the loss bce."
        )
    lines += [
        f"{report.num_images:,} images, {report.num_views} rows an image, "
        f"{report.num_classes:,} classes; measured on {report.num_sampled:,} answers of "
        f"{report.teacher}",
        f"{'codec':<14} {'bytes/image':>11} {'all':>9}  KL {columns}  top-1 kept",
    ]
    for entry in report.codecs:
        line = f"{entry.codec:<14} {entry.bytes_per_image:>11,.0f} "
        line += f"{readable_bytes(entry.num_bytes):>9}     "
        if entry.kl is None:
            line += "logits too large for it"
        else:
            line += " ".join(f"{kl:>8.1e}" for kl in entry.kl.values())
            line += f"  {entry.agreement:.2%}"
        lines.append(line)
    if report.seconds_per_row is not None:
        lines.append(
            f"asking the teacher takes {1000 * report.seconds_per_row:.3g} ms a row, "
            f"{report.hours:.2g} hours in all, on this machine"
        )
    lines.append(
        f"recommended: {report.recommended}, the smallest with KL at most "
        f"{report.max_kl:g} at every temperature"
    )
    if "comparison" in report:
        lines += ["", comparison.as_text(report["comparison"])]
    return "\n".join(lines)


def _from_store(images: Manifest, store: Any, seed: int) -> tuple[str, np.ndarray]:
    """Returns the teacher's name, and logits of one view of each image that the store has."""
    members = store.members if isinstance(store, EnsembleStore) else ()
    for read in [member.opened for member in members] or [store]:
        if isinstance(get_codec(read.header.codec), FloatCodec):
            continue
        raise StoreError(
            f"The store {read.path} holds logits as {read.header.codec}, and the loss of a codec "
            "is measured on exact logits.\n"
            "Give a store with --codec float16 or float32, for example of 1,000 images, or "
            "`--teacher T`."
        )
    in_store = store.images_of_keys(images.keys)
    views = np.random.default_rng(seed).integers(0, store.num_views, len(in_store))
    rows = (in_store * store.num_views + views)[in_store >= 0]
    rows = rows[store.done_of(rows) == DONE]
    if not len(rows):
        raise OtherImagesError(
            f"The store {store.path} has no logits of the images that were drawn.\n"
            f"  images: {os.fsdecode(images.root)}, {len(images):,} drawn\n"
            f"  store:  {store.num_images:,} images, {store.rows_done:,} rows done\n"
            "Give the store of these images, or `--teacher T`."
        )
    return str(store.header.teacher.get("name")), store.gather(rows)


def _ask(
    images: Manifest, setup: Any, progress: bool, clock: Callable[[], float]
) -> tuple[np.ndarray, float]:
    """Returns the teacher's logits, and its seconds for one image.

    The first of several batches, which compiles the model, is not timed.
    """
    from streamkd.teachers.rendered_blocks import Blocks
    from streamkd.teachers.teacher_pass import TeacherPass

    blocks = list(Blocks(len(images), setup.batch_size))
    logits, times = [], [clock()]
    teacher_pass = TeacherPass(setup, images, os.devnull)  # writes nothing before `run`
    with image_progress(len(images), 0, "asking", progress) as bar:
        for answer in teacher_pass.answers(blocks):
            teacher_pass.check_num_classes(answer.logits.shape[1])
            logits.append(answer.logits)
            times.append(clock())
            bar.update(len(answer.logits))
    first_timed = 1 if len(blocks) > 1 else 0
    num_timed = sum(map(len, blocks[first_timed:]))
    return np.concatenate(logits), (times[-1] - times[first_timed]) / num_timed


def _fitting_codecs(names: Sequence[str] | None, num_classes: int) -> list[Codec]:
    """Returns the codecs to compare; a codec that the user names must fit."""
    if names is None:
        default = map(get_codec, CODECS)
        return [codec for codec in default if 2 * getattr(codec, "num_kept", 0) <= num_classes]
    named = [get_codec(name) for name in names]
    for codec in named:
        codec.check_num_classes(num_classes)
    return named


def _compare(
    codec: Codec, logits: np.ndarray, images: Manifest, views: Views, is_sigmoid: bool
) -> CodecPlan:
    """Returns the plan of one codec."""
    num_bytes = store_bytes(images, codec, logits.shape[1], views)
    fits = bool((np.abs(logits) <= codec.largest).all())
    measured = fidelity.measure(codec, logits, sigmoid=is_sigmoid) if fits else None
    return CodecPlan(
        codec=codec.name,
        row_bytes=fidelity.row_bytes(codec, logits.shape[1]),
        bytes_per_image=num_bytes / len(images),
        num_bytes=num_bytes,
        kl=None if measured is None else {str(t): kl for t, kl in measured.divergences.items()},
        agreement=None if measured is None else measured.agreement,
    )


def store_bytes(images: Manifest, codec: Codec, num_classes: int, views: Views) -> int:
    """Returns the bytes of a store of these images, without up to 200 kB between its datasets."""
    class_names = encode_class_names(images.class_names or [])
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
        num_class_bytes=len(class_names.data),
        num_class_names=len(class_names),
    )
    return USERBLOCK_BYTES + sum(spec.num_bytes for spec in specs.values())


def _recommended(compared: list[CodecPlan], max_kl: float) -> str:
    for entry in compared:  # the smallest store first
        if entry.kl is not None and max(entry.kl.values()) <= max_kl:
            return entry.codec
    return "float32"

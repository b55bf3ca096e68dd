"""The commands except `train`: each turns flags into one call of the library, and its answer.

    answer = commands.scan(args)
    answer.fields["num_images"], answer.exit_code

Heavy libraries are imported when a function first uses them, as `kd` does, so that `--help` and
early refusals come at once.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import streamkd as kd
from streamkd.cli import files, flags, pixel_flags, store_flags, teacher_flags
from streamkd.cli.answer import Answer
from streamkd.cli.collect_warnings import with_warnings
from streamkd.codes import warn
from streamkd.errors import OptionError
from streamkd.image_options import MAX_PIXELS
from streamkd.manifest.notes import notes_of
from streamkd.reports import MAX_LISTED
from streamkd.tf_support.quiet_import import import_tensorflow


def scan(args: argparse.Namespace) -> Answer:
    """Lists the images; with --check, opens every one."""
    class_names = files.read_class_names(args.class_names)
    if args.out:
        files.check_out(args.out, kind="manifest")
    if args.max_pixels != MAX_PIXELS and not args.check:
        raise OptionError(
            "--max-pixels limits the images that are decoded, and scan decodes nothing.\n"
            "Add `--check`, or leave --max-pixels out."
        )
    if args.color_mode != "rgb" and not args.check:
        raise OptionError(
            "--color-mode says to which channels images are decoded, and scan decodes nothing.\n"
            "Add `--check`, or leave --color-mode out."
        )
    if (args.exif or args.background) and not args.check:
        raise OptionError(
            "--exif and --background say how images are decoded, and scan decodes nothing.\n"
            "Add `--check`, or leave them out."
        )
    manifest = flags.scan_images(args, class_names=class_names)
    empty_classes = manifest.empty_classes
    fields: dict[str, Any] = {
        "num_images": manifest.num_images,
        "num_classes": manifest.num_classes,
        "class_names": _capped(manifest.class_names),
        "class_counts": _capped(manifest.class_counts),
        "num_empty_classes": None if empty_classes is None else len(empty_classes),
        "empty_classes": _capped(empty_classes),
        "fingerprint": manifest.fingerprint,
        "notes": [note.fields() for note in notes_of(manifest)],
    }
    if args.out:
        manifest.write(args.out)
        fields["manifest"] = args.out
    if not args.check:
        return Answer(fields)
    import_tensorflow()
    from streamkd.pixels.check_images import check_images

    report = check_images(
        manifest,
        max_pixels=args.max_pixels,
        color_mode=args.color_mode,
        exif=args.exif or "ignore",
        background=args.background,
        progress=not args.quiet,
    )
    fields["notes"] += [note.fields() for note in report.notes]
    fields |= {
        "num_bytes": report.num_bytes,
        "formats": report.formats,
        "num_bad": len(report.bad),
        "bad": report.bad[:MAX_LISTED],
    }
    from streamkd.pixels.same_content import notes_of_content

    fields["notes"] += [note.fields() for note in notes_of_content(manifest)]
    return Answer(fields, exit_code=1 if report.bad else 0)


def _warned_notes(manifest: kd.Manifest) -> list[dict[str, Any]]:
    """Warns of each note of the images; returns the notes as JSON objects."""
    notes = notes_of(manifest)
    for note in notes:
        warn("odd_images", str(note), stacklevel=2)
    return [note.fields() for note in notes]


@with_warnings
def teach(args: argparse.Namespace) -> Answer:
    """Asks the teacher about every image, once."""
    files.check_out(args.out, kind="store")
    class_names = files.read_class_names(args.class_names)
    views = flags.views(args, args.views)
    manifest = flags.scan_images(args)
    notes = _warned_notes(manifest)
    teacher = _load_teacher(args)  # imports TensorFlow without its messages, before `kd.teach` does
    before = store_flags.rows_at(args.out)
    store = kd.teach(
        manifest,
        teacher,
        args.out,
        batch_size=args.batch_size,
        codec=args.codec,
        class_names=class_names,
        views=views,
        shard=args.shard,
        on_bad=args.on_bad,
        cache=args.cache,
        cache_directory=args.cache_directory,
        cache_bytes=args.cache_bytes,
        progress=not args.quiet,
        **pixel_flags.pixels(args),
    )
    from streamkd.teachers.teach import refused_images

    refused = refused_images(manifest, store)
    return Answer(
        {
            **store_flags.described(store),
            "outcome": store_flags.outcome(before, store),
            "num_refused": len(refused),
            "refused": _with_reasons(manifest, refused, args.max_pixels),
            "cache": pixel_flags.kept_pixels(args, manifest, store),
            "notes": notes,
        }
    )


def plan(args: argparse.Namespace) -> Answer:
    """Compares codecs on logits of the real teacher."""
    from streamkd.teachers import plan as plan_module

    plan_module.check_source(args.store, args.teacher)
    class_names = files.read_class_names(args.class_names)
    manifest = flags.scan_images(args)
    report = plan_module.plan(
        manifest,
        store=store_flags.open_stores(args),
        teacher=None if args.teacher is None else _load_teacher(args),
        views=args.views,
        codecs=args.codecs,
        max_kl=args.max_kl,
        sample=args.sample,
        seed=args.seed,
        batch_size=args.batch_size,
        class_names=class_names,
        progress=not args.quiet,
        **pixel_flags.pixels(args),
    )
    return Answer(report, text=plan_module.describe(report))


@with_warnings
def import_(args: argparse.Namespace) -> Answer:
    """Writes a store of logits made elsewhere."""
    files.check_out(args.out, kind="store")
    class_names = files.read_class_names(args.class_names)
    manifest = flags.scan_images(args)
    notes = _warned_notes(manifest)
    before = store_flags.rows_at(args.out)
    store = kd.import_logits(
        args.logits,
        args.keys,
        manifest,
        args.out,
        output=args.teacher_output,
        teacher=args.teacher_name,
        logits_dataset=args.logits_dataset,
        keys_dataset=args.keys_dataset,
        class_names=class_names,
        batch_size=args.batch_size,
        codec=args.codec,
        progress=not args.quiet,
        **pixel_flags.pixels(args),
    )
    num_without = len(manifest) - store.num_images
    described = store_flags.described(store)
    outcome = store_flags.outcome(before, store)
    return Answer(
        {
            **described,
            "outcome": outcome,
            "num_images_without_logits": num_without,
            "notes": notes,
        }
    )


def verify(args: argparse.Namespace) -> Answer:
    """Says whether a store is sound."""
    images = None
    if args.images is not None:
        images = flags.scan_images(args, default_labels=_labels_of_store(args.store))
    report = kd.verify(args.store, images=images, sample=args.sample, progress=not args.quiet)
    fields = {
        "sound": report.sound,
        "rows_checked": report.rows_checked,
        "rows_done": report.rows_done,
        "rows_total": report.rows_total,
        "num_problems": report.num_problems,
        "problems": [_with_key_text(problem) for problem in report.problems[:MAX_LISTED]],
    }
    return Answer(fields, exit_code=0 if report.sound else 1)


def inspect(args: argparse.Namespace) -> Answer:
    """Says what a store holds, or how far the teachers of several agree."""
    if not args.other_stores:
        for flag in ("combine", "dustbin", "oversampling", "sample"):
            if getattr(args, flag) is not None:
                raise OptionError(
                    f"--{flag} is for several stores, and there is one.\n"
                    f"Add another store, or leave --{flag} out."
                )
        return Answer(store_flags.described(kd.open_store(args.store)))
    stores = [args.store, *args.other_stores]
    store = store_flags.combined(stores, args.combine, args.dustbin, args.oversampling)
    from streamkd.ensemble import comparison

    report = kd.compare_stores(store, sample=args.sample, progress=not args.quiet)
    fields = {**store.describe(), "comparison": report}
    return Answer(fields, text=comparison.as_text(report))


@with_warnings
def evaluate(args: argparse.Namespace) -> Answer:
    """Says how good a model is on images."""
    class_names = files.read_class_names(args.class_names)
    teacher_class_map = files.read_teacher_class_map(args.teacher_class_map)
    manifest = flags.scan_images(args)
    files.check_model(args.model, "model", may_be_asked=True)
    import_tensorflow()
    from streamkd.results.evaluated_teacher import is_asked_as_teacher

    as_teacher = teacher_flags.are_given(args) or is_asked_as_teacher(args.model)
    report = kd.evaluate(
        teacher_flags.load(args, args.model) if as_teacher else args.model,
        manifest,
        store=store_flags.open_stores(args),
        class_names=class_names,
        teacher_class_map=teacher_class_map,
        model_output=args.output,
        batch_size=args.batch_size,
        trust=args.trust,
        progress=not args.quiet,
        **pixel_flags.pixels(args),
    )
    return Answer(report)


def demo(args: argparse.Namespace) -> Answer:
    """Runs a whole distillation on real handwritten digits."""
    files.check_out(args.out, kind="run directory")
    import_tensorflow()
    from streamkd.cli.demo import as_text, run_demo

    fields = run_demo(Path(args.out), seed=args.seed, progress=not args.quiet)
    return Answer(fields, text=as_text(fields))


def _load_teacher(args: argparse.Namespace) -> kd.Teacher:
    """Returns the teacher that the flags describe."""
    files.check_model(args.teacher, "teacher")
    return teacher_flags.load(args, args.teacher, args.teacher_name)


def _labels_of_store(path: str) -> str:
    """Returns how to list the images of a store: by class if the store has labels."""
    from streamkd.errors import DamagedStoreError
    from streamkd.store.collection import flatten

    try:
        base = flatten([kd.open_store(path)])[0]
        return "inferred" if base.class_names and (base.labels >= 0).any() else "none"
    except DamagedStoreError:  # verify is about to say so
        return "none"


def _capped(values: list | None) -> list | None:
    return None if values is None else values[:MAX_LISTED]


def _with_reasons(manifest: kd.Manifest, refused: Any, max_pixels: int) -> list[dict[str, Any]]:
    """Returns the first refused images, each with its fault now; None if it has been repaired."""
    from streamkd.keys import key_fields
    from streamkd.pixels.bad_images import why_bad

    return [
        {
            **key_fields(manifest.keys[index]),
            "reason": why_bad(manifest.path(index), max_pixels=max_pixels),
        }
        for index in refused[:MAX_LISTED].tolist()
    ]


def _with_key_text(problem: dict[str, Any]) -> dict[str, Any]:
    """Returns a problem of a store with its key as JSON fields instead of bytes."""
    from streamkd.keys import key_fields

    key = problem["key"]
    return problem | key_fields(key) if isinstance(key, bytes) else problem

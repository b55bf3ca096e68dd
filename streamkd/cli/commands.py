"""What each command does: flags in, one dict out, and the exit code.

Heavy libraries are imported where they are needed, so that `--help` and every refusal that needs
none of them answer at once.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from streamkd.cli import flags
from streamkd.errors import OptionError
from streamkd.image_options import MAX_PIXELS
from streamkd.reports import MAX_LISTED
from streamkd.tf_support.quiet_import import import_tensorflow

Answer = tuple[dict[str, Any], int]


def scan(args: argparse.Namespace) -> Answer:
    """Lists the images; with --check, opens every one."""
    names = flags.read_class_names(args.class_names)
    if args.out:
        flags.check_out(args.out, what="manifest")
    if args.max_pixels != MAX_PIXELS and not args.check:
        raise OptionError(
            "--max-pixels is a limit of what is decoded, and scan decodes nothing.\n"
            "Add `--check`, or leave it out."
        )
    manifest = flags.scan_images(args, class_names=names)
    answer: dict[str, Any] = {
        "num_images": manifest.num_images,
        "num_classes": manifest.num_classes,
        "class_names": _capped(manifest.class_names),
        "class_counts": _capped(manifest.class_counts),
        **_empty_classes(manifest.empty_classes),
        "fingerprint": manifest.fingerprint,
    }
    if args.out:
        manifest.write(args.out)
        answer["manifest"] = args.out
    if not args.check:
        return answer, 0
    import_tensorflow()
    from streamkd.pixels.check_images import check_images

    report = check_images(manifest, max_pixels=args.max_pixels, progress=not args.quiet)
    answer |= {
        "num_bytes": report.num_bytes,
        "formats": report.formats,
        "num_bad": len(report.bad),
        "bad": report.bad[:MAX_LISTED],
    }
    return answer, 1 if report.bad else 0


def _empty_classes(names: list[str] | None) -> dict[str, Any]:
    """Returns the classes that have no image, with their number."""
    return {
        "num_empty_classes": None if names is None else len(names),
        "empty_classes": _capped(names),
    }


def teach(args: argparse.Namespace) -> Answer:
    """Asks the teacher about every image, once."""
    flags.check_out(args.out, what="store")
    names = flags.read_class_names(args.class_names)
    views = flags.views(args, args.views)
    manifest = flags.scan_images(args)
    teacher = _load_teacher(args)
    from streamkd.teachers.teach import refused_images
    from streamkd.teachers.teach import teach as run_teach

    store = run_teach(
        manifest,
        teacher,
        args.out,
        batch_size=args.batch_size,
        codec=args.codec,
        class_names=names,
        views=views,
        shard=args.shard,
        on_bad=args.on_bad,
        progress=not args.quiet,
        **flags.pixels(args),
    )
    refused = refused_images(manifest, store)
    reasons = _with_reasons(manifest, refused, args.max_pixels)
    return {**store.describe(), "num_refused": len(refused), "refused": reasons}, 0


def _with_reasons(manifest: Any, refused: Any, max_pixels: int) -> list[dict[str, Any]]:
    """Returns the first of some bad images with what is wrong with them now, if it still is."""
    from streamkd.manifest.manifest import key_fields
    from streamkd.pixels.bad_images import why_bad

    return [
        {
            **key_fields(manifest.keys[index]),
            "reason": why_bad(manifest.path(index), max_pixels=max_pixels),
        }
        for index in refused[:MAX_LISTED].tolist()
    ]


def plan(args: argparse.Namespace) -> Answer:
    """Compares codecs on logits of the real teacher."""
    from streamkd.teachers import plan as plan_module

    plan_module.check_source(args.store, args.teacher)
    names = flags.read_class_names(args.class_names)
    manifest = flags.scan_images(args)
    report = plan_module.plan(
        manifest,
        store=args.store,
        teacher=None if args.teacher is None else _load_teacher(args),
        views=args.views,
        codecs=args.codecs,
        max_kl=args.max_kl,
        sample=args.sample,
        seed=args.seed,
        batch_size=args.batch_size,
        class_names=names,
        progress=not args.quiet,
        **flags.pixels(args),
    )
    if not args.json:
        return {**report.to_dict(), "text": plan_module.describe(report)}, 0
    return report.to_dict(), 0


def import_(args: argparse.Namespace) -> Answer:
    """Writes a store of logits made elsewhere."""
    flags.check_out(args.out, what="store")
    names = flags.read_class_names(args.class_names)
    from streamkd.manifest.manifest import scan as scan_directory
    from streamkd.teachers.import_logits import import_logits

    manifest = scan_directory(args.images, labels=flags.read_labels(args.labels))
    store = import_logits(
        args.logits,
        args.keys,
        manifest,
        args.out,
        output=args.teacher_output,
        teacher=args.teacher_name,
        class_names=names,
        batch_size=args.batch_size,
        codec=args.codec,
        progress=not args.quiet,
        **flags.pixels(args),
    )
    return {
        **store.describe(),
        "num_images_without_logits": len(manifest) - store.num_images,
    }, 0


def merge(args: argparse.Namespace) -> Answer:
    """Makes one store of several."""
    flags.check_out(args.out, what="store")
    if args.index and args.images is not None:
        raise OptionError("--index lists whole stores; leave --images out, or --index.")
    images = _scan_unlabelled(args.images)
    from streamkd.store.merge import merge as run_merge

    report = run_merge(
        args.stores, args.out, images=images, index=args.index, progress=not args.quiet
    )
    return {
        **report.store.describe(),
        "num_superseded": report.num_superseded,
        "num_dropped": report.num_dropped,
    }, 0


def verify(args: argparse.Namespace) -> Answer:
    """Says whether a store is sound."""
    images = None
    if args.images is not None:
        from streamkd.manifest.manifest import scan as scan_directory

        images = scan_directory(args.images, labels=_labels_of_store(args.store))
    from streamkd.store.verify import verify as run_verify

    report = run_verify(args.store, images=images, sample=args.sample, progress=not args.quiet)
    answer = {
        "sound": report.sound,
        "rows_checked": report.rows_checked,
        "rows_done": report.rows_done,
        "rows_total": report.rows_total,
        "num_problems": report.num_problems,
        "problems": [_with_key_text(problem) for problem in report.problems[:MAX_LISTED]],
    }
    return answer, 0 if report.sound else 1


def inspect(args: argparse.Namespace) -> Answer:
    """Says what a store holds."""
    from streamkd.store.collection import open_store

    return open_store(args.store).describe().to_dict(), 0


def evaluate(args: argparse.Namespace) -> Answer:
    """Says how good a model is on some images."""
    manifest = flags.scan_images(args)
    _check_exists(args.model, "model")
    import_tensorflow()
    from streamkd.results.evaluate import evaluate as run_evaluate

    report = run_evaluate(
        args.model,
        manifest,
        store=args.store,
        class_names=flags.read_class_names(args.class_names),
        batch_size=args.batch_size,
        trust=args.trust,
        progress=not args.quiet,
        **flags.pixels(args),
    )
    return report, 0


def export(args: argparse.Namespace) -> Answer:
    """Writes a student as an ordinary model."""
    _check_exists(args.model, "model")
    flags.check_out(args.out, what="model")
    images = _scan_unlabelled(args.images)
    import_tensorflow()
    from streamkd.results.export import export as run_export

    report = run_export(
        args.model,
        args.out,
        format=args.format,
        images=images,
        image_size=args.image_size,
        trust=args.trust,
        progress=not args.quiet,
    )
    return report, 0 if report["parity"] else 1


def demo(args: argparse.Namespace) -> Answer:
    """Runs a whole distillation on real handwritten digits."""
    flags.check_out(args.out, what="run directory")
    import_tensorflow()
    from streamkd.cli.demo import run_demo

    answer = run_demo(Path(args.out), seed=args.seed, progress=not args.quiet)
    if args.json:
        answer.pop("text")
    return answer, 0


def _labels_of_store(path: str) -> str | None:
    """Returns how to list the images of a store: by class where it has labels."""
    from streamkd.errors import DamagedStoreError
    from streamkd.store.collection import flatten, open_store

    try:
        base = flatten([open_store(path)])[0]
        return "inferred" if base.class_names and (base.labels >= 0).any() else None
    except DamagedStoreError:  # which is what verify is about to say
        return None


def _capped(values: list | None) -> list | None:
    return None if values is None else values[:MAX_LISTED]


def _with_key_text(problem: dict[str, Any]) -> dict[str, Any]:
    """Returns a problem of a store with its key as JSON fields instead of bytes."""
    from streamkd.manifest.manifest import key_fields

    key = problem["key"]
    return problem | key_fields(key) if isinstance(key, bytes) else problem


def _load_teacher(args: argparse.Namespace) -> Any:
    """Returns the teacher that the flags describe."""
    _check_exists(args.teacher, "teacher")
    import_tensorflow()
    from streamkd.teachers.load_teacher import load_teacher

    return load_teacher(
        args.teacher,
        preprocess=args.preprocess,
        output=args.teacher_output,
        drop_output=args.drop_output,
        trust=args.trust,
    )


def _scan_unlabelled(path: str | None) -> Any:
    """Returns the images of a directory whose labels play no part; None where there is none."""
    if path is None:
        return None
    from streamkd.manifest.manifest import scan as scan_directory

    return scan_directory(path, labels=None)


def _check_exists(path: str, what: str) -> None:
    """Refuses a model that is not there before TensorFlow is imported."""
    from streamkd.errors import StudentError, TeacherError

    if not Path(path).exists():
        refusal = TeacherError if what == "teacher" else StudentError
        raise refusal(f"There is no {what} at {path}.\nGive the path of a saved `.keras` file.")

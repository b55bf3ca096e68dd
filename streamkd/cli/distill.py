"""`streamkd distill`: from flags to a job, and its answer.

    answer = distill(args)
    answer.fields["accuracy"], answer.fields["baseline_accuracy"]

The flags themselves are in `distill_flags`.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from streamkd.cli import files, flags, pixel_flags, teacher_flags
from streamkd.cli.answer import Answer
from streamkd.cli.collect_warnings import with_warnings
from streamkd.cli.signals import StopSignals
from streamkd.codes import warn
from streamkd.manifest.notes import notes_of
from streamkd.tf_support.quiet_import import import_tensorflow

# Flags that become words of the printed commands, unless they have their default.
_OF_SCAN = {"labels": "inferred", "class_map": None, "follow_links": False, "root": None}
_OF_SCAN_OTHER = {"follow_links": False, "class_map": None}
_OF_TEACHER = {
    "teacher": None,
    "preprocess": "none",
    "output": None,
    "teacher_output": "auto",
    "class_names": None,
    "drop_output": None,
    "teacher_name": None,
    "queries_per_second": None,
    "concurrency": None,
    "timeout": None,
}
_OF_ALL = {"imports": None}
_FLAG_OF = {"imports": "--import"}


@with_warnings
def distill(args: argparse.Namespace) -> Answer:
    """Does the whole job, or what is still to be done of it."""
    files.check_out(args.out, kind="run directory")
    flags.refuse_subset(args, "measure on")
    class_names = files.read_class_names(args.class_names)
    images = flags.scan_side(args, None)
    for note in notes_of(images):
        warn("odd_images", str(note), stacklevel=2)
    validation = flags.scan_other(args, args.validation) if args.validation else None
    files.check_model(args.teacher, "teacher")
    import_tensorflow()
    from streamkd.whole_job.distill import SETTINGS, DistillReport, Words, prepare
    from streamkd.whole_job.job import Job

    pixels = pixel_flags.pixels(args)
    given = {name: getattr(args, name) for name in SETTINGS}
    request = prepare(
        images,
        teacher_flags.load(args, args.teacher, args.teacher_name),
        args.student,
        args.out,
        validation=validation,
        validation_split=args.validation_split,
        baseline=args.baseline,
        budget=args.budget,
        image_size=pixels.pop("image_size", None),
        class_names=class_names,
        student_preprocess=args.student_preprocess,
        seed=args.seed,
        trust=args.trust,
        progress=not args.quiet,
        settings={name: _setting(value) for name, value in given.items() if value is not None},
        words=Words(
            scan=[args.images, *_words(args, _OF_SCAN)],
            scan_validation=[args.validation, *_words(args, _OF_SCAN_OTHER)],
            teacher=_words(args, _OF_TEACHER),
            common=_words(args, _OF_ALL),
            imports=list(args.imports or []),
        ),
        pixels=pixels,
        stopping=StopSignals,
    )
    report = DistillReport(**Job(request).run())
    return Answer(report, text=answer_text(report))


def _setting(value: Any) -> Any:
    """Returns a setting as Python takes it: pairs are tuples."""
    return tuple(value) if isinstance(value, list) else value


def _words(args: argparse.Namespace, defaults: dict[str, Any]) -> list[str]:
    """Returns the flags that do not have their defaults, as words."""
    words: list[str] = []
    for name, default in defaults.items():
        value = getattr(args, name)
        if value == default:
            continue
        flag = _FLAG_OF.get(name, f"--{name.replace('_', '-')}")
        for part in value if isinstance(value, list) else [value]:
            words += [flag] if part is True else [flag, str(part)]
    return words


def answer_text(report: Any) -> str:
    """Returns the answer as a person reads it: one line a model, then the commands."""
    rows = [
        ("teacher", report.teacher_accuracy, None),
        ("student, distilled", report.accuracy, report.num_errors),
        ("student, labels alone", report.baseline_accuracy, report.baseline_num_errors),
    ]
    lines = ["", f"On {report.num_images:,} images that the students did not learn from:"]
    for name, accuracy, errors in rows:
        if accuracy is None:
            continue
        wrong = "" if errors is None else f", {errors:,} errors"
        lines.append(f"  {name:<22} {accuracy:.1%} right{wrong}")
    if report.accuracy is None:
        lines[-1:] = ["", "No accuracy is known: these images have no classes."]
    if _lost_to_labels(report):
        lines += [
            "",
            "The student from labels alone made fewer errors: on these images the teacher does not "
            "help. Give more",
            "epochs (`--epochs`, or a larger `--budget`), or a better teacher.",
        ]
    lines += ["", f"The student is {Path(report.run) / 'student.keras'}."]
    lines += ["", "The same steps by hand:", *(f"  {line}" for line in report.commands)]
    return "\n".join(lines)


def _lost_to_labels(report: Any) -> bool:
    """Returns whether the baseline made fewer errors."""
    errors, baseline = report.num_errors, report.baseline_num_errors
    return errors is not None and baseline is not None and baseline < errors

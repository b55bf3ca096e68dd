"""The command `export`: writes a student for other programs, and says how the two compare.

answer = export(args)
"""

from __future__ import annotations

import argparse
from typing import Any

import streamkd as kd
from streamkd.cli import files, flags
from streamkd.cli.answer import Answer
from streamkd.reports import readable_bytes
from streamkd.tf_support.quiet_import import import_tensorflow


def export(args: argparse.Namespace) -> Answer:
    """Writes a student for other programs, and compares the two."""
    files.check_model(args.model, "model")
    files.check_out(args.out, kind="model")
    class_names = files.read_class_names(args.class_names)
    images = None if args.images is None else flags.scan_images(args, default_labels="none")
    import_tensorflow()
    report = kd.export(
        args.model,
        args.out,
        format=args.format,
        precision=args.precision,
        max_images=args.max_images,
        class_names=class_names,
        images=images,
        image_size=args.image_size,
        model_output=args.output,
        trust=args.trust,
        progress=not args.quiet,
    )
    return Answer(report, exit_code=0 if report.parity else 1, text=_text(report))


def _text(report: Any) -> str:
    """Returns the words for an `ExportReport`: what was written, and how it compares."""
    precision = "" if report.format == "keras" else f" ({report.format}, {report.precision})"
    lines = [f"Wrote {report.path}{precision}."]
    if report.class_names_path:
        lines.append(f"Its class names, in the order of the outputs: {report.class_names_path}")
    rows = (
        ("", "original", "export"),
        ("size", readable_bytes(report.original_bytes), readable_bytes(report.num_bytes)),
        (
            "one image",
            f"{report.original_latency_ms:.3g} ms",
            f"{report.latency_ms:.3g} ms",
        ),
    )
    lines += [f"  {name:<12}{before:>12}{after:>12}" for name, before, after in rows]
    lines.append(
        f"On {report.num_images:,} images both choose the same class for "
        f"{report.agreement:.1%}; the largest difference of an output is "
        f"{report.max_abs_difference:.2g} ({report.tolerance:.2g} is allowed)."
    )
    if not report.parity:
        lines.append(
            "The export answers otherwise than the original. Do not use it: give another "
            "--precision or --format."
        )
    return "\n".join(lines)

"""What `streamkd export` tells a person.

print(export_text(report))
"""

from __future__ import annotations

from typing import Any

from streamkd.reports import readable_bytes


def export_text(report: Any) -> str:
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

"""What a comparison of teachers reports, as JSON keys and as lines of text.

report.teachers[0].accuracy, report.pairs[0].agreement
print(as_text(report))
"""

from __future__ import annotations

import os
from typing import Any

from streamkd.reports import Report, readable_bytes

# Pairs of classes that are listed of each pair of teachers.
MAX_CONTRADICTIONS = 10


class ComparedTeacher(Report):
    """One teacher of a combination.

    Attributes:
      store: path of its store.
      teacher: its name.
      weight: its weight in the combination; None where it has one for each class.
      num_bytes, num_images, num_classes: of its store; the classes without a dustbin.
      num_labelled: compared images that have a label, of a class that the teacher knows.
      accuracy: fraction of these images that the teacher gets right; None without any.
      combined_accuracy: fraction of the same images that the combination gets right.
    """

    store: str
    teacher: str | None
    weight: float | None
    num_bytes: int
    num_images: int
    num_classes: int
    num_labelled: int
    accuracy: float | None
    combined_accuracy: float | None


class ComparedPair(Report):
    """Two teachers, compared on the classes that both know.

    An image whose label is a class that one of them does not know is left out. Each teacher chooses
    among the shared classes.

    Attributes:
      first, second: paths of the stores.
      num_shared_classes: number of classes that both know.
      num_images: images that were compared.
      agreement: fraction of them for which both choose the same class; None with fewer than two
        shared classes. Of independent labels: the fraction of all labels decided alike.
      divergence: mean Jensen-Shannon divergence in nats, from 0 to 0.693; None where
        `agreement` is.
      num_contradictions: number of different pairs of classes that contradict each other.
      contradictions: the most frequent of them, at most `MAX_CONTRADICTIONS`: `first_class` and
        `second_class`, which the teachers choose (None for a label that a teacher denies), `count`
        of images, and `examples`, keys of up to three of them.
    """

    first: str
    second: str
    num_shared_classes: int
    num_images: int
    agreement: float | None
    divergence: float | None
    num_contradictions: int
    contradictions: list[dict[str, Any]]


class StoreComparison(Report):
    """The teachers of a combination, compared with each other and with the labels.

    Attributes:
      num_stores, num_bytes: number of teachers, and bytes of all their stores.
      num_images: images that all teachers have answered, of `images` where they are given.
      num_compared: images that were looked at: all, or a sample.
      num_classes: number of the combination's classes.
      rule: how answers are combined.
      num_labelled: compared images that have a label, of a class that a teacher knows.
      accuracy: fraction of these images that the combination gets right; None without any.
      teachers: one `ComparedTeacher` for each of the first `MAX_LISTED` stores.
      num_pairs: number of pairs of teachers.
      pairs: one `ComparedPair` for each of the first `MAX_LISTED` pairs.
      num_unknown_classes: number of classes of `images` that no teacher knows.
      unknown_classes: the first `MAX_LISTED` of them.
      activation: 'sigmoid' for teachers of independent labels; else absent.
    """

    num_stores: int
    num_bytes: int
    num_images: int
    num_compared: int
    num_classes: int
    rule: str
    num_labelled: int
    accuracy: float | None
    teachers: list[ComparedTeacher]
    num_pairs: int
    pairs: list[ComparedPair]
    num_unknown_classes: int
    unknown_classes: list[str]


def as_text(report: StoreComparison) -> str:
    """Returns a comparison as lines of text."""
    lines = [
        f"{report.num_stores} teachers, {report.num_classes:,} classes together, "
        f"{readable_bytes(report.num_bytes)}; {report.num_images:,} images that all have "
        f"answered, {report.num_compared:,} compared; combined by {report.rule}",
        "",
        f"{'teacher':<32} {'classes':>7} {'size':>8} {'labelled':>8} {'right':>8}  "
        "combination on the same images",
    ]
    for teacher in report.teachers:
        lines.append(
            f"{_short(teacher.store):<32} {teacher.num_classes:>7,} "
            f"{readable_bytes(teacher.num_bytes):>8} {teacher.num_labelled:>8,} "
            f"{_percent(teacher.accuracy):>8}  {_percent(teacher.combined_accuracy)}"
        )
    lines.append(
        f"{'all together':<32} {report.num_classes:>7,} {readable_bytes(report.num_bytes):>8} "
        f"{report.num_labelled:>8,} {_percent(report.accuracy):>8}"
    )
    if len(report.teachers) < report.num_stores:
        lines.append(f"the first {len(report.teachers)} of {report.num_stores} teachers")
    if report.num_unknown_classes:
        lines.append(
            f"no teacher knows {report.num_unknown_classes:,} classes of the images: "
            + ", ".join(report.unknown_classes)
        )
    for pair in report.pairs:
        lines += ["", *_lines_of_pair(pair)]
    if len(report.pairs) < report.num_pairs:
        lines.append(f"the first {len(report.pairs)} of {report.num_pairs} pairs of teachers")
    return "\n".join(lines)


def _lines_of_pair(pair: ComparedPair) -> list[str]:
    names = f"{_short(pair.first)} and {_short(pair.second)}"
    if pair.agreement is None:
        return [f"{names}: {pair.num_shared_classes} shared classes, nothing to compare"]
    lines = [
        f"{names}: {pair.num_shared_classes:,} shared classes, {pair.num_images:,} images, "
        f"the same class on {_percent(pair.agreement)}, divergence {pair.divergence:.3g} nats"
    ]
    for entry in pair.contradictions:
        first, second = (
            "not it" if name is None else name
            for name in (entry["first_class"], entry["second_class"])
        )
        examples = ", ".join(example["key"] for example in entry["examples"])
        lines.append(f"  {entry['count']:>7,}  {first} against {second}: {examples}")
    left = pair.num_contradictions - len(pair.contradictions)
    return [*lines, f"           and {left:,} more pairs of classes"] if left else lines


def _percent(fraction: float | None) -> str:
    return "-" if fraction is None else f"{fraction:.2%}"


def _short(path: str) -> str:
    """Returns the name of a file."""
    return os.path.basename(path) or path

"""The answer of a sweep: the table, the picture, the best student and its command.

report = report_of(request, file, "val_accuracy")
print(describe(report, request.settings))
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from typing import Any

from streamkd import disk
from streamkd.errors import NonFiniteError, OptionError
from streamkd.reports import Report
from streamkd.sweeps.choice import COLUMNS, CRITERIA, FINISHED, as_text, ranked
from streamkd.sweeps.grid import Setting, text_of
from streamkd.sweeps.picture import draw
from streamkd.sweeps.request import Request
from streamkd.sweeps.sweep_file import SweepFile

# Files in the directory of a sweep.
TABLE, PICTURE = "sweep.csv", "sweep.png"


class SweepReport(Report):
    """What a sweep came to.

    Attributes:
      criterion: what decided: 'val_accuracy', or 'kl_to_teacher' for images without labels.
      num_images, num_validation_images: images to learn from, and those that decided.
      students: one dict a student, the best first: rank, run, its settings, status ('finished',
        'diverged' or 'failed'), val_accuracy, val_loss (nats), kl_to_teacher (nats), agreement,
        epochs, seconds (of its own steps) and message (of one that did not finish).
      best: the run directory of the best student.
      command: the command that trains the same student alone.
      run: the directory of the sweep.
      table, picture: paths of the same as CSV and as PNG.
    """

    criterion: str
    num_images: int
    num_validation_images: int
    students: list[dict[str, Any]]
    best: str
    command: str
    run: str
    table: str
    picture: str


def criterion_of(request: Request) -> str:
    """Returns what decides between the students.

    Raises:
      OptionError: the images that decide have no labels, and there is no teacher.
    """
    if not request.decides_by_teacher:
        return "val_accuracy"
    if request.store is not None:
        return "kl_to_teacher"
    raise OptionError(
        f"The {len(request.parts.validation):,} images that decide between the students have no "
        "labels, and there are no answers of a teacher.\nGive `--store S.h5`, or labelled images: "
        "`--validation IMAGES`."
    )


def report_of(request: Request, file: SweepFile, criterion: str) -> SweepReport:
    """Chooses, writes table and picture, and returns the report."""
    out, settings = request.out, request.settings
    rows = ranked(settings, file.outcomes, criterion, str(out))
    if rows[0]["status"] != FINISHED:
        raise NonFiniteError(
            f"None of the {len(rows)} students was trained to its end.\n"
            f"  {rows[0]['run']}: {rows[0]['message']}\n"
            "Give other values, such as a lower `--learning-rate`, and another `--out`."
        )
    text = io.StringIO()
    table = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    table.writeheader()
    for row in rows:
        values = {name: text_of(row[name]) for name in settings[0].values}
        table.writerow({**row, **values})
    with disk.refusals(str(out), ending="Make room, and give the same command again."):
        disk.write_atomically(out / TABLE, text.getvalue())
        draw(rows, settings, criterion, out / PICTURE)
    best = next(s for s in settings if rows[0]["run"] == f"{out}/{s.name}")
    return SweepReport(
        criterion=criterion,
        num_images=len(request.parts.train),
        num_validation_images=len(request.parts.validation),
        students=rows,
        best=rows[0]["run"],
        command=request.command(best),
        run=str(out),
        table=str(out / TABLE),
        picture=str(out / PICTURE),
    )


def describe(report: SweepReport, settings: Sequence[Setting]) -> str:
    """Returns the answer as a person reads it: the table, what decided, and the command."""
    reason = CRITERIA[report.criterion].format(num=report.num_validation_images)
    return "\n".join(
        [
            "",
            as_text(report.students, settings),
            "",
            f"The best is {report.best}: it has {reason}.",
            "Measure it on images that had no part in this choice.",
            f"Table: {report.table}  Picture: {report.picture}",
            "",
            "The same student alone:",
            f"  {report.command}",
        ]
    )

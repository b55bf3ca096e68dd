"""sweep.json: what a sweep was asked for, and what each of its students came to.

file = SweepFile(Path("runs/sweep"))
if not file.open(asked): file.begin(asked)
file.record("01-temperature-1", {"status": "finished", …})
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from streamkd import small_files
from streamkd.differences import another, both_sides
from streamkd.disk import write_atomically
from streamkd.errors import ResumeError
from streamkd.runs.run_directory import CHECKPOINTS, CONFIG
from streamkd.whole_job.job_file import NAME as JOB

NAME = "sweep.json"


class SweepFile:
    """The file of one sweep; it is written before the first step of the first student.

    Attributes:
      outcomes: what is known of the students that have ended, by the names of their runs.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.path = directory / NAME
        self.outcomes: dict[str, dict[str, Any]] = {}
        self._asked: dict[str, Any] = {}

    def open(self, asked: Mapping[str, Any], *, resume: bool) -> bool:
        """Reads the file; returns whether a sweep goes on here.

        Args:
          asked: compared with what is in the file.
          resume: False to start over, whatever the sweep in the file was asked for.

        Raises:
          ResumeError: the directory holds something else than this sweep, or the file is damaged.
        """
        self._asked = json.loads(json.dumps(asked))
        if not self.path.exists():
            self._refuse_others()
            return False
        if not resume:
            return False
        try:
            content = small_files.read_object(self.path)
            begun = small_files.entry(content, "asked", dict)
            outcomes = small_files.entry(content, "outcomes", dict)
            for outcome in outcomes.values():
                small_files.entry(outcome, "status", str)
        except (small_files.DamagedFileError, AttributeError) as error:
            raise ResumeError(
                f"{self.path} is damaged, so the settings of the sweep are not known: {error}.\n"
                "Start again with `--no-resume`, or give another `--out`."
            ) from error
        for name in dict.fromkeys([*begun, *self._asked]):
            if begun.get(name) != self._asked.get(name):
                self._refuse(name, begun.get(name), self._asked.get(name))
        self.outcomes = outcomes
        return True

    def _refuse_others(self) -> None:
        """Refuses a directory in which something else was begun."""
        for name, kind in (
            (JOB, "a whole job of `streamkd distill`"),
            (CONFIG, "a run of `streamkd train`"),
            (CHECKPOINTS, "a run of `streamkd train`"),
        ):
            if (self.directory / name).exists():
                raise ResumeError(
                    f"{self.directory} is {kind}, and no sweep began there.\nGive another `--out`."
                )

    def _refuse(self, name: str, begun: Any, now: Any) -> None:
        sides = both_sides({"sweep": begun, "now": now})
        raise ResumeError(
            f"The sweep {self.directory} was started with {another(name)}.\n{sides}"
            "Give the same again, start over with `--no-resume`, or give another `--out`."
        )

    def begin(self) -> None:
        """Writes what was asked for; no student has ended yet."""
        self.outcomes = {}
        self._write()

    def record(self, name: str, outcome: Mapping[str, Any]) -> None:
        """Keeps what a student came to."""
        self.outcomes[name] = dict(outcome)
        self._write()

    def _write(self) -> None:
        content = {"asked": self._asked, "outcomes": self.outcomes}
        write_atomically(self.path, json.dumps(content, indent=2) + "\n")

"""job.json: what a job was asked for, what was found, what was chosen, and its answer.

file = JobFile(Path("runs/first"))
file.begin(asked, facts, recipe)
file.recipe()                   # of a job that goes on
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from streamkd import small_files
from streamkd.disk import write_atomically
from streamkd.errors import ResumeError
from streamkd.runs.run_directory import CHECKPOINTS, CONFIG
from streamkd.whole_job.recipe_choice import Setting

NAME = "job.json"
# Settings that JSON keeps as lists.
_TUPLES = ("crop", "canonical_size")
START_AGAIN = "Give the same again, or begin another job: give another `--out`."


class JobFile:
    """The file of one job; it is written before the teacher is asked for the store."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.path = directory / NAME
        self.content: dict[str, Any] | None = None

    def open(self, asked: Mapping[str, Any], given: Mapping[str, Any]) -> bool:
        """Reads the file; returns whether a job was begun here.

        Args:
          asked: what the job was asked for, by name; compared with what is in the file.
          given: the settings that the user chose; compared with those of the job.

        Raises:
          ResumeError: the directory holds a run that is no job, the file is damaged, or the job was
            asked for something else.
        """
        if not self.path.exists():
            if (self.directory / CONFIG).exists() or (self.directory / CHECKPOINTS).exists():
                raise ResumeError(
                    f"{self.directory} is a run of `streamkd train`, and no whole job began there."
                    "\nGive another `--out`."
                )
            return False
        try:
            content = small_files.read_object(self.path)
            begun = small_files.entry(content, "asked", dict)
            chosen = small_files.entry(content, "settings", dict)
            small_files.entry(content, "given", list)
            for setting in chosen.values():
                small_files.entry(setting, "reason", str)
                setting["value"]
        except (small_files.DamagedFileError, KeyError, TypeError, AttributeError) as error:
            raise ResumeError(
                f"{self.path} is damaged, so the settings of the job are not known: {error}.\n"
                "Give another `--out`."
            ) from error
        self.content = content
        values = {name: setting["value"] for name, setting in chosen.items()}
        now = json.loads(json.dumps({**asked, **given}))
        for name, before in {**begun, **values}.items():
            dropped = name in content["given"] and name not in given
            if dropped or (name in now and now[name] != before):
                self._refuse(name, before, now.get(name, "not given"))
        return True

    def _refuse(self, name: str, before: Any, now: Any) -> None:
        raise ResumeError(
            f"The job {self.directory} was started with another {name}.\n"
            f"  job: {before}\n  now: {now}\n{START_AGAIN}"
        )

    def begin(
        self,
        asked: Mapping[str, Any],
        given: Mapping[str, Any],
        facts: Any,
        recipe: Mapping[str, Setting],
    ) -> None:
        """Writes what is known before the first step."""
        self.content = {
            "asked": dict(asked),
            "given": sorted(given),
            "facts": dataclasses.asdict(facts),
            "settings": {name: dataclasses.asdict(setting) for name, setting in recipe.items()},
            "answer": None,
        }
        self._write()

    def recipe(self) -> dict[str, Setting]:
        """Returns the settings of the job that was begun here."""
        assert self.content is not None
        return {
            name: Setting(
                tuple(entry["value"]) if name in _TUPLES and entry["value"] else entry["value"],
                entry["reason"],
            )
            for name, entry in self.content["settings"].items()
        }

    @property
    def answer(self) -> dict[str, Any] | None:
        """The answer of a job that is finished; None before."""
        return None if self.content is None else self.content.get("answer")

    def finish(self, answer: Mapping[str, Any]) -> None:
        """Keeps the answer."""
        assert self.content is not None
        self.content["answer"] = dict(answer)
        self._write()

    def _write(self) -> None:
        write_atomically(self.path, json.dumps(self.content, indent=2) + "\n")

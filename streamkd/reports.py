"""Reports: what the functions that look, measure or compare return.

report = kd.evaluate(model, images)
report.accuracy == report["accuracy"] == report.to_dict()["accuracy"]
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

# Entries of a list in a report or in `--json` output; the report also has the full number.
MAX_LISTED = 100


class Report(Mapping[str, Any]):
    """Base of frozen dataclasses whose fields are also the keys of `--json` output.

    Fields can be read as attributes and as keys. Unknown values are None.
    """

    def to_dict(self) -> dict[str, Any]:
        """Returns the fields by name, in their order, as `--json` prints them."""
        return {name: getattr(self, name) for name in self}

    def __getitem__(self, name: str) -> Any:
        if name not in self._names():
            raise KeyError(name)
        return getattr(self, name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._names())

    def __len__(self) -> int:
        return len(self._names())

    def _names(self) -> list[str]:
        own: Any = self  # Only subclasses are dataclasses.
        return [field.name for field in dataclasses.fields(own)]

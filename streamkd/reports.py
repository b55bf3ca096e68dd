"""Reports: what the functions that look, measure or compare return.

report = kd.evaluate(model, images)
report.accuracy == report["accuracy"]
json.dumps(report)                    # what `streamkd evaluate --json` prints
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, dataclass_transform

# Entries of a list in a report or in `--json` output; the report also has the full number.
MAX_LISTED = 100


@dataclass_transform(kw_only_default=True, frozen_default=True)
class Report(dict[str, Any]):
    """A dict whose keys, those of `--json` output, can also be read as attributes.

    A subclass only lists its keys with their types. Unknown values are None.
    """

    def to_dict(self) -> dict[str, Any]:
        """Returns a plain dict, as `--json` prints it."""
        return dict(self)

    if not TYPE_CHECKING:  # a type checker reads the attributes of each subclass

        def __getattr__(self, name: str) -> Any:
            if name in self:
                return self[name]
            raise AttributeError(f"{type(self).__name__} has no field {name!r}")

        def __setattr__(self, name: str, value: Any) -> None:
            raise AttributeError(f"Set a key instead: report[{name!r}] = {value!r}.")

    def __dir__(self) -> list[str]:
        return [*super().__dir__(), *self]


def readable_bytes(num_bytes: int) -> str:
    """Returns a number of bytes for a person, such as '1.23 MB'."""
    power = min(4, int(math.log(max(num_bytes, 1), 1000)))
    return f"{num_bytes / 1000**power:.3g} {['B', 'kB', 'MB', 'GB', 'TB'][power]}"

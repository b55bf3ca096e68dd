"""Names that a user imports belong to `streamkd`, in whichever module they are defined.

@public
class Manifest: ...               # Manifest.__module__ == "streamkd"
"""

from __future__ import annotations

import inspect
from typing import TypeVar

Named = TypeVar("Named")


def public(value: Named) -> Named:
    """Marks a class or function as one of `streamkd`'s own names.

    Tracebacks, reprs and pickles then say `streamkd.Manifest`, as a user types it, and a module can
    be moved without breaking a pickle.
    """
    if isinstance(value, type):
        # `typing.get_type_hints` reads names in `__module__`: they are read here in their own.
        value.__annotations__ = inspect.get_annotations(value, eval_str=True)
    value.__module__ = "streamkd"
    return value

"""Names that a user imports belong to `streamkd`, in whichever module they are defined.

@public
class Manifest: ...               # Manifest.__module__ == "streamkd"
"""

from __future__ import annotations

from typing import Any, TypeVar

Named = TypeVar("Named")


class _Module(str):
    """Reads `streamkd`, and finds the module where a class is defined.

    Tracebacks, reprs and pickles show its text. `inspect.getsource`, which a notebook's `??` calls,
    and `typing.get_type_hints` look it up in `sys.modules`, and find the module of the class.
    """

    __slots__ = ("_defined_in",)
    _defined_in: str

    def __new__(cls, shown: str, defined_in: str) -> _Module:
        text = super().__new__(cls, shown)
        text._defined_in = defined_in
        return text

    def __hash__(self) -> int:
        return hash(self._defined_in)

    def __eq__(self, other: object) -> bool:
        return other == str(self) or other == self._defined_in

    def __ne__(self, other: object) -> bool:
        return not self == other

    def __str__(self) -> str:
        return "".join(self)

    def __reduce__(self) -> tuple[Any, ...]:
        return str, (str(self),)  # a pickle names what a user imports


def public(value: Named) -> Named:
    """Marks a class or function as one of `streamkd`'s own names.

    Tracebacks, reprs and pickles then say `streamkd.Manifest`, as a user types it. Pickles are for
    processes of one version, such as workers: they are no file format.
    """
    # The source of a function is found without the name of its module. pytest-xdist sends the
    # module of a warning to another process, and can send nothing but a plain text.
    is_plain = not isinstance(value, type) or issubclass(value, Warning)
    value.__module__ = "streamkd" if is_plain else _Module("streamkd", value.__module__)
    return value

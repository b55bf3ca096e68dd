"""What a user imports belongs to `streamkd`, wherever in the package it is defined."""

from __future__ import annotations

from typing import TypeVar

Named = TypeVar("Named")


def public(value: Named) -> Named:
    """Marks a class or function as one of `streamkd`'s own names.

    Tracebacks, reprs and pickles then say `streamkd.Manifest`, which is what a user types, and
    modules can be moved without breaking a pickle.
    """
    value.__module__ = "streamkd"
    return value

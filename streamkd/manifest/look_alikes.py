"""Names that look the same and are not: what a message says of them, by their code points.

shown("caf\\u00e9")                              # "'café' ('caf\\xe9')"
difference("cat ", ["cat", "dog"])              # "  'cat ' and 'cat' differ only in blanks …\\n"

macOS writes 'é' as two characters, Linux and Windows as one. Blanks at the end, characters without
a width and letters of another alphabet come from copied text.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable

# Categories of characters that are not seen: controls, formats (zero width), and separators.
_UNSEEN = frozenset(("Cc", "Cf", "Zs", "Zl", "Zp"))


def shown(name: str) -> str:
    """Returns a name as a message shows it, with its code points if others may look like it."""
    return repr(name) if name.isascii() else f"{name!r} ({name!a})"


def difference(name: str, others: Iterable[str]) -> str:
    """Returns the line of a message on the first of `others` that looks like `name`, or ''."""
    others = [other for other in others if other != name]
    for look, words in _LOOKS:
        twin = next((other for other in others if look(other) == look(name)), None)
        if twin is not None:
            return f"  {name!a} and {twin!a} differ only in {words}\n"
    twin = next((other for other in others if _mixes_up(name, other)), None)
    return "" if twin is None else f"  {name!a} and {twin!a} have letters that look alike\n"


def pairs(names: Iterable[str]) -> list[str]:
    """Returns pairs of names that look the same, by their code points."""
    first: dict[str, str] = {}
    found, mixed = [], []
    for name in names:
        other = first.setdefault(_without_case(name), name)
        if other != name:
            found.append(f"{other!a} and {name!a}")
        elif not name.isascii() and len(_alphabets(name)) > 1:
            mixed.append(name)
    for name in mixed:
        twins = (other for other in first.values() if other != name and _mixes_up(name, other))
        found += [f"{other!a} and {name!a}" for other in twins]
    return found


def _composed(name: str) -> str:
    return unicodedata.normalize("NFC", name)


def _seen(name: str) -> str:
    """Returns a name without what is not seen, and with one form for each character."""
    text = unicodedata.normalize("NFKC", name)
    return "".join(c for c in text if unicodedata.category(c) not in _UNSEEN)


def _without_case(name: str) -> str:
    return _seen(name).casefold()


_LOOKS = (
    (_composed, "Unicode form"),
    (_seen, "blanks or characters that are not seen"),
    (_without_case, "capitals"),
)


def _mixes_up(name: str, other: str) -> bool:
    """Returns whether two names differ only in letters of different alphabets, such as a and а."""
    if len(name) != len(other):
        return False
    differing = [(a, b) for a, b in zip(name, other, strict=True) if a != b]
    return len(differing) < len(name) and all(
        _alphabets(a) and _alphabets(b) and _alphabets(a) != _alphabets(b) for a, b in differing
    )


def _alphabets(text: str) -> set[str]:
    """Returns the alphabets of the letters in a text, such as {'LATIN', 'CYRILLIC'}."""
    return {unicodedata.name(c, "").partition(" ")[0] for c in text if c.isalpha()}

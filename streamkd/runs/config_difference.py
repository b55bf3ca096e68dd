"""Where two configurations of a run differ, and how a refusal shows both sides.

name = first_difference(old, new)                        # 'batch_size', or None
both_sides(old, new, name, ("run", "now"))               # "  run: 32\\n  now: 64\\n"
"""

from __future__ import annotations

from typing import Any

from streamkd import differences

# Kept for the reader, and allowed to differ when a run goes on.
INFORMATIVE = ("versions", "platform", "initial_weights", "arguments", "class_names", "replicas")
# Of several things that differ these are named first: others are there only because of them.
NAMED_FIRST = ("optimizer", "schedule")


def first_difference(old: dict[str, Any], new: dict[str, Any]) -> str | None:
    """Returns the first name that two configurations disagree about; None where they are alike.

    Layers are held against each other as one Keras describes them: another release may say
    something else of the same ones.
    """
    if not (_has_layers(old) and _has_layers(new) and _kerases(old) == _kerases(new)):
        old, new = _without_layers(old), _without_layers(new)
    names = sorted({*old, *new} - set(INFORMATIVE), key=lambda n: (n not in NAMED_FIRST, n))
    for name in names:
        if old.get(name) != new.get(name):
            return name
    return None


def both_sides(old: dict[str, Any], new: dict[str, Any], name: str, titles: tuple[str, str]) -> str:
    """Returns two lines with what two configurations have under a name, where they differ."""
    return differences.both_sides(dict(zip(titles, (old.get(name), new.get(name)), strict=True)))


def _has_layers(config: dict[str, Any]) -> bool:
    return "layers" in config.get("student", {})


def _kerases(config: dict[str, Any]) -> list[Any]:
    return [config.get("versions", {}).get(name) for name in ("keras", "tf-keras")]


def _without_layers(config: dict[str, Any]) -> dict[str, Any]:
    student = {name: value for name, value in config.get("student", {}).items() if name != "layers"}
    return {**config, "student": student}

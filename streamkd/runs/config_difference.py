"""The first difference between two configurations of a run, and both sides of it for a refusal.

name = first_difference(old, new)                        # 'batch_size', or None
both_sides(old, new, name, ("run", "now"))               # "  run: 32\\n  now: 64\\n"
"""

from __future__ import annotations

from typing import Any

from streamkd import differences

# Entries for the reader, which may differ when a run resumes.
INFORMATIVE = ("versions", "platform", "initial_weights", "arguments", "class_names", "replicas")
# Entries named first if several differ: the others may follow from them.
NAMED_FIRST = ("optimizer", "schedule")


def first_difference(old: dict[str, Any], new: dict[str, Any]) -> str | None:
    """Returns the name of the first entry that differs; None if two configurations agree.

    Layers are compared only as one Keras describes them: another release may describe the same
    layers differently.
    """
    same_keras = _keras_versions(old) == _keras_versions(new)
    if not (_has_layers(old) and _has_layers(new) and same_keras):
        old, new = _without_layers(old), _without_layers(new)
    names = sorted({*old, *new} - set(INFORMATIVE), key=lambda n: (n not in NAMED_FIRST, n))
    for name in names:
        if old.get(name) != new.get(name):
            return name
    return None


def both_sides(old: dict[str, Any], new: dict[str, Any], name: str, titles: tuple[str, str]) -> str:
    """Returns two lines with the values of an entry in two configurations, where they differ."""
    return differences.both_sides(dict(zip(titles, (old.get(name), new.get(name)), strict=True)))


def _has_layers(config: dict[str, Any]) -> bool:
    return "layers" in config.get("student", {})


def _keras_versions(config: dict[str, Any]) -> list[Any]:
    return [config.get("versions", {}).get(name) for name in ("keras", "tf-keras")]


def _without_layers(config: dict[str, Any]) -> dict[str, Any]:
    student = {name: value for name, value in config.get("student", {}).items() if name != "layers"}
    return {**config, "student": student}

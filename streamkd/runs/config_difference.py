"""The first difference between two configurations of a run, and both sides of it for a refusal.

name = first_difference(old, new)                        # 'batch_size', or None
both_sides(old, new, name, ("run", "now"))               # "  run: 32\\n  now: 64\\n"
"""

from __future__ import annotations

from typing import Any

from streamkd import differences
from streamkd.models.layer_digests import UNKNOWN

# Entries for the reader, which may differ when a run resumes.
INFORMATIVE = (
    *("versions", "platform", "initial_weights", "arguments", "class_names", "replicas"),
    *("code", "extended"),
)
# Entries named first if several differ: the others may follow from them.
NAMED_FIRST = ("optimizer", "schedule")


def first_difference(old: dict[str, Any], new: dict[str, Any]) -> str | None:
    """Returns the name of the first entry that differs; None if two configurations agree.

    Layers are compared only as one Keras describes them: another release may describe the same
    layers differently. A layer that could not tell its settings then may tell them now.
    """
    same_keras = _keras_versions(old) == _keras_versions(new)
    if not (_has_layers(old) and _has_layers(new) and same_keras):
        old, new = _without_layers(old), _without_layers(new)
    else:
        unknown = _unknown_layers(old) | _unknown_layers(new)
        old, new = _without_layers(old, unknown), _without_layers(new, unknown)
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


def _unknown_layers(config: dict[str, Any]) -> set[str]:
    """Returns the layers that could not tell their settings."""
    return {name for name, digest in config["student"]["layers"].items() if digest == UNKNOWN}


def _without_layers(config: dict[str, Any], unknown: set[str] | None = None) -> dict[str, Any]:
    """Returns a configuration without the settings of the `unknown` layers, by default of all."""
    student = dict(config.get("student", {}))
    layers = student.pop("layers", {})
    if unknown is not None:
        told = {name: None if name in unknown else digest for name, digest in layers.items()}
        student["layers"] = told
    return {**config, "student": student}

"""Damaged `.keras` files of both families: each is loaded and answers, or is refused by name.

Nothing is written outside of the case's folder, and nothing grows or hangs. See `fuzz_runner.py`.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import random
import zipfile
from pathlib import Path
from typing import Any

from fuzz_helpers import in_bytes, mutate_value, run_command, states
from helpers import draw_directory

FAMILIES = ("tf_keras", "keras")
CONFIG, METADATA, WEIGHTS = "config.json", "metadata.json", "model.weights.h5"


def _models(family: Any) -> list[Any]:
    """Returns small models with the layers that classifiers have."""
    layers = family.layers
    inputs = family.Input((8, 8, 3))
    mixed = layers.Conv2D(4, 3, padding="same", use_bias=False)(inputs)
    mixed = layers.ReLU()(layers.BatchNormalization()(mixed))
    mixed = layers.Add()([mixed, layers.DepthwiseConv2D(3, padding="same")(mixed)])
    mixed = layers.GlobalAveragePooling2D()(mixed)
    nested = family.Sequential([family.Input((8, 8, 3)), layers.Conv2D(2, 2), layers.Flatten()])
    return [
        family.Sequential([family.Input((8, 8, 3)), layers.Flatten(), layers.Dense(3)]),
        family.Model(inputs, layers.Dense(3, activation="softmax")(mixed)),
        family.Sequential([family.Input((8, 8, 3)), layers.Rescaling(1 / 255), nested]),
    ]


def _changed_zip(data: bytes, chance: random.Random) -> bytes:
    """Returns a `.keras` file of which one part is changed, left out, renamed or there twice."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        parts = [(name, archive.read(name)) for name in archive.namelist()]
    index = chance.randrange(len(parts))
    if chance.random() < 0.6:
        index = [name for name, _ in parts].index(CONFIG)
    name, body = parts[index]
    how = chance.random()
    if how < 0.7:
        parts[index] = (name, _changed_part(name, body, chance))
    elif how < 0.78:
        del parts[index]
    elif how < 0.86:
        names = ("../../outside/x", "/x", name + "x", "assets/vocabulary.txt", name.upper(), "x\0y")
        parts[index] = (chance.choice(names), body)
    elif how < 0.93:
        parts.append((name, _changed_part(name, body, chance)))
    else:
        parts.append((chance.choice(("__init__.py", "assets/a", "model.weights.npz")), b"x" * 100))
    out = io.BytesIO()
    with zipfile.ZipFile(
        out, "w", chance.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))
    ) as new:
        for name, body in parts:
            new.writestr(name, body)
    return out.getvalue()


def _changed_part(name: str, body: bytes, chance: random.Random) -> bytes:
    if name in (CONFIG, METADATA) and chance.random() < 0.85:
        value = json.loads(body)
        for _ in range(chance.choice((1, 1, 2, 4))):
            value = mutate_value(value, chance)
        return json.dumps(value).encode()
    return in_bytes(body, chance)


class Fuzz:
    """Damages models, and gives them to commands without trust, as teacher or as MODEL."""

    def __init__(self, seed: int, folder: Path) -> None:
        self.seed, self.folder = seed, folder / "case"
        self.outside = folder / "outside"
        self.outside.mkdir(parents=True)
        draw_directory(self.folder / "images", {"ant": 2, "bee": 2, "cat": 2})
        self.sound: list[tuple[Any, bytes]] = []
        for name in FAMILIES:
            family = importlib.import_module(name)
            for number, model in enumerate(_models(family)):
                path = folder / f"{name}-{number}.keras"
                model.save(path)
                self.sound.append((family, path.read_bytes()))

    def run(self, number: int) -> str | None:
        chance = random.Random(f"{self.seed} {number}")
        family, data = chance.choice(self.sound)
        how = _changed_zip if chance.random() < 0.85 else in_bytes
        path = self.folder / "model.keras"
        path.write_bytes(how(data, chance))
        words = ["teach", "images", "--teacher", "model.keras", "--out", "new.h5"]
        if chance.random() < 0.3:
            words = ["evaluate", "model.keras", "images"]
        before = states(self.outside), states(self.folder, ("new.h5", "new.h5.lock"))
        try:
            with contextlib.chdir(self.folder):
                wrong = run_command(words)
        finally:
            family.backend.clear_session()
            (self.folder / "new.h5").unlink(missing_ok=True)
        if before != (states(self.outside), states(self.folder, ("new.h5.lock",))):
            return "files were changed"
        return wrong

"""Photographs with detail at every scale, and options of scaled decoding."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from streamkd.image_options import ImageOptions
from streamkd.manifest.manifest import Manifest, scan

SIZE = (60, 64)


def scaled(image_size: tuple[int, int] = SIZE, **arguments: Any) -> ImageOptions:
    """Returns the options of scaled decoding to a size."""
    return ImageOptions(image_size=image_size, decode="scaled", **arguments)


def photograph(size: tuple[int, int], seed: int = 0, channels: int = 3) -> np.ndarray:
    """Returns uint8 `[height, width, channels]`, noise of as much contrast at every scale."""
    rng, height, width = np.random.default_rng(seed), *size
    pixels = np.full((height, width, channels), 128.0)
    for scale in (1, 2, 4, 8, 16, 32, 64, 128):
        small = rng.normal(scale=14, size=(-(-height // scale), -(-width // scale), channels))
        pixels += small.repeat(scale, 0).repeat(scale, 1)[:height, :width]
    return np.clip(pixels, 0, 255).astype(np.uint8)


def jpeg(pixels: np.ndarray, **arguments: Any) -> bytes:
    """Returns a JPEG file of some pixels; `arguments` are those of Pillow."""
    file = io.BytesIO()
    Image.fromarray(np.squeeze(pixels)).save(file, "JPEG", quality=95, **arguments)
    return file.getvalue()


def draw_photographs(root: Path, one_size: bool) -> Manifest:
    """Draws 17 JPEG files, which are decoded at all four parts, and a PNG where sizes differ."""
    rng = np.random.default_rng(3)
    for number in range(17):
        size = (170, 190) if one_size else tuple(rng.integers(8, 300, 2).tolist())
        folder = root / "abc"[number % 3]
        folder.mkdir(exist_ok=True)
        (folder / f"{number:02}.jpg").write_bytes(jpeg(photograph(size, seed=number)))
    if not one_size:
        Image.fromarray(photograph((90, 70))).save(root / "a" / "99.png")
    return scan(root)

"""Free memory, free disk, and the number of images that a pixel cache has room for.

capacity = capacity_of(images, canonical, free_memory() // 2, "in memory")
"""

from __future__ import annotations

import contextlib
import math
import os
import shutil
from pathlib import Path

from streamkd.codes import warn
from streamkd.image_options import ImageOptions
from streamkd.manifest.manifest import Manifest

# Bytes that a cache keeps for an image besides its pixels: four numbers of 8 bytes.
RECORD_BYTES = 32
# Fraction that a cache may take of the room that is free on its disk.
DISK_FRACTION = 0.9
# Directory in which a container finds its own limits.
CONTROL_GROUP = Path("/sys/fs/cgroup")


def capacity_of(images: Manifest, canonical: ImageOptions, num_bytes: int, where: str) -> int:
    """Returns how many images fit into `num_bytes`, and warns if not all do."""
    one = image_bytes(canonical)
    capacity = min(len(images), num_bytes // one)
    if capacity < len(images):
        warn(
            "cache_too_small",
            f"The pixel cache {where} keeps {capacity:,} of {len(images):,} images: all of them "
            f"take {len(images) * one / 1e9:.1f} GB, and there is room for "
            f"{num_bytes / 1e9:.1f} GB. The others are decoded each time.",
            stacklevel=4,
        )
    return capacity


def image_bytes(canonical: ImageOptions) -> int:
    """Returns the bytes that a cache takes for one image."""
    return math.prod(canonical.shape) + RECORD_BYTES


def free_disk(folder: Path) -> int:
    """Returns the bytes that a cache may take of the disk of a folder, which may not exist yet."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return int(DISK_FRACTION * shutil.disk_usage(folder).free)


def free_memory() -> int:
    """Returns the memory that can be taken now, in bytes; a container's limit counts."""
    free = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    with contextlib.suppress(OSError, ValueError):
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                free = int(line.split()[1]) * 1024
    with contextlib.suppress(OSError, ValueError):
        limit = int((CONTROL_GROUP / "memory.max").read_text())
        taken = int((CONTROL_GROUP / "memory.current").read_text())
        lines = (CONTROL_GROUP / "memory.stat").read_text().splitlines()
        # Copies of files that were read once: the system drops them when memory is wanted.
        droppable = dict(line.split() for line in lines).get("inactive_file", "0")
        free = min(free, limit - taken + int(droppable))
    return max(free, 0)

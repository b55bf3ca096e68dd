"""What the benchmarks share: data, clocks, alternating runs, and a table of medians and ratios.

The machines that run these are noisy, so every contender runs in the same process, in turn, several
times; medians are printed, CPU time beside wall time, and ratios to say anything at all.
"""

from __future__ import annotations

import os
import resource
import tarfile
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

ARCHIVES = {
    "mnist": "mnist.tar.gz",
    "cifar10": "cifar10.tar.gz",
    "imagenet": "imagenet-sample.tar",
}


def data_directory(name: str) -> Path:
    """Returns the unpacked data set `name`, unpacking it at the first call.

    The archives are looked for in `$STREAMKD_DATA`, else in `../shared/data` from the project's
    root; they are unpacked below `$STREAMKD_SCRATCH`, else below the temporary directory.
    """
    root = Path(__file__).resolve().parents[2]
    archives = Path(os.environ.get("STREAMKD_DATA", root.parent / "shared" / "data"))
    scratch = Path(
        os.environ.get("STREAMKD_SCRATCH", Path(tempfile.gettempdir()) / "streamkd-data")
    )
    target = scratch / name
    if not target.exists():
        archive = archives / ARCHIVES[name]
        if not archive.exists():
            raise SystemExit(f"There is no {archive}; set STREAMKD_DATA to the folder that has it.")
        unfinished = target.with_name(f"{name}.tmp")
        with tarfile.open(archive) as files:
            files.extractall(unfinished, filter="data")
        unfinished.rename(target)
    return target


def cpu_seconds() -> float:
    """Returns the CPU time of this process so far, all threads."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def measure(
    contenders: dict[str, Callable[[], int]], *, repeats: int
) -> dict[str, tuple[float, float]]:
    """Runs the contenders in turn and returns their medians.

    Args:
      contenders: name to a function that does the work once and returns the number of images.
      repeats: counted rounds; one more goes before them.

    Returns:
      name to (images per second, CPU microseconds an image).
    """
    rates: dict[str, list[float]] = {name: [] for name in contenders}
    costs: dict[str, list[float]] = {name: [] for name in contenders}
    for round_number in range(repeats + 1):
        for name, run in contenders.items():
            wall, cpu = time.perf_counter(), cpu_seconds()
            num_images = run()
            wall, cpu = time.perf_counter() - wall, cpu_seconds() - cpu
            if round_number:
                rates[name].append(num_images / wall)
                costs[name].append(1e6 * cpu / num_images)
    return {name: (float(np.median(rates[name])), float(np.median(costs[name]))) for name in rates}


def print_table(results: dict[str, tuple[float, float]], *, reference: str) -> None:
    """Prints medians, and how many times as fast as the contender each reference is."""
    width = max(map(len, results))
    print(f"{'':<{width}}  {'images/s':>9}  {'CPU µs/image':>12}  {reference} is faster by")
    for name, (rate, cost) in results.items():
        ratio = results[reference][0] / rate
        cpu_ratio = cost / results[reference][1]
        print(f"{name:<{width}}  {rate:>9,.0f}  {cost:>12.1f}  {ratio:.2f} (CPU {cpu_ratio:.2f})")

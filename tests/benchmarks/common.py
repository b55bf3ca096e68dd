"""What the benchmarks share: data, clocks, alternating runs, and a table of medians and ratios.

The machines that run these are noisy, so every contender runs in the same process, in turn, several
times; medians are printed, CPU time beside wall time, and ratios to say anything at all.
"""

from __future__ import annotations

import dataclasses
import os
import resource
import tarfile
import tempfile
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np

ARCHIVES = {
    "mnist": "mnist.tar.gz",
    "cifar10": "cifar10.tar.gz",
    "imagenet": "imagenet-sample.tar",
}


# A contender: on entry it warms up, and it gives a function that goes through so many batches and
# returns the number of images.
Contender = Callable[[], AbstractContextManager[Callable[[int], int]]]


def scratch_directory() -> Path:
    """Returns where data sets are unpacked and made: `$STREAMKD_SCRATCH`, or a temporary one."""
    default = Path(tempfile.gettempdir()) / "streamkd-data"
    return Path(os.environ.get("STREAMKD_SCRATCH", default))


def data_directory(name: str) -> Path:
    """Returns the unpacked data set `name`, unpacking it at the first call.

    The archives are looked for in `$STREAMKD_DATA`, else in `../shared/data` from the project's
    root; they are unpacked below `scratch_directory()`.
    """
    root = Path(__file__).resolve().parents[2]
    archives = Path(os.environ.get("STREAMKD_DATA", root.parent / "shared" / "data"))
    target = scratch_directory() / name
    if not target.exists():
        archive = archives / ARCHIVES[name]
        if not archive.exists():
            raise SystemExit(f"There is no {archive}; set STREAMKD_DATA to the folder that has it.")
        unfinished = target.with_name(f"{name}.tmp")
        with tarfile.open(archive) as files:
            files.extractall(unfinished, filter="data")
        unfinished.rename(target)
    return target


def cpu_seconds(children: Iterable[int] = ()) -> float:
    """Returns the CPU time of this process so far, all threads.

    Args:
      children: process ids of running children whose CPU time is added, to 10 ms each.
    """
    usage = resource.getrusage(resource.RUSAGE_SELF)
    ticks = 0
    for child in children:
        fields = Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return usage.ru_utime + usage.ru_stime + ticks / os.sysconf("SC_CLK_TCK")


@dataclasses.dataclass(frozen=True)
class Taken:
    """What some work took: seconds, CPU seconds of all threads, and how many images it was."""

    wall: float
    cpu: float
    num_images: int = 1


class Clock:
    """Tells what has been taken since it was made."""

    def __init__(self) -> None:
        self._wall, self._cpu = time.perf_counter(), cpu_seconds()

    def taken(self, num_images: int = 1) -> Taken:
        return Taken(time.perf_counter() - self._wall, cpu_seconds() - self._cpu, num_images)


def anonymous() -> int:
    """Returns the private memory of this process in bytes, without mapped files."""
    with open("/proc/self/status") as lines:
        kilobytes = [int(line.split()[1]) for line in lines if line.startswith("RssAnon:")]
    return kilobytes[0] << 10


class PeakMemory:
    """The largest private memory of this process within a `with` block, looked at every 10 ms."""

    def __enter__(self) -> PeakMemory:
        self.num_bytes = anonymous()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self.num_bytes = max(self.num_bytes, anonymous())

    def _watch(self) -> None:
        while not self._stop.wait(0.01):
            self.num_bytes = max(self.num_bytes, anonymous())


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


def measure_rounds(
    contenders: dict[str, Callable[[], Taken]], *, repeats: int
) -> dict[str, np.ndarray]:
    """Runs the contenders in turn, the first another one in every round, and returns every round.

    Args:
      contenders: name to a function that does the work once and says what it took.
      repeats: counted rounds; one more goes before them.

    Returns:
      name to float64 `[repeats, 2]`, seconds and CPU seconds an image: what ratios of two
      contenders, round by round, are made of.
    """
    rounds: dict[str, list[tuple[float, float]]] = {name: [] for name in contenders}
    names = list(contenders)
    for number in range(repeats + 1):
        turn = number % len(names)
        for name in names[turn:] + names[:turn]:
            taken = contenders[name]()
            rounds[name].append((taken.wall / taken.num_images, taken.cpu / taken.num_images))
    return {name: np.array(found[1:]) for name, found in rounds.items()}


def measure_steady(
    contenders: dict[str, Contender],
    *,
    repeats: int,
    seconds: float,
    fewest: int = 2,
    children: Iterable[int] = (),
) -> dict[str, tuple[float, float]]:
    """Runs contenders that work ahead of their reader in turn, and returns their medians.

    Each starts anew in every round, warms up before the clock runs, and is gone before the next
    starts: what it has prepared for a reader who comes no more is neither counted nor in the way.

    Args:
      contenders: name to contender.
      repeats: counted rounds; one more goes before them and says how many batches a round has.
      seconds: about how long each contender runs in a round.
      fewest: batches of a round, at the least.
      children: as in `cpu_seconds`.

    Returns:
      name to (images per second, CPU microseconds an image).
    """
    num_batches = {name: batches_of(contenders[name], seconds, fewest) for name in contenders}
    rates: dict[str, list[float]] = {name: [] for name in contenders}
    costs: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(repeats):
        for name, contender in contenders.items():
            wall, cpu, num_images = timed(contender, num_batches[name], children)
            rates[name].append(num_images / wall)
            costs[name].append(1e6 * cpu / num_images)
    return {name: (float(np.median(rates[name])), float(np.median(costs[name]))) for name in rates}


def timed(
    contender: Contender, num_batches: int, children: Iterable[int] = ()
) -> tuple[float, float, int]:
    """Returns seconds, CPU seconds and images of so many batches of a contender, warmed up."""
    with contender() as run:
        wall, cpu = time.perf_counter(), cpu_seconds(children)
        num_images = run(num_batches)
        return time.perf_counter() - wall, cpu_seconds(children) - cpu, num_images


def batches_of(contender: Contender, seconds: float, fewest: int) -> int:
    """Returns how many batches a contender goes through in about so many seconds, or `fewest`."""
    num_batches = fewest
    while (took := timed(contender, num_batches)[0]) < seconds / 4:
        num_batches *= 4
    return max(fewest, round(num_batches * seconds / took))


def print_table(results: dict[str, tuple[float, float]], *, reference: str) -> None:
    """Prints medians, and how many times as fast as the contender each reference is."""
    width = max(map(len, results))
    print(f"{'':<{width}}  {'images/s':>9}  {'CPU µs/image':>12}  {reference} is faster by")
    for name, (rate, cost) in results.items():
        ratio = results[reference][0] / rate
        cpu_ratio = cost / results[reference][1]
        print(f"{name:<{width}}  {rate:>9,.0f}  {cost:>12.1f}  {ratio:.2f} (CPU {cpu_ratio:.2f})")


def print_ratios(results: dict[str, tuple[float, float]], references: dict[str, str]) -> None:
    """Prints medians, and for each reference how many times as fast as it a contender is.

    Args:
      results: what `measure` or `measure_steady` returned.
      references: title of a column to the contender it compares with; one that was not measured
        has no column.
    """
    columns = {title: name for title, name in references.items() if name in results}
    width = max(map(len, results))
    titles = "".join(f"  {title:>10}" for title in columns)
    print(f"{'':<{width}}  {'images/s':>9}  {'CPU µs/image':>12}{titles}")
    for name, (rate, cost) in results.items():
        ratios = "".join(f"  {rate / results[other][0]:>10.2f}" for other in columns.values())
        print(f"{name:<{width}}  {rate:>9,.0f}  {cost:>12.1f}{ratios}")


def print_rounds(rounds: dict[str, np.ndarray], *, reference: str) -> None:
    """Prints medians, and how many times as fast as each contender the reference is.

    Args:
      rounds: what `measure_rounds` returned. Ratios are medians over the rounds, with quartiles.
      reference: one of the contenders.
    """
    width = max(map(len, rounds))
    title = f"{reference} is faster by"
    print(f"{'':<{width}}  {'images/s':>9}  {'CPU µs/image':>12}  {title}: wall, CPU")
    for name, found in rounds.items():
        wall, cpu = np.median(found, axis=0)
        ratios = found / rounds[reference]
        low, middle, high = np.percentile(ratios, [25, 50, 75], axis=0)
        text = "  ".join(
            f"{middle[kind]:.2f} ({low[kind]:.2f} to {high[kind]:.2f})" for kind in (0, 1)
        )
        print(f"{name:<{width}}  {1 / wall:>9,.0f}  {1e6 * cpu:>12.1f}  {text}", flush=True)

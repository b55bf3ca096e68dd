"""What the benchmarks share: data sets, clocks, runs in turn, tables of medians, and aims.

The machines that run these scripts are noisy. Therefore every contender runs in the same process,
in turn, several times, each round in another order. Printed are medians of wall time and of
CPU time, and ratios. An aim is met where it is met both by wall time and by CPU time.
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
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

if TYPE_CHECKING:
    from streamkd.store.layout import StoreHeader

# Names of data sets to their archives. A folder of the data set's name serves as well.
ARCHIVES = {
    "mnist": "mnist.tar.gz",
    "cifar10": "cifar10.tar.gz",
    "imagenet": "imagenet-sample.tar",
}


Name = TypeVar("Name", str, int)
# On entry a contender warms up. It gives a function that takes a number of batches, reads them and
# returns the number of images.
Contender = Callable[[], AbstractContextManager[Callable[[int], int]]]


def scratch_directory() -> Path:
    """Returns where data sets are unpacked and made: `$STREAMKD_SCRATCH`, or a temporary one."""
    default = Path(tempfile.gettempdir()) / "streamkd-data"
    return Path(os.environ.get("STREAMKD_SCRATCH", default))


def data_root() -> Path:
    """Returns where data sets lie: `$STREAMKD_DATA`, else `../shared/data` from the project."""
    root = Path(__file__).resolve().parents[2]
    return Path(os.environ.get("STREAMKD_DATA", root.parent / "shared" / "data"))


def data_directory(name: str) -> Path:
    """Returns the folder of a data set; an archive is unpacked at the first call.

    Args:
      name: a folder below `data_root()`, as `make_data.py` makes it, or a key of `ARCHIVES`, whose
        archive is unpacked below `scratch_directory()`.
    """
    folder = data_root() / name
    if folder.is_dir():
        return folder
    target = scratch_directory() / name
    if not target.exists():
        archive = data_root() / ARCHIVES[name]
        if not archive.exists():
            raise SystemExit(
                f"There is neither a folder {folder} nor an archive {archive}.\n"
                "`make_data.py` makes it or says where it comes from; set STREAMKD_DATA to the "
                "folder that has it."
            )
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
    """The cost of some work: seconds, CPU seconds of all threads, and the number of images."""

    wall: float
    cpu: float
    num_images: int = 1


class Clock:
    """Measures the wall and CPU time since the clock was made."""

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


def rotated(contenders: Iterable[Name], round_number: int) -> list[Name]:
    """Returns the contenders in the order of one round; in each round another one goes first."""
    names = list(contenders)
    turn = round_number % len(names)
    return names[turn:] + names[:turn]


def measure(
    contenders: dict[str, Callable[[], int]], *, repeats: int
) -> dict[str, tuple[float, float]]:
    """Runs the contenders in turn, another one first in every round, and returns their medians.

    Args:
      contenders: name to a function that does the work once and returns the number of images.
      repeats: counted rounds; one more goes before them.

    Returns:
      name to (images per second, CPU microseconds an image).
    """
    rates: dict[str, list[float]] = {name: [] for name in contenders}
    costs: dict[str, list[float]] = {name: [] for name in contenders}
    for round_number in range(repeats + 1):
        for name in rotated(contenders, round_number):
            wall, cpu = time.perf_counter(), cpu_seconds()
            num_images = contenders[name]()
            wall, cpu = time.perf_counter() - wall, cpu_seconds() - cpu
            if round_number:
                rates[name].append(num_images / wall)
                costs[name].append(1e6 * cpu / num_images)
    return {name: (float(np.median(rates[name])), float(np.median(costs[name]))) for name in rates}


def measure_rounds(
    contenders: dict[str, Callable[[], Taken]], *, repeats: int
) -> dict[str, np.ndarray]:
    """Runs the contenders in turn, another one first in every round, and returns every round.

    Args:
      contenders: name to a function that does the work once and returns its cost.
      repeats: counted rounds; one more goes before them.

    Returns:
      name to float64 `[repeats, 2]`, seconds and CPU seconds an image, from which ratios of two
      contenders are taken round by round.
    """
    rounds: dict[str, list[tuple[float, float]]] = {name: [] for name in contenders}
    for round_number in range(repeats + 1):
        for name in rotated(contenders, round_number):
            taken = contenders[name]()
            rounds[name].append((taken.wall / taken.num_images, taken.cpu / taken.num_images))
    return {name: np.array(costs[1:]) for name, costs in rounds.items()}


def measure_steady(
    contenders: dict[str, Contender],
    *,
    repeats: int,
    seconds: float,
    fewest: int = 2,
    children: Iterable[int] = (),
) -> dict[str, tuple[float, float]]:
    """Runs contenders that work ahead of their reader in turn, and returns their medians.

    In every round another contender goes first. Each starts anew, warms up before the clock runs,
    and is gone before the next starts: batches that it prepared and nobody reads are neither
    counted nor in the way.

    Args:
      contenders: name to contender.
      repeats: counted rounds; one more goes before them and says how many batches a round has.
      seconds: about how long each contender runs in a round.
      fewest: the least number of batches in a round.
      children: as in `cpu_seconds`.

    Returns:
      name to (images per second, CPU microseconds an image).
    """
    num_batches = {name: batches_of(contenders[name], seconds, fewest) for name in contenders}
    rates: dict[str, list[float]] = {name: [] for name in contenders}
    costs: dict[str, list[float]] = {name: [] for name in contenders}
    for round_number in range(repeats):
        for name in rotated(contenders, round_number):
            wall, cpu, num_images = timed(contenders[name], num_batches[name], children)
            rates[name].append(num_images / wall)
            costs[name].append(1e6 * cpu / num_images)
    return {name: (float(np.median(rates[name])), float(np.median(costs[name]))) for name in rates}


def timed(
    contender: Contender, num_batches: int, children: Iterable[int] = ()
) -> tuple[float, float, int]:
    """Returns seconds, CPU seconds and images of `num_batches` batches of a warm contender."""
    with contender() as run:
        wall, cpu = time.perf_counter(), cpu_seconds(children)
        num_images = run(num_batches)
        return time.perf_counter() - wall, cpu_seconds(children) - cpu, num_images


def batches_of(contender: Contender, seconds: float, fewest: int) -> int:
    """Returns how many batches a contender reads in about `seconds`, at least `fewest`."""
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


def best(results: dict[str, tuple[float, float]], name: str) -> str | None:
    """Returns the fastest of the contenders `name` and `name, batch N`, or None without any."""
    same = [other for other in results if other == name or other.startswith(f"{name}, batch ")]
    return max(same, key=lambda other: results[other][0], default=None)


def print_ratios(results: dict[str, tuple[float, float]], references: dict[str, str]) -> None:
    """Prints medians, and for each reference how many times as fast as it a contender is.

    Args:
      results: what `measure` or `measure_steady` returned.
      references: title of a column to the contender it compares with, at that contender's best
        batch size. A contender that was not measured has no column.
    """
    fastest = {title: best(results, name) for title, name in references.items()}
    columns = {title: name for title, name in fastest.items() if name is not None}
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
    for name, costs in rounds.items():
        wall, cpu = np.median(costs, axis=0)
        ratios = costs / rounds[reference]
        low, middle, high = np.percentile(ratios, [25, 50, 75], axis=0)
        text = "  ".join(
            f"{middle[kind]:.2f} ({low[kind]:.2f} to {high[kind]:.2f})" for kind in (0, 1)
        )
        print(f"{name:<{width}}  {1 / wall:>9,.0f}  {1e6 * cpu:>12.1f}  {text}", flush=True)


def verdict(title: str, wall: float, cpu: float, *, at_least: float) -> str:
    """Returns a line that says whether an aim is met, by wall time and by CPU time.

    Args:
      title: what is compared.
      wall, cpu: how many times as fast as the other side ours is.
      at_least: the least that both of them shall be.
    """
    met = "met" if min(wall, cpu) >= at_least else "not met"
    return f"{met:<8} {title}: {wall:.2f}, by CPU {cpu:.2f}, both at least {at_least}"


def verdict_of_growth(title: str, wall: float, cpu: float, *, at_most: float) -> str:
    """Returns a line that says whether a growth stays small, by wall time and by CPU time.

    Args:
      title: what grows.
      wall, cpu: the growth as a fraction, such as 0.03.
      at_most: the most that both of them may be.
    """
    met = "met" if max(wall, cpu) <= at_most else "not met"
    return f"{met:<8} {title}: {wall:+.1%}, by CPU {cpu:+.1%}, both at most {at_most:.0%}"


def made_up_header(num_images: int, num_classes: int, **fields: Any) -> StoreHeader:
    """Returns the header of a store of plain images whose teacher is made up.

    Args:
      fields: of `StoreHeader`, `block_rows` at least, which replace the made-up ones.
    """
    from streamkd.store.layout import StoreHeader

    made_up: dict[str, Any] = {
        "num_views": 1,
        "codec": "float16",
        "fingerprint": "made up",
        "images": {},
        "views": {"count": 1, "kind": "plain"},
        "decoder": "none",
        "teacher": {"name": "made up"},
        "versions": {},
    }
    return StoreHeader(num_images=num_images, num_classes=num_classes, **(made_up | fields))

"""Verification of one store file: every digest and every checksum is compared.

    report = verify_store("teacher.h5")
    report.sound, report.problems       # [{"key": b"cat/1.png", "view": 0, "reason": "…"}]

A function `compare` of the caller gets the images whose rows are intact, and compares their files.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np

from streamkd.errors import DamagedStoreError, OptionError
from streamkd.keys import Keys, hash_keys
from streamkd.reports import MAX_LISTED
from streamkd.store.checksums import check_rows, count_settled, images_at_a_time, read_summary
from streamkd.store.layout import DONE, NOT_DONE, REFUSED, STATIC_DATASETS
from streamkd.store.store_file import StoreFile

# Given images (int64), keys and content digests (uint64), yields indices in them and faults.
Compare = Callable[[np.ndarray, Keys, np.ndarray], Iterable[tuple[int, str]]]
Progress = Callable[[int, int], None]


@dataclasses.dataclass
class VerifyReport:
    """How much was checked, and all problems.

    Attributes:
      rows_checked: rows compared with their checksums.
      rows_done, rows_total: of the store; rows that were refused count as done.
      num_problems: number of all problems.
      problems: the first `MAX_LISTED`: dicts of `key` (bytes, None), `view` (int, None), `reason`.
    """

    rows_checked: int = 0
    rows_done: int = 0
    rows_total: int = 0
    num_problems: int = 0
    problems: list[dict[str, Any]] = dataclasses.field(default_factory=list)

    @property
    def sound(self) -> bool:
        """Whether the store is finished and nothing is wrong with it."""
        return self.num_problems == 0

    def include(self, other: VerifyReport, note: str = "") -> None:
        """Adds the report of another file; `note` follows each of its reasons."""
        self.rows_checked += other.rows_checked
        self.rows_done += other.rows_done
        self.rows_total += other.rows_total
        self.num_problems += other.num_problems
        noted = [{**problem, "reason": problem["reason"] + note} for problem in other.problems]
        self.problems = (self.problems + noted)[:MAX_LISTED]

    def add(self, reason: str, *, key: bytes | None = None, view: int | None = None) -> None:
        """Counts a problem, and lists it among the first `MAX_LISTED`."""
        self.num_problems += 1
        if len(self.problems) < MAX_LISTED:
            self.problems.append({"key": key, "view": view, "reason": reason})


def verify_store(
    path: str | os.PathLike[str],
    *,
    compare: Compare | None = None,
    sample: int | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> VerifyReport:
    """Returns whether a store is sound; an unfinished one is not.

    Args:
      path: of the store.
      compare: yields index and fault of each bad image; called with thousands, in key order.
      sample: check about this many rows, in blocks drawn by `seed`; by default all.
      seed: of the sample.
      progress: called with the rows checked so far and the rows to check.

    Raises:
      StoreError: no such file, or no store at all. A damaged store is reported, not refused.
    """
    if sample is not None and sample < 1:
        raise OptionError(f"--sample is {sample}; it must be a positive number of rows.")
    report = VerifyReport()
    try:
        file = StoreFile(path)
    except DamagedStoreError as error:
        report.add(str(error))
        return report
    with file:
        report.rows_total, report.rows_done = file.header.num_rows, count_settled(file)
        static = _check_static(file, report)
        _check_summary(file, report)
        if static is not None:
            _check_rows(file, *static, report, compare, _ranges(file, sample, seed), progress)
    return report


def _check_static(file: StoreFile, report: VerifyReport) -> tuple[Keys, np.ndarray] | None:
    """Returns the keys and the hash of each; None where the keys cannot name rows."""
    for name in STATIC_DATASETS:
        try:
            file.check_static(name)
        except DamagedStoreError as error:
            report.add(str(error))
    keys, class_names = file.read_keys(), file.read_class_names()
    for kind, entries in (("key", keys), ("class", class_names)):
        if not entries.is_divided():
            report.add(f"the {kind} offsets do not divide the {kind} bytes")
            return None
    invalid, disorder = keys.first_invalid(), keys.first_disorder()
    if invalid is not None:
        report.add(f"the key {invalid[1]}", key=keys[invalid[0]])
        return None  # a key that leads out of the directory must not reach `compare`
    if disorder is not None:
        report.add("the key does not follow the key before it in order", key=keys[disorder])
    hashes = hash_keys(keys)
    order = np.argsort(hashes, kind="stable")
    if not np.array_equal(file.read("key_hash"), hashes[order]):
        report.add("the key index does not hold the hashes of the keys")
    elif not np.array_equal(file.read("key_row"), order.view(np.uint64)):
        report.add("the key index does not lead to the keys")
    labels, num_classes = file.read("labels"), len(class_names) or file.header.num_classes
    wrong = np.flatnonzero((labels < -1) | (labels >= num_classes))
    if len(wrong):
        report.add(
            f"the label is {labels[wrong[0]]}, and there are {num_classes:,} classes",
            key=keys[wrong[0]],
        )
    return keys, hashes


def _check_summary(file: StoreFile, report: VerifyReport) -> None:
    """Reports a store that is unfinished, with the number of missing rows."""
    try:
        if read_summary(file) is None:
            missing = report.rows_total - report.rows_done
            report.add(
                f"the store is unfinished: {missing:,} of {report.rows_total:,} rows are missing; "
                "run the same `streamkd teach` again to continue"
            )
    except DamagedStoreError as error:
        report.add(str(error))


def _ranges(file: StoreFile, sample: int | None, seed: int) -> list[tuple[int, int]]:
    """Returns first and end of each range of images to check: all images, or a sample of blocks."""
    num_images, step = file.header.num_images, images_at_a_time(file)
    if sample is not None and sample < file.header.num_rows:
        step = file.header.images_per_block
        wanted = -(-sample // file.header.block_rows)
        drawn = np.random.default_rng(seed).choice(file.header.num_blocks, wanted, replace=False)
        starts: Iterator[int] = iter((np.sort(drawn) * step).tolist())
    else:
        starts = iter(range(0, num_images, step))
    return [(start, min(start + step, num_images)) for start in starts]


def _check_rows(
    file: StoreFile,
    keys: Keys,
    hashes: np.ndarray,
    report: VerifyReport,
    compare: Compare | None,
    ranges: list[tuple[int, int]],
    progress: Progress | None,
) -> None:
    """Reports rows that are not as they were written, and the faults that `compare` yields."""
    to_check = sum(stop - first for first, stop in ranges) * file.header.num_views
    # The missing rows of an unfinished store are one problem, not many.
    unfinished = not file.read("summary").any()
    for first, stop in ranges:
        done, good, impossible = check_rows(file, keys, first, stop, hashes[first:stop])
        bad = ~good & ((done != NOT_DONE) | (not unfinished))
        for image, view in np.argwhere(bad):
            fault = impossible.get(int(image) * done.shape[1] + int(view))
            reason = _row_fault(int(done[image, view]), fault)
            report.add(reason, key=keys[first + image], view=int(view))
        if compare is not None:
            intact = np.flatnonzero(good.any(axis=1)) + first
            intact_keys = keys.take(intact)
            for index, reason in compare(intact, intact_keys, file.read("content")[intact]):
                report.add(reason, key=intact_keys[index])
        report.rows_checked += int(np.count_nonzero(done))
        if progress is not None:
            progress(report.rows_checked, to_check)


def _row_fault(done: int, impossible: str | None) -> str:
    if impossible is not None:
        return f"the row has its checksum, and no teacher gave it: {impossible}"
    if done == NOT_DONE:
        return "the row is missing, although the store is marked as finished"
    if done not in (DONE, REFUSED):
        return f"`done` is {done}; it must be {NOT_DONE}, {DONE} or {REFUSED}"
    return "the row does not have its checksum"

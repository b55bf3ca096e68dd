"""Rows compared with their checksums: once for each row and reader, when it is first read.

    checks = RowChecks(file)
    checks.check(rows, keys, allow_refused=False)       # raises for a row that cannot be given out

A comparison takes 3 to 5 µs a row, which on every read would be the main cost.
"""

from __future__ import annotations

import numpy as np

from streamkd.errors import MissingLogitsError, StoreError, readable_key
from streamkd.keys import Keys
from streamkd.store.checksums import check_single_rows, count_settled
from streamkd.store.layout import DONE, NOT_DONE
from streamkd.store.store_file import StoreFile
from streamkd.store.userblock import damaged


class RowChecks:
    """Remembers which rows of a store were as they were written when they were first read."""

    def __init__(self, file: StoreFile) -> None:
        self._file = file
        # One bit a row, set for a good row. Memory is taken as rows are read.
        self._good_rows = np.zeros(-(-file.header.num_rows // 8), np.uint8)

    def check(self, rows: np.ndarray, keys: Keys, *, allow_refused: bool) -> None:
        """Refuses rows that are not done or not as they were written.

        Args:
          rows: int64 `[B]`, in range.
          keys: of all images of the store.
          allow_refused: whether a row of a refused image may be given out.

        Raises:
          MissingLogitsError: a row without logits, naming its key and view.
          DamagedStoreError: a row that does not have its checksum, or that no teacher can have
            given, naming its key and view.
        """
        byte_indices, bits = rows >> 3, (1 << (rows & 7)).astype(np.uint8)
        unseen = (self._good_rows[byte_indices] & bits) == 0
        if not unseen.any():
            return
        new = np.unique(rows[unseen])
        done, good, impossible = check_single_rows(self._file, keys, new)
        wrong = np.flatnonzero(~good | ((done != DONE) & (not allow_refused)))
        if len(wrong):
            first = int(wrong[0])
            if first in impossible:
                raise self._impossible(int(new[first]), keys, impossible[first])
            raise self._refusal(int(new[first]), keys, int(done[first]), bool(good[first]))
        # A refused row is not remembered: it has no logits, and each request for them is refused.
        # A bit that another thread sets meanwhile may be lost; its row is compared once more.
        new = new[done == DONE]
        np.bitwise_or.at(self._good_rows, new >> 3, (1 << (new & 7)).astype(np.uint8))

    def _impossible(self, row: int, keys: Keys, fault: str) -> StoreError:
        """Returns the error for a row that has its checksum and that no teacher gave."""
        key, where = self._where(row, keys)
        return damaged(
            self._file.path,
            f"the row of {where} has its checksum, and no teacher gave it: {fault}",
            key=key,
        )

    def _refusal(
        self, row: int, keys: Keys, done: int, good: bool
    ) -> MissingLogitsError | StoreError:
        """Returns the error for a row that cannot be given out."""
        key, where = self._where(row, keys)
        path, header = self._file.path, self._file.header
        if done == NOT_DONE:
            return MissingLogitsError(
                f"The store {path} has no logits of {where} yet: "
                f"{count_settled(self._file):,} of {header.num_rows:,} rows are done.\n"
                "Run the same `streamkd teach` again to continue.",
                key=key,
            )
        if good:
            return MissingLogitsError(
                f"The store {path} has no logits of {where}: the image could not be decoded "
                "when the teacher was asked, and was skipped.\n"
                "Leave it out of the training images: `--missing drop`.",
                key=key,
            )
        return damaged(path, f"the row of {where} does not have its checksum", key=key)

    def _where(self, row: int, keys: Keys) -> tuple[bytes, str]:
        """Returns the key of a row's image, and the row in words."""
        image, view = divmod(row, self._file.header.num_views)
        key = keys[image]
        return key, f"'{readable_key(key)}', view {view} (row {row:,})"

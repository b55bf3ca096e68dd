"""BackgroundWriter: the disk commits a block while the teacher answers the next one.

    with StoreWriter(path) as writer, BackgroundWriter(writer) as background:
        for block in writer.pending_blocks():
            background.write_block(block, *ask_the_teacher(block))
        background.wait()
        writer.finish(summary)

Waiting for the disk takes 2 to 8 ms a block and no processor. At most one block is being written:
a crash loses at most that block and the one being answered.
"""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Any

from streamkd.store.writer import StoreWriter


class BackgroundWriter:
    """Writes blocks of a `StoreWriter` on a second thread, one at a time, in order.

    Leaving the `with` block waits for the block that is being written, also after an exception, so
    that every answer that was handed over is kept.
    """

    def __init__(self, writer: StoreWriter) -> None:
        self._writer = writer
        self._pool = ThreadPoolExecutor(1, "streamkd-writer")
        self._pending: Future[None] | None = None

    def __enter__(self) -> BackgroundWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self.wait()
        finally:
            self._pool.shutdown(wait=True)

    def write_block(self, *args: Any, **kwargs: Any) -> None:
        """Hands a block over, and its arrays; returns when the block before it is on the disk.

        Arguments as in `StoreWriter.write_block`; its error for the block before is raised here.
        """
        self.wait()
        self._pending = self._pool.submit(self._writer.write_block, *args, **kwargs)

    def wait(self) -> None:
        """Returns when every block is on the disk, or raises the error of the last one."""
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.result()

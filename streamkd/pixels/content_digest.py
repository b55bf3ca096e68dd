"""The content digest: FarmHash64 of a file's bytes.

It is the digest that TensorFlow can take inside the graph (`tf.fingerprint`), so that every batch
is checked for the price of about a microsecond an image. Outside the graph it comes from
`pyfarmhash` where that is installed, and from TensorFlow where it is not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from streamkd.errors import MissingExtraError
from streamkd.pixels.files import read_file
from streamkd.tf_support.quiet_import import import_tensorflow

NUM_READERS = 4


def digest_files(
    paths: Iterable[bytes], *, progress: Callable[[int], None] | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the content digests of some files and whether each could be read.

    Args:
      paths: one path a file.
      progress: called with 1 for each file read.

    Returns:
      digests, uint64 `[num_paths]`, and readable, bool `[num_paths]`; the digest of a file that
      cannot be read is 0.
    """
    digest = _digest_function()
    digests, readable = [], []
    with ThreadPoolExecutor(NUM_READERS) as pool:
        for data in _in_order(pool, paths):
            readable.append(data is not None)
            digests.append(0 if data is None else digest(data))
            if progress is not None:
                progress(1)
    return np.array(digests, np.uint64), np.array(readable, bool)


def digest_each(file_bytes: Iterable[bytes]) -> np.ndarray:
    """Returns the content digests of files that have been read, uint64 `[num_files]`.

    Raises:
      MissingExtraError: neither `pyfarmhash` nor TensorFlow is installed.
    """
    digest = _digest_function()
    return np.array([digest(data) for data in file_bytes], np.uint64)


def _digest_function() -> Callable[[bytes], int]:
    try:
        # Its `hash64` is another digest on some processors; fingerprints are the same everywhere.
        from farmhash import fingerprint64

        return fingerprint64
    except ImportError:
        try:
            import_tensorflow()
            import tensorflow as tf
        except ImportError as error:
            raise MissingExtraError(
                "The digest of a file's content needs pyfarmhash where TensorFlow is not "
                "installed.\nInstall it: `pip install pyfarmhash`."
            ) from error

        def fingerprint(data: bytes) -> int:
            digest = tf.fingerprint(tf.constant([data]), method="farmhash64").numpy()
            return int.from_bytes(digest.tobytes(), "little")

        return fingerprint


def _in_order(pool: ThreadPoolExecutor, paths: Iterable[bytes]) -> Iterator[bytes | None]:
    """Reads files a few ahead and yields their bytes in order; None where one cannot be read."""
    waiting = []
    for path in paths:
        waiting.append(pool.submit(_read, path))
        if len(waiting) >= 4 * NUM_READERS:
            yield waiting.pop(0).result()
    for read in waiting:
        yield read.result()


def _read(path: bytes) -> bytes | None:
    try:
        return read_file(path)
    except OSError:
        return None

"""The content digest: FarmHash64 of a file's bytes.

    digests, readable = digest_files(images.each_path())
    digests = digest_each([b"the bytes of a file"])

TensorFlow takes this digest inside the graph (`tf.fingerprint`), so that checking every batch costs
about a microsecond an image. Outside the graph `pyfarmhash` takes it if installed, else TensorFlow.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from streamkd.errors import MissingExtraError
from streamkd.pixels.files import read_file
from streamkd.tf_support.quiet_import import import_tensorflow

# Files that are read at once.
NUM_READERS = 4


def digest_files(
    paths: Iterable[bytes], *, progress: Callable[[int], None] | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the content digests of files, and whether each file could be read.

    `progress` is called with 1 for each file.

    Returns:
      digests, uint64 `[num_paths]`, 0 for an unreadable file; and readable, bool `[num_paths]`.
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
    """Returns the content digests of files by their bytes, uint64 `[num_files]`.

    Raises:
      MissingExtraError: neither `pyfarmhash` nor TensorFlow is installed.
    """
    digest = _digest_function()
    return np.array([digest(data) for data in file_bytes], np.uint64)


def _digest_function() -> Callable[[bytes], int]:
    """Returns the function that takes the digest of bytes."""
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
    """Yields the bytes of files in order, reading a few ahead; None for an unreadable file."""
    pending = []
    for path in paths:
        pending.append(pool.submit(_read, path))
        if len(pending) >= 4 * NUM_READERS:
            yield pending.pop(0).result()
    for future in pending:
        yield future.result()


def _read(path: bytes) -> bytes | None:
    """Returns the bytes of a file, or None for an unreadable file."""
    try:
        return read_file(path)
    except OSError:
        return None

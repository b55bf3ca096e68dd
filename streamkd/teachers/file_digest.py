"""The digest of a model's files, which is its identity where its weights cannot be listed.

digest_of_files({"model.tflite": "models/model.tflite"})
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping

_CHUNK_BYTES = 1 << 22


def digest_of_files(paths: Mapping[str, str | os.PathLike], part: str = "") -> str:
    """Returns a digest of the names and the bytes of files, whatever their order.

    `part` names what of the files is meant, where they hold several things.
    """
    digest = hashlib.blake2b(part.encode(), digest_size=16)
    for name in sorted(paths):
        path = paths[name]
        digest.update(f"{name} {os.path.getsize(path)}\n".encode())
        with open(path, "rb") as file:
            while chunk := file.read(_CHUNK_BYTES):
                digest.update(chunk)
    return digest.hexdigest()

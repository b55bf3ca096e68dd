"""Codecs: the logits of a row become bytes of the store, and logits again.

    codec = codecs.get("packed:3+28")
    codec.decode(codec.encode(logits), num_classes)

`codec.py` has the table of all codecs.
"""

from streamkd.store.codecs.codec import (
    FORMS,
    Codec,
    FloatCodec,
    ImpossibleRowError,
    LevelCodec,
    Stored,
    get,
)

__all__ = ["FORMS", "Codec", "FloatCodec", "ImpossibleRowError", "LevelCodec", "Stored", "get"]

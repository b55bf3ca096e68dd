"""How the logits of a row become bytes, and back.

codec = codecs.get("packed:3+28")
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

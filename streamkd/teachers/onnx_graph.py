"""The operation that makes an output of an ONNX model, read from the file without any package.

last_operation(Path("model.onnx"), "answers")       # 'Sigmoid'
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import IO, NamedTuple

from streamkd.file_kinds import protobuf_fields

# Fields of messages; the numbers are those of onnx.proto.
_GRAPH, _NODE = 7, 1
_INPUT, _OUTPUT, _TYPE, _DOMAIN = 1, 2, 4, 7
# Operations whose numbers are those of their first input, laid out otherwise. A cast may round.
_SAME_NUMBERS = ("Identity", "Reshape", "Flatten", "Squeeze", "Unsqueeze")
_OWN_DOMAINS = ("", "ai.onnx")


class _Node(NamedTuple):
    operation: str
    first_input: str


def last_operation(path: Path, output: str) -> str:
    """Returns the name of the operation that makes an output; empty where it cannot be told."""
    try:
        with path.open("rb") as file:
            makers = _makers(file, os.fstat(file.fileno()).st_size)
    except (ValueError, UnicodeDecodeError):  # what the file is was told before
        return ""
    maker, seen = makers.get(output), {output}
    while maker is not None and maker.operation in _SAME_NUMBERS:
        if maker.first_input in seen:
            return ""
        seen.add(maker.first_input)
        maker = makers.get(maker.first_input)
    return "" if maker is None else maker.operation


def _makers(file: IO[bytes], end: int) -> dict[str, _Node | None]:
    """Returns the node that makes each array of a model's graph; None for two that make one."""
    makers: dict[str, _Node | None] = {}
    for field, wire, start, stop in protobuf_fields(file, 0, end):
        if (field, wire) != (_GRAPH, 2):
            continue
        for part, kind, begin, close in protobuf_fields(file, start, stop):
            if (part, kind) == (_NODE, 2):
                node, outputs = _node(file, begin, close)
                for output in outputs:
                    makers[output] = None if output in makers else node
    return makers


def _node(file: IO[bytes], begin: int, end: int) -> tuple[_Node, list[str]]:
    """Returns a node, and the names of its outputs; an operation of another domain has no name."""
    texts: dict[int, list[str]] = {_INPUT: [], _OUTPUT: [], _TYPE: [], _DOMAIN: []}
    for field, wire, start, stop in protobuf_fields(file, begin, end):
        if wire == 2 and field in texts:
            file.seek(start)
            texts[field].append(file.read(stop - start).decode())
    is_own = all(domain in _OWN_DOMAINS for domain in texts[_DOMAIN])
    operation = texts[_TYPE][-1] if texts[_TYPE] and is_own else ""
    return _Node(operation, (texts[_INPUT] or [""])[0]), texts[_OUTPUT]

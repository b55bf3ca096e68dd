"""Lines that C libraries write on standard error: caught, sorted, and counted as complaints.

    hold()                          # a command: from here to the end of the process
    with listening():               # a call of the library: during the block
        decode(data)
        take()                      # (1, ["Corrupt JPEG data: 21 extraneous bytes before …"])

libjpeg within TensorFlow writes a line for a doubtful file, without the file's name, and cannot be
told not to. File descriptor 2 stays as it is: C libraries write through glibc's variable `stderr`,
and only that leads to a buffer here. Python's messages, progress bars and tracebacks take another
way. What is no complaint about an image is passed on to descriptor 2 within half a second; all is,
should the process abort. On a system without glibc nothing is caught.
"""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
import re
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any

from streamkd.tf_support.native_buffers import buffers_of_process, write_all_on_abort

# Seconds between two looks at the buffers.
_INTERVAL_S = 0.2
# Seconds after which no thread is still writing into a stream that rests.
_SETTLING_S = 0.001
# Complaints that are kept with their words; more are only counted.
_MAX_KEPT = 1000
# TensorFlow's levels by the first letter of a line; lines from 3 on always show.
_LEVELS = {"I": 0, "W": 1, "E": 2, "F": 3}
_SILENT_LEVEL = 3
LEVEL_VARIABLE = "TF_CPP_MIN_LOG_LEVEL"
# Level, source file and text of a line of TensorFlow.
_TENSORFLOW_LINE = re.compile(r"([IWEF])\d{4} \d\d:\d\d:\S+ +\d+ ([^:\s]+):\d+\] (.*)")
_BEFORE_START = "WARNING: All log messages before absl::InitializeLog()"
# Sources within TensorFlow that decode images.
_DECODERS = ("png_io.cc", "jpeg_mem.cc", "jpeg_handle.cc", "gif_io.cc", "decode_image_op.cc")
# Beginnings of the lines of libjpeg, libpng and libtiff, as their sources have them. libtiff begins
# with its function, or with the name that Pillow gives to every file.
_IMAGE_LINE = re.compile(
    r"Corrupt JPEG|Premature end of|Warning: unknown JFIF|Unknown Adobe color|Inconsistent progr"
    r"|Invalid (SOS|JPEG|component ID|progressive|scan script|crop request|color quant)"
    r"|Application transferred too|Not a JPEG|Unsupported (JPEG|marker type|color conversion)"
    r"|Empty (JPEG|input file)|(Huffman|Quantization|Arithmetic) table 0x|Huffman code size table"
    r"|Bogus (Huffman|input|JPEG|marker|sampling|virtual|DAC|DHT|DQT|buffer)|Improper call to JPEG"
    r"|JPEG (datastream|parameter)|Sampling factors too|Too many color comp|DCT (coeff|scaled)"
    r"|Maximum supported image|Missing Huffman|Fractional sampling|CCIR601 sampling|Component index"
    r"|Cannot (quantize to|transcode due)|Input file read error|Image too wide for this impl"
    r"|Didn't expect more than one scan|Insufficient memory \(case|Wrong JPEG library"
    r"|libpng (warning|error): |tempfile\.tif: |MissingRequired: |DumpMode\w+: "
    r"|_?(TIFF|Fax3|OJPEG|JPEG|LogL|Pixar|ZIP|ZSTD|LZW|LZMA|WebP|LERC|PackBits|Thunder|NeXT)\w*: "
)


class _Heard:
    """Complaints about images, with the thread that heard each, where it is known."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.lines: list[str] = []
        self.last_of_thread: dict[int, str] = {}
        self.count = 0
        self.num_listeners = 0
        self.level = _SILENT_LEVEL
        self.is_held = False
        self.hooks = contextlib.ExitStack()
        self.to_the_end = contextlib.ExitStack()

    def add(self, line: str, thread: int | None) -> None:
        with self.lock:
            self.count += 1
            if len(self.lines) < _MAX_KEPT:
                self.lines.append(line)
            if thread is not None:
                self.last_of_thread[thread] = line

    def forget(self) -> None:
        with self.lock:
            self.count = 0
            self.lines.clear()
            self.last_of_thread.clear()


_HEARD = _Heard()


def is_held() -> bool:
    """Returns whether the lines of C libraries are caught to the end of the process."""
    return _HEARD.is_held


def hold() -> None:
    """Catches the lines of C libraries and of Pillow from now to the end of the process."""
    with _HEARD.lock:
        if _HEARD.is_held or buffers_of_process() is None:
            return
        _HEARD.is_held = True
    _HEARD.to_the_end.enter_context(listening())
    atexit.register(_HEARD.to_the_end.close)
    write_all_on_abort()
    threading.Thread(target=_look_again_and_again, name="native-lines", daemon=True).start()


def _look_again_and_again() -> None:
    pause = threading.Event()
    while not pause.wait(_INTERVAL_S):
        _sort_lines()


@contextlib.contextmanager
def listening() -> Iterator[None]:
    """Catches the lines of C libraries, and Pillow's warnings, during the block.

    Several threads may listen at once: the last one that ends gives all back.
    """
    with _HEARD.lock:
        _HEARD.num_listeners += 1
        if _HEARD.num_listeners == 1:
            _HEARD.level = _user_level()
            _HEARD.hooks.enter_context(_native_caught())
            _HEARD.hooks.enter_context(_pillow_heard())
    try:
        yield
    finally:
        with _HEARD.lock:
            _HEARD.num_listeners -= 1
            if not _HEARD.num_listeners:
                _HEARD.hooks.close()


@contextlib.contextmanager
def _native_caught() -> Iterator[None]:
    buffers = buffers_of_process()
    if buffers is None:
        yield
        return
    buffers.catch()
    try:
        yield
    finally:
        buffers.release()
        _sort_lines(everything=True)


def _user_level() -> int:
    """Returns TensorFlow's level from which on its lines are shown."""
    text = os.environ.get(LEVEL_VARIABLE, "")
    return int(text) if text.isdecimal() else _SILENT_LEVEL


def num_bytes() -> int:
    """Returns the number of bytes that C libraries wrote while somebody listened."""
    buffers = buffers_of_process()
    if buffers is None:
        return 0
    with _HEARD.lock:
        return buffers.num_bytes()


def take() -> tuple[int, list[str]]:
    """Returns the number of complaints that were heard, and the first of them; forgets them."""
    _sort_lines(everything=True)
    with _HEARD.lock:
        heard = _HEARD.count, list(_HEARD.lines)
        _HEARD.forget()
    return heard


def take_own() -> str | None:
    """Returns Pillow's last complaint in this thread, or None; forgets it."""
    return _HEARD.last_of_thread.pop(threading.get_ident(), None)


def _sort_lines(*, everything: bool = False) -> None:
    """Sorts what the resting buffer holds, or what both hold."""
    buffers = buffers_of_process()
    if buffers is None:
        return
    with _HEARD.lock:
        data = buffers.read_resting()
        if everything:
            time.sleep(_SETTLING_S if buffers.has_rest() else 0)
            data += buffers.read_resting()
    others = _others(data.decode("utf-8", "backslashreplace").splitlines())
    if others:
        _write("".join(f"{line}\n" for line in others).encode("utf-8", "backslashreplace"))


def _write(data: bytes) -> None:
    """Writes on descriptor 2, if it can be written."""
    with contextlib.suppress(OSError):
        while data:
            data = data[os.write(2, data) :]


def _others(lines: list[str]) -> list[str]:
    """Returns the lines that are to be shown; complaints about images are kept instead."""
    others = []
    is_hidden = False  # whether the message of which a line may be a further row is hidden
    for line in lines:
        logged = _TENSORFLOW_LINE.fullmatch(line)
        if logged is not None:
            letter, source, text = logged.groups()
            is_complaint = os.path.basename(source) in _DECODERS and letter != "F"
            is_hidden = is_complaint or _LEVELS[letter] < _HEARD.level
            if is_complaint:
                _HEARD.add(text, None)
        elif line.startswith(_BEFORE_START):
            is_hidden = _HEARD.level > 0
        elif _IMAGE_LINE.match(line):
            _HEARD.add(line, None)
            is_hidden = False
            continue
        else:
            is_hidden = is_hidden and line.startswith((" ", "\t"))
        if not is_hidden:
            others.append(line)
    return others


class _PillowLog(logging.Handler):
    """Hears what Pillow logs; without a handler, Python would print it."""

    def emit(self, record: logging.LogRecord) -> None:
        _HEARD.add(record.getMessage(), threading.get_ident())


@contextlib.contextmanager
def _pillow_heard() -> Iterator[None]:
    """Hears the warnings of Pillow's modules, each time; all others are shown as before."""
    log = _PillowLog(logging.WARNING)
    logging.getLogger("PIL").addHandler(log)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("always", module=r"PIL\.")
            _hear_pillow(warnings.showwarning)
            yield
    finally:
        logging.getLogger("PIL").removeHandler(log)


def _hear_pillow(show: Callable[..., Any]) -> None:
    """Replaces the function that shows warnings by one that keeps those of Pillow."""

    def hear(
        message: Warning | str, category: Any, filename: str, *place: Any, **more: Any
    ) -> None:
        if f"{os.sep}PIL{os.sep}" in filename:
            _HEARD.add(str(message).partition("\n")[0].strip(), threading.get_ident())
        else:
            show(message, category, filename, *place, **more)

    setattr(warnings, "showwarning", hear)  # noqa: B010  the hook that warnings documents


def _forget_in_child() -> None:
    """Leaves the lines of the parent process to the parent."""
    buffers = buffers_of_process() if buffers_of_process.cache_info().currsize else None
    _HEARD.lock = threading.RLock()
    if buffers is not None:
        buffers.release()
        for _ in range(2):
            buffers.read_resting()


os.register_at_fork(after_in_child=_forget_in_child)

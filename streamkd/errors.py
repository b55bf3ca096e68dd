"""Refusals: one class for each kind, with a stable code and a message that says what to do.

    try:
        kd.teach(images, teacher, "teacher.h5")
    except kd.StreamkdError as error:
        print(error.code, error.key, error)

Each class also inherits the builtin exception that a caller would catch:

    StreamkdError
    ├── OptionError (ValueError)             a flag or an argument that does not fit
    ├── MissingExtraError (ImportError)      an optional library is not installed
    ├── ImagesNotFoundError (FileNotFoundError)   no such directory, or no images in it
    ├── BadImageError (ValueError)           a file that cannot be decoded
    │   └── UnreadableImageError (OSError)   its file is not there, or cannot be read
    ├── ChangedImageError (ValueError)       a file whose bytes are not those the teacher saw
    ├── ClassNamesError (ValueError)         the classes of two sides disagree
    ├── MissingLogitsError (LookupError)     an image, or a view of it, without stored logits
    ├── StoreError (ValueError)              not a logit store, damaged, or of another kind
    │   ├── DamagedStoreError                its bytes are not those that were written
    │   ├── UnfinishedStoreError             rows are still missing
    │   └── OtherImagesError                 the store was made for other images
    ├── StoreBusyError (BlockingIOError)     another process is writing this store
    ├── RunBusyError (BlockingIOError)       another process is training into this directory
    ├── TeacherError (ValueError)            a teacher that cannot be loaded or does not fit
    │   └── QueryBudgetError                 as many images were asked about as were allowed
    ├── StudentError (ValueError)            a student that cannot be built or does not fit
    ├── ResumeError (ValueError)             a run that was started with other data or options
    ├── WorkerLostError (ConnectionError)    another process that trains the same student ended
    ├── NonFiniteError (ArithmeticError)     a loss, gradient or logit that is not finite
    ├── OutputError (OSError)                an output path that cannot be written
    ├── DiskFullError (OSError)              not enough room; says how much is needed
    └── UnsupportedSystemError (ImportError) neither Linux nor macOS

A message says what does not fit, shows both sides, names the first offender, and ends with
something to type. Exit code 2 on the command line; `code` names the kind in `--json` output.
"""

from __future__ import annotations

from collections.abc import Sequence

from streamkd.public import public


@public
class StreamkdError(Exception):
    """A refusal that the user can do something about.

    Attributes:
      code: short name of the kind, stable, for programs (`--json`).
      key: the key of the image that the refusal is about, as bytes, or None.
    """

    code = "refused"

    def __init__(self, message: str, *, key: bytes | None = None):
        super().__init__(message)
        self.message = message
        self.key = key

    def __str__(self) -> str:
        # OSError and LookupError would otherwise print their arguments as a tuple or a repr.
        return self.message


class OptionError(StreamkdError, ValueError):
    """A flag or an argument that does not fit."""

    code = "bad_option"


class MissingExtraError(StreamkdError, ImportError):
    """An optional library is not installed."""

    code = "missing_extra"


class ImagesNotFoundError(StreamkdError, FileNotFoundError):
    """No such directory, or no images in it."""

    code = "images_not_found"


class BadImageError(StreamkdError, ValueError):
    """A file that cannot be decoded as an image."""

    code = "bad_image"


class UnreadableImageError(BadImageError, OSError):
    """An image whose file is not there or cannot be read; the image itself may be good."""

    code = "unreadable_image"


class ChangedImageError(StreamkdError, ValueError):
    """A file whose bytes are not those the teacher saw."""

    code = "changed_image"


class ClassNamesError(StreamkdError, ValueError):
    """The class names of two sides disagree."""

    code = "class_names"


class MissingLogitsError(StreamkdError, LookupError):
    """An image, or a view of it, without stored logits."""

    code = "missing_logits"


class StoreError(StreamkdError, ValueError):
    """A file that is not a logit store, is damaged, or does not fit."""

    code = "store"


class DamagedStoreError(StoreError):
    """A logit store whose bytes are not those that were written; its code is that of StoreError."""


class UnfinishedStoreError(StoreError):
    """A store in which rows are still missing."""

    code = "unfinished_store"


class OtherImagesError(StoreError):
    """A store that was made for other images."""

    code = "other_images"


class StoreBusyError(StreamkdError, BlockingIOError):
    """Another process is writing this store."""

    code = "store_busy"


class RunBusyError(StreamkdError, BlockingIOError):
    """Another process is training into this run directory."""

    code = "run_busy"


class TeacherError(StreamkdError, ValueError):
    """A teacher that cannot be loaded, or that does not fit."""

    code = "teacher"


class QueryBudgetError(TeacherError):
    """As many images were asked about as one call may ask about; what was answered is kept."""

    code = "query_budget"


class StudentError(StreamkdError, ValueError):
    """A student that cannot be built, or that does not fit."""

    code = "student"


class ResumeError(StreamkdError, ValueError):
    """A run that was started with other data or other options."""

    code = "resume"


class WorkerLostError(StreamkdError, ConnectionError):
    """Another process that trains the same student ended."""

    code = "worker_lost"


class NonFiniteError(StreamkdError, ArithmeticError):
    """A loss, a gradient or a logit that is not a finite number."""

    code = "non_finite"


class OutputError(StreamkdError, OSError):
    """An output path that cannot be written."""

    code = "cannot_write"


class DiskFullError(StreamkdError, OSError):
    """Not enough room on the disk."""

    code = "disk_full"


class UnsupportedSystemError(StreamkdError, ImportError):
    """The system lacks calls without which files would not be safe."""

    code = "unsupported_system"


# Names in one line of a message.
MAX_SHOWN_NAMES = 10


def readable_names(names: Sequence[str]) -> str:
    """Returns names as a message shows them: quoted, the first `MAX_SHOWN_NAMES` of them."""
    more = f", … ({len(names)} in all)" if len(names) > MAX_SHOWN_NAMES else ""
    return ", ".join(map(repr, names[:MAX_SHOWN_NAMES])) + more


def readable_key(key: bytes) -> str:
    """Returns `key` as one line of text for a message; bytes that are not UTF-8 are escaped."""
    text = key.decode("utf-8", "backslashreplace")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)

"""The classes of refusals: one base, a builtin each, a stable code, a readable text."""

from __future__ import annotations

import ast
import inspect
import re
from pathlib import Path

import pytest

from streamkd import errors
from streamkd.errors import StreamkdError, readable_key, readable_names

CLASSES = [
    value
    for _, value in inspect.getmembers(errors, inspect.isclass)
    if issubclass(value, StreamkdError) and value is not StreamkdError
]
BUILTINS = {
    "OptionError": ValueError,
    "MissingExtraError": ImportError,
    "ImagesNotFoundError": FileNotFoundError,
    "BadImageError": ValueError,
    "UnreadableImageError": OSError,
    "ChangedImageError": ValueError,
    "ClassNamesError": ValueError,
    "MissingLogitsError": LookupError,
    "StoreError": ValueError,
    "DamagedStoreError": ValueError,
    "UnfinishedStoreError": ValueError,
    "OtherImagesError": ValueError,
    "StoreBusyError": BlockingIOError,
    "RunBusyError": BlockingIOError,
    "TeacherError": ValueError,
    "QueryBudgetError": ValueError,
    "StudentError": ValueError,
    "ResumeError": ValueError,
    "WorkerLostError": ConnectionError,
    "NonFiniteError": ArithmeticError,
    "OutputError": OSError,
    "DiskFullError": OSError,
    "UnsupportedSystemError": ImportError,
}


# Beginnings of messages of one sentence, which ends in what to do.
WITH_ADVICE = (
    "There is no codec {}: BITS is one of",
    "A plan needs logits of the teacher: give one of",
    "The callback {} {}",
    "The run {} was started with {}{}",
)
PACKAGE = Path(errors.__file__).parent


def test_every_class_is_in_the_table():
    assert {c.__name__ for c in CLASSES} == set(BUILTINS)


@pytest.mark.parametrize("refusal", CLASSES, ids=lambda c: c.__name__)
def test_a_refusal_is_also_the_builtin_that_a_caller_would_catch(refusal):
    assert issubclass(refusal, BUILTINS[refusal.__name__])
    assert not issubclass(refusal, KeyError)


@pytest.mark.parametrize("refusal", CLASSES, ids=lambda c: c.__name__)
def test_a_refusal_prints_its_message_and_nothing_else(refusal):
    error = refusal("It does not fit.\nType this.", key=b"a/b.png")
    assert str(error) == error.message == "It does not fit.\nType this."
    assert error.key == b"a/b.png" and refusal("no key").key is None


def test_codes_are_short_words_and_differ():
    codes = [c.code for c in CLASSES if "code" in vars(c)]
    assert len(set(codes)) == len(codes)
    assert all(code.isidentifier() and code.islower() for code in codes)


def test_only_a_damaged_store_shares_a_code_which_programs_know():
    without = [c for c in CLASSES if "code" not in vars(c)]
    assert without == [errors.DamagedStoreError]
    assert errors.DamagedStoreError.code == errors.StoreError.code == "store"


@pytest.mark.parametrize("refusal", CLASSES, ids=lambda c: c.__name__)
def test_the_tree_in_the_docstring_names_every_class_and_its_builtin(refusal):
    line = next(
        text for text in errors.__doc__.splitlines() if f" {refusal.__name__} " in f"{text} "
    )
    parent = refusal.__mro__[1]
    if parent is StreamkdError:
        assert f"({BUILTINS[refusal.__name__].__name__})" in line


def text_of(node):
    """Returns the text of an expression as it is written, with {} for each value in it."""
    if isinstance(node, ast.Constant):
        return str(node.value)
    if isinstance(node, ast.JoinedStr):
        return "".join(text_of(part) for part in node.values)
    if isinstance(node, ast.BinOp):
        return text_of(node.left) + text_of(node.right)
    return "{}"


def messages():
    """Yields the texts of all refusals that the package raises, and where they are raised."""
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            raised = node.exc if isinstance(node, ast.Raise) else None
            if isinstance(raised, ast.Call) and getattr(raised.func, "id", None) in BUILTINS:
                yield text_of(raised.args[0]), f"{path.relative_to(PACKAGE)}:{node.lineno}"


def test_every_message_says_what_to_do_besides_what_does_not_fit():
    """In a sentence or a line of its own, but for a few texts that say both in one."""
    short = [(text, at) for text, at in messages() if not re.search(r"\n|[.;] ", text)]
    assert [(text, at) for text, at in short if not text.startswith(WITH_ADVICE)] == []


@pytest.mark.parametrize(
    ("key", "text"),
    [
        (b"cat/0412.png", "cat/0412.png"),
        ("katze/größe.png".encode(), "katze/größe.png"),
        (b"cat/\xff.png", r"cat/\xff.png"),
        (b"cat/a\nb\x1b[31m.png", r"cat/a\nb\x1b[31m.png"),
    ],
    ids=["plain", "umlaut", "no UTF-8", "control characters"],
)
def test_a_key_is_shown_on_one_line(key, text):
    assert readable_key(key) == text


def test_many_names_are_cut_with_their_number():
    assert readable_names(["a", "b c"]) == "'a', 'b c'"
    letters = list("abcdefghijkl")
    assert readable_names(letters) == f"{', '.join(map(repr, letters[:10]))}, … (12 in all)"

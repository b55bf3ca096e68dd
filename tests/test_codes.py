"""Every refusal and every warning has a code, and the codes are listed with meaning and remedy."""

import ast
import re
import warnings
from pathlib import Path

import pytest
from process_helpers import finished

import streamkd
from streamkd import codes, errors

PACKAGE = Path(streamkd.__file__).parent
TESTS = Path(__file__).parent


def subclasses(kind):
    """Returns a class and all that inherit from it, in the package."""
    return {kind, *(c for sub in kind.__subclasses__() for c in subclasses(sub))}


REFUSALS = {
    kind
    for kind in subclasses(errors.StreamkdError)
    if kind.__module__ in ("streamkd.errors", "streamkd") and kind is not errors.StreamkdError
}


def calls(name):
    """Returns the first argument of each call of `name` in the package that is a text."""
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and getattr(node.func, "id", None) == name and node.args:
                first = node.args[0]
                yield first.value if isinstance(first, ast.Constant) else None


def test_every_refusal_has_a_meaning_and_a_remedy():
    assert {kind.code for kind in REFUSALS} == set(codes.ERRORS)


def test_every_warning_that_the_package_gives_is_listed_and_every_listed_one_is_given():
    assert set(calls("warn")) == set(codes.WARNINGS)


def test_the_package_gives_no_warning_without_a_code():
    plain = [path.name for path in PACKAGE.rglob("*.py") if "warnings.warn(" in path.read_text()]
    assert plain == ["codes.py"]


@pytest.mark.parametrize("kind", sorted(REFUSALS, key=lambda kind: kind.__name__))
def test_every_refusal_is_raised_by_some_test(kind):
    code, name = kind.code, kind.__name__
    named = re.compile(rf"\b{name}\b|[\"']{code}[\"']")
    others = [path for path in TESTS.glob("test_*.py") if path != Path(__file__)]
    assert any(named.search(path.read_text()) for path in others)


@pytest.mark.parametrize("code", sorted({**codes.ERRORS, **codes.WARNINGS}))
def test_a_meaning_is_a_sentence_and_a_remedy_says_what_to_do(code):
    about = {**codes.ERRORS, **codes.WARNINGS}[code]
    assert about.meaning.endswith(".") and about.remedy.endswith(".")
    assert len(about.meaning) < 110 and len(about.remedy) < 110


def test_the_page_of_all_codes_is_up_to_date():
    page = (PACKAGE.parent / "docs" / "troubleshooting.md").read_text()
    assert page == codes.page()
    assert finished("-m", "streamkd.codes")[0] == page


def test_a_warning_has_its_code_and_the_caller_s_line():
    def function_of_ours():
        codes.warn("cache_stopped", "No room.", stacklevel=2)

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        function_of_ours()
    assert caught[0].message.code == "cache_stopped"
    assert str(caught[0].message) == "No room."
    assert caught[0].filename == __file__


def test_a_warning_without_an_entry_cannot_be_given():
    with pytest.raises(KeyError, match="'made_up' is not in WARNINGS"):
        codes.warn("made_up", "Words.")

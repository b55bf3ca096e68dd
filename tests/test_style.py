"""Style and types as `ruff` and `mypy` judge them, and warnings that are errors in the tests."""

from __future__ import annotations

import subprocess
import sys
import warnings
from pathlib import Path

import pytest
from timeouts import TIMEOUT_SECS

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = [name for name in ("streamkd", "tests", "examples") if (ROOT / name).is_dir()]


@pytest.mark.parametrize(
    "words",
    [["ruff", "check", *FOLDERS], ["ruff", "format", "--check", *FOLDERS], ["mypy"]],
    ids=["ruff check", "ruff format", "mypy"],
)
def test_the_code_passes(words):
    command = [sys.executable, "-m", *words]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=TIMEOUT_SECS
    )
    assert done.returncode == 0, done.stdout + done.stderr


TESTS = sorted(path.stem for path in Path(__file__).parent.glob("*.py"))


def warn(category, module):
    """Warns as code in a module would."""
    warnings.warn_explicit("old", category, "file.py", 1, module=module)


@pytest.mark.parametrize(
    "category", [DeprecationWarning, PendingDeprecationWarning, FutureWarning, UserWarning]
)
def test_a_warning_about_our_own_code_is_an_error(category):
    for module in ("streamkd", "streamkd.keys", "golden.make_golden", *TESTS):
        with pytest.raises(category):
            warn(category, module)


@pytest.mark.parametrize("category", [UserWarning, RuntimeWarning, ResourceWarning])
def test_a_warning_that_is_no_deprecation_is_an_error_wherever_it_comes_from(category):
    with pytest.raises(category):
        warn(category, "numpy.lib")


@pytest.mark.parametrize("category", [DeprecationWarning, FutureWarning])
def test_a_deprecation_inside_a_library_is_shown_and_no_error(category):
    with warnings.catch_warnings(record=True) as shown:
        warn(category, "numpy.lib")
    assert [warning.category for warning in shown] == [category]

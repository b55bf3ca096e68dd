"""Random damage to files of runs, caches, manifests, indexes and tables: see `fuzz_helpers.py`."""

from pathlib import Path

import pytest
from fuzz_helpers import CHEAP, fuzz, what_fails_undamaged
from process_helpers import finished

SCRIPT = Path(__file__).with_name("fuzz_helpers.py")


def test_a_sample_of_damaged_files_is_refused_or_harmless(tmp_path):
    done = fuzz(1, range(60), tmp_path, cheap=True)
    assert [case for case in done if case["wrong"] is not None] == []
    touched = {part for case in done for part in CHEAP if part in case["target"]}
    assert len(touched) > len(CHEAP) // 2


@pytest.mark.slow
def test_every_command_of_the_cases_succeeds_without_damage(tmp_path):
    fuzz(0, range(0), tmp_path)
    assert what_fails_undamaged(tmp_path) == []


@pytest.mark.slow
@pytest.mark.parametrize("first", range(0, 2000, 250))
def test_damaged_files_are_refused_or_harmless(first):
    """Each part is a process of its own, which a map of a file that is cut could end."""
    out, _ = finished(SCRIPT, "--seed", "0", "--first", first, "--count", "250")
    assert out.splitlines()[-1].endswith(" 0 wrong")

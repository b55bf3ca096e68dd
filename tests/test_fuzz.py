"""Random damage to all that streamkd reads, and random command lines: see `fuzz.py`."""

import random
from pathlib import Path

import fuzz_stores
import pytest
import store_helpers
from fuzz_helpers import CHEAP, fuzz, what_fails_undamaged
from fuzz_runner import in_children, run_cases
from process_helpers import finished

from streamkd.store import userblock

SCRIPT = Path(__file__).with_name("fuzz.py")
# Cases of the slow test, in parts of a few minutes.
FULL = {"images": 20_000, "image-parts": 20_000, "models": 2000, "files": 2000}
FULL |= {"stores": 1000, "configs": 1000, "command-lines": 3000}
PARTS = [
    (kind, first, count // 8)
    for kind, count in FULL.items()
    for first in range(0, count, count // 8)
]


def test_a_sample_of_damaged_files_is_refused_or_harmless(tmp_path):
    done = fuzz(1, range(36), tmp_path, cheap=True)
    assert [case for case in done if case["wrong"] is not None] == []
    touched = {part for case in done for part in CHEAP if part in case["target"]}
    assert len(touched) > len(CHEAP) // 2


@pytest.mark.parametrize(("kind", "count"), [("images", 60), ("models", 3), ("command_lines", 6)])
def test_a_sample_of_each_kind(tmp_path, kind, count):
    cases = list(run_cases(kind, 1, range(count), tmp_path))
    assert len(cases) == count
    assert [case for case in cases if case["wrong"] is not None] == []


@pytest.mark.slow
def test_what_goes_wrong_is_told(tmp_path, monkeypatch):
    """Cases that raise, end their process or hang; those that follow are run all the same."""
    (tmp_path / "fuzz_odd.py").write_text(
        "import os, time\n"
        "class Fuzz:\n"
        "    def __init__(self, seed, folder): pass\n"
        "    def run(self, number):\n"
        "        if number == 1: raise ValueError('odd')\n"
        "        if number == 2: os.kill(os.getpid(), 11)\n"
        "        if number == 4: return 'wrong'\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    cases = [(case["number"], case["wrong"]) for case in in_children("odd", 0, range(6))]
    assert cases == [
        *[(1, "raises ValueError('odd')"), (2, "ends its process with -11"), (4, "wrong")]
    ]


@pytest.mark.slow
def test_every_command_of_the_cases_succeeds_without_damage(tmp_path):
    fuzz(0, range(0), tmp_path)
    assert what_fails_undamaged(tmp_path) == []


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "first", "count"), PARTS)
def test_damage_is_refused_or_harmless(kind, first, count):
    out, _ = finished(SCRIPT, "--seed", "0", "--first", first, f"--{kind}", count)
    assert f"{count} {kind.replace('-', '_')}: 0 wrong" in out


def test_changed_numbers_of_image_headers_are_refused_or_harmless(tmp_path):
    cases = list(run_cases("image_parts", 1, range(60), tmp_path))
    assert [case for case in cases if case["wrong"] is not None] == []


def test_a_changed_store_has_digests_that_fit(tmp_path):
    """So that HDF5 reads the change; the same seed changes the same bytes."""
    path = tmp_path / "s.h5"
    store_helpers.teach(path, 6, num_views=2, num_classes=10)
    data = path.read_bytes()
    seen = set()
    for number in range(20):
        changed = fuzz_stores.changed_store(data, random.Random(number))
        assert changed == fuzz_stores.changed_store(data, random.Random(number))
        head, body = changed[: fuzz_stores.BLOCK].rstrip(b"\0").split(b"\n")[:2]
        assert head.split()[-1].decode() == userblock.digest(body)
        seen.add(changed)
    assert len(seen) > 15

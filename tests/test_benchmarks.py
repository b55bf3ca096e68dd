"""The benchmarks start, and compare fairly: nothing is timed here."""

from __future__ import annotations

import argparse
import ast
import contextlib
import importlib
from pathlib import Path

import numpy as np
import pytest

BENCHMARKS = Path(__file__).parent / "benchmarks"
SCRIPTS = [
    *sorted(BENCHMARKS.glob("*.py")),
    *sorted((BENCHMARKS.parents[1] / "examples").glob("*.py")),
]


@pytest.fixture
def benchmarks(monkeypatch):
    """Imports a module of the benchmarks by name."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module


def trees(script):
    """Returns the syntax tree of a script, and those of the programs that it holds as strings."""
    tree = ast.parse(script.read_text(encoding="utf-8"))
    texts = [
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    ]
    programs = [text for text in texts if text.startswith("\nfrom ")]
    return [tree, *map(ast.parse, programs)]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.name)
def test_a_script_imports_names_that_the_package_has(script):
    import streamkd

    for node in (node for tree in trees(script) for node in ast.walk(tree)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("streamkd"):
            module = importlib.import_module(node.module)
            for name in (alias.name for alias in node.names):
                if not hasattr(module, name):
                    importlib.import_module(f"{node.module}.{name}")
        elif isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.startswith("streamkd"):
                    importlib.import_module(alias.name)
        elif isinstance(node, ast.Attribute) and getattr(node.value, "id", None) == "kd":
            assert node.attr in streamkd.__all__, f"kd.{node.attr}"


def test_another_contender_goes_first_in_every_round(benchmarks):
    common, order = benchmarks("common"), []

    def contender(name):
        @contextlib.contextmanager
        def start():
            yield lambda num_batches: order.append(name) or num_batches

        return start

    contenders = {name: contender(name) for name in "abc"}
    common.measure_steady(contenders, repeats=3, seconds=0.0)
    assert order[-9:] == [*"abc", *"bca", *"cab"]
    order.clear()
    runs = {name: lambda name=name: order.append(name) or 1 for name in "ab"}
    common.measure(runs, repeats=2)
    assert order == [*"ab", *"ba", *"ab"]


def test_a_contender_counts_at_its_best_batch_size(benchmarks):
    rates = {"ours, batch 8": (3, 1), "ours, batch 32": (4, 1), "ours, cached, batch 8": (9, 1)}
    best = benchmarks("common").best
    assert best(rates, "ours") == "ours, batch 32"
    assert best(rates, "theirs") is None


def test_an_aim_is_met_by_wall_and_by_cpu_time(benchmarks):
    common = benchmarks("common")
    assert common.verdict("speed", 1.0, 1.2, at_least=1.0).startswith("met ")
    assert common.verdict("speed", 1.2, 0.9, at_least=1.0).startswith("not met ")
    assert common.verdict("speed", 0.9, 1.2, at_least=1.0).startswith("not met ")
    assert common.verdict_of_growth("cost", 0.01, 0.02, at_most=0.02).startswith("met ")
    assert common.verdict_of_growth("cost", 0.03, 0.01, at_most=0.02).startswith("not met ")


def test_xla_is_allowed_to_everyone_or_to_nobody(benchmarks):
    whole_job = benchmarks("whole_job")
    choices = {
        xla: {name: whole_job.choices(name, argparse.Namespace(xla=xla)) for name in whole_job.XLA}
        for xla in ("allowed", "off")
    }
    assert set(choices["off"].values()) == {("off",)}
    for ours in ("streamkd", "streamkd, decoding twice"):
        assert choices["allowed"].pop(ours) == ("auto",)
    assert all({"off", "on"} <= set(others) for others in choices["allowed"].values())


def test_the_ideal_and_each_peer_count_with_their_fastest_choice_of_xla(benchmarks):
    def seconds(*walls):
        parts = np.array([[wall, wall] for wall in walls], float)
        return np.concatenate([parts, parts.sum(axis=0, keepdims=True)])

    lines = benchmarks("whole_job").aims(
        "digits",
        {
            "streamkd, XLA auto": seconds(1, 1, 8),
            "ideal, XLA off": seconds(2, 1, 6),
            "ideal, XLA on": seconds(1, 3, 9),
            "saved logits, tf.data, XLA off": seconds(5, 5, 10),
            "saved logits, tf.data, XLA on": seconds(4, 4, 4),
        },
    )
    assert lines[0].startswith("not met  digits: ideal by streamkd: 0.80, by CPU 0.80")
    assert "'saved logits, tf.data, XLA on' by streamkd 1.20" in lines[1]
    assert len(lines) == 2


def test_a_folder_serves_as_a_data_set_and_a_missing_one_is_named(
    benchmarks, tmp_path, monkeypatch
):
    common = benchmarks("common")
    monkeypatch.setenv("STREAMKD_DATA", str(tmp_path))
    monkeypatch.setenv("STREAMKD_SCRATCH", str(tmp_path / "scratch"))
    (tmp_path / "mnist").mkdir()
    assert common.data_directory("mnist") == tmp_path / "mnist"
    with pytest.raises(SystemExit, match=r"neither a folder .*cifar10 nor an archive .*\.tar\.gz"):
        common.data_directory("cifar10")

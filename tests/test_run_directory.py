"""The run directory: its files, and the comparison of a resumed run with its first start."""

from __future__ import annotations

import csv
import json

import pytest
import tf_keras
from run_helpers import dense_student, same_weights, snapshot

from streamkd.errors import OutputError, ResumeError
from streamkd.runs.run_directory import COLUMNS, RunDirectory, config_of_model

CONFIG = {
    "images": "8f31",
    "batch_size": 8,
    "temperature": 4.0,
    "store": {"fingerprint": "8f31", "teacher": {"name": "t.keras"}},
    "class_names": ["ant", "bee"],
    "versions": {"tensorflow": "2.21.0"},
}


@pytest.fixture
def run(tmp_path):
    run = RunDirectory(tmp_path / "runs" / "first")
    run.prepare()
    return run


def test_prepare_makes_the_directory_and_leaves_nothing_in_it(run):
    assert run.path.is_dir() and not list(run.path.iterdir())
    run.prepare()


def test_a_path_below_a_file_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(
        OutputError, match=r"run directory .* cannot be written: Not a directory\.\n"
    ):
        RunDirectory(tmp_path / "file" / "run").prepare()


def test_withdraw_takes_back_what_prepare_made(run, tmp_path):
    (run.path / "config.json").write_text("{}")
    run.withdraw()
    assert not list(tmp_path.iterdir())


def test_withdraw_leaves_what_others_made(tmp_path):
    path = tmp_path / "runs" / "first"
    path.mkdir(parents=True)
    (path / "notes.txt").write_text("mine")
    before = snapshot(tmp_path)
    run = RunDirectory(path)
    run.prepare()
    run.withdraw()
    assert snapshot(tmp_path) == before
    second = RunDirectory(tmp_path / "runs" / "second")
    second.prepare()
    second.withdraw()
    assert snapshot(tmp_path) == before


def test_withdraw_leaves_a_run_with_a_saved_epoch(run):
    (run.checkpoints / "step-0000000004").mkdir(parents=True)
    run.withdraw()
    assert run.checkpoints.is_dir()


def test_the_same_configuration_resumes(run):
    run.write_config(CONFIG)
    run.check_config(
        run.read_config(), {**CONFIG, "versions": {"tensorflow": "9"}, "class_names": None}
    )
    assert json.loads((run.path / "config.json").read_text()) == CONFIG


@pytest.mark.parametrize(
    ("name", "value", "old", "new"),
    [
        ("batch_size", 16, "8", "16"),
        ("temperature", 2.0, "4.0", "2.0"),
        ("images", "90ab", '"8f31"', '"90ab"'),
        ("store", None, r'\{"fingerprint".*', "null"),
    ],
)
def test_another_configuration_is_refused_by_name(run, name, value, old, new):
    run.write_config(CONFIG)
    with pytest.raises(
        ResumeError, match=rf"started with (another|other) {name}\.\n  run: {old}\n"
    ) as info:
        run.check_config(run.read_config(), {**CONFIG, name: value})
    assert f"  now: {new}\n" in str(info.value)
    assert str(info.value).endswith(
        f"Give the same {name}, start again with `--no-resume`, or give another `--out`."
    )


def test_a_damaged_configuration_is_refused(run):
    (run.path / "config.json").write_text('{"images": ')
    with pytest.raises(
        ResumeError,
        match=r"config\.json is missing or damaged, so this start cannot be compared with the "
        r"first one: .*\n.*`--no-resume`",
    ):
        run.read_config()


def test_metrics_have_a_line_an_epoch_and_stay_empty_where_unknown(run):
    run.write_metrics([{"epoch": 1, "loss": 0.5, "agreement": None}, {"epoch": 2, "loss": 0.25}])
    with open(run.path / "metrics.csv", newline="") as lines:
        rows = list(csv.DictReader(lines))
    assert tuple(rows[0]) == COLUMNS
    assert [(r["epoch"], r["loss"], r["agreement"]) for r in rows] == [
        ("1", "0.5", ""),
        ("2", "0.25", ""),
    ]


def test_the_student_is_replaced_whole(run):
    for seed in (1, 2):
        model = dense_student(seed=seed)
        run.save_student(model)
        assert [path.name for path in run.path.iterdir()] == ["student.keras"]
        assert same_weights(tf_keras.models.load_model(run.student), model)


def test_class_names_are_those_of_the_configuration(run):
    assert config_of_model(run.path) == {}
    run.write_config(CONFIG)
    assert config_of_model(run.path)["class_names"] == ["ant", "bee"]
    assert config_of_model(run.path / "student.keras") == {}

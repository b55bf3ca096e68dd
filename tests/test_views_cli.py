"""Views on the command line: taught, replayed, compared, and what is refused."""

import helpers
import pytest
from run_helpers import command, dense_student, exact_teacher

from streamkd.cli.main import main
from streamkd.store.collection import open_store

TEACH = ["teach", "images", "--teacher", "teacher.keras", "--batch-size", "9"]
TRAIN = ["train", "images", "--student", "student.keras", "--epochs", "2", "--batch-size", "6"]
TRAIN += ["--optimizer", "sgd", "--jit", "off"]


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    root = tmp_path_factory.mktemp("work")
    helpers.draw_directory(root / "images", {"ant": 5, "bee": 4, "cat": 6})
    exact_teacher().save(root / "teacher.keras")
    dense_student().save(root / "student.keras")
    views = ["--views", "2", "--crop", "0.5", "1", "--flip", "--color", "--mixup", "--cutmix"]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        assert main([*TEACH, *views, "--out", "views.h5", "--quiet"]) == 0
    return root


def test_a_store_of_views_is_taught_verified_and_trained_from(here, capsys):
    _, answer, _ = command(capsys, "inspect", "views.h5")
    assert (answer["num_views"], answer["rows_total"]) == (3, 45)
    assert answer["views"]["crop"] == [0.5, 1.0] and answer["views"]["mixup"] == 0.8
    assert answer["views"]["color"] == 0.4 and answer["views"]["cutmix"] == 1.0
    assert command(capsys, "verify", "views.h5", "--images", "images")[1]["rows_checked"] == 45
    code, answer, _ = command(capsys, *TRAIN, "--store", "views.h5", "--out", "run")
    assert code == 0 and answer["steps"] == 6 and answer["loss"] is not None
    code, answer, _ = command(capsys, "evaluate", "run", "images", "--store", "views.h5")
    assert code == 0 and answer["teacher_accuracy"] == 1.0


def test_the_same_command_finds_the_store_finished_and_other_views_are_refused(here, capsys):
    before = (here / "views.h5").read_bytes()
    views = ["--views", "2", "--crop", "0.5", "1", "--flip", "--color", "--mixup", "--cutmix"]
    assert command(capsys, *TEACH, *views, "--out", "views.h5")[0] == 0
    code, answer, _ = command(capsys, *TEACH, *views[:-1], "--out", "views.h5")
    assert code == 2
    words = 'another view specification.\n  now:   {"cutmix": 0.0}\n  store: {"cutmix": 1.0}\n'
    assert words in answer["error"]["message"]
    assert (here / "views.h5").read_bytes() == before
    assert open_store("views.h5").header.block_rows == 9


def test_independent_views_are_offered_for_comparison(here, capsys):
    words = [*TRAIN, "--store", "views.h5", "--out", "other", "--augment", "independent"]
    with pytest.warns(UserWarning, match="no better than labels alone"):
        code, _, errors = command(capsys, *words, "--crop", "0.3", "1", "--flip")
    assert code == 0, errors
    code, answer, _ = command(capsys, *words)
    assert code == 2 and "say which: `--crop 0.35 1 --flip`" in answer["error"]["message"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([*TEACH, "--out", "n.h5", "--flip"], "There are no views"),
        ([*TEACH, "--out", "n.h5", "--views", "-1"], "--views is -1"),
        ([*TEACH, "--out", "n.h5", "--views", "2", "--crop", "0", "1"], "--crop is 0.0 1.0"),
        ([*TRAIN, "--store", "views.h5", "--out", "r", "--flip"], "The views belong to the store"),
        (
            [*TRAIN, "--store", "views.h5", "--out", "r", "--batch-size", "5"],
            "mixed in pairs",
        ),
    ],
)
def test_flags_that_cannot_be_are_refused(here, capsys, words, message):
    code, answer, _ = command(capsys, *words)
    assert code == 2 and message in answer["error"]["message"]

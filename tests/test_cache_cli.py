"""The pixel cache on the command line: trained through, and what is refused."""

import helpers
import pytest
from run_helpers import command, dense_student, exact_teacher, refusal

from streamkd.cli.main import main
from streamkd.models.families import load_model

TRAIN = ["train", "images", "--student", "student.keras", "--batch-size", "6", "--optimizer", "sgd"]
TRAIN += ["--jit", "off"]
DISK = ["--cache", "disk", "--cache-directory", "pixels"]


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """images, s.h5 with views of one size, student.keras, and `whole`, a run without a cache."""
    root = tmp_path_factory.mktemp("work")
    helpers.draw_directory(root / "images", {"ant": 5, "bee": 4, "cat": 6})
    exact_teacher().save(root / "teacher.keras")
    dense_student().save(root / "student.keras")
    teach = ["teach", "images", "--teacher", "teacher.keras", "--batch-size", "9", "--quiet"]
    views = ["--views", "2", "--crop", "0.5", "1", "--canonical-size", "10x12"]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        assert main([*teach, *views, "--out", "s.h5"]) == 0
        assert main([*TRAIN, "--store", "s.h5", "--out", "whole", "--epochs", "4", "--quiet"]) == 0
    return root


def trained(capsys, out, *words):
    code, answer, errors = command(capsys, *TRAIN, "--store", "s.h5", "--out", out, *words)
    assert code == 0, errors
    return answer, errors


def weights(run):
    return [w.tobytes() for w in load_model(run / "student.keras").get_weights()]


def test_a_run_with_a_cache_is_the_run_without_one(here, capsys):
    _, errors = trained(capsys, "filling", "--epochs", 2, *DISK)
    names = sorted(path.name for path in (here / "pixels").iterdir())
    assert [name.split(".")[1] for name in names] == ["pixels", "records"]
    assert f"decoded images are kept in pixels/{names[0]}" in errors
    # The epochs are longer now: another schedule would be another run.
    trained(capsys, "memory", "--epochs", 4, "--cache", "memory")
    trained(capsys, "disk", "--epochs", 4, *DISK)
    assert weights(here / "memory") == weights(here / "disk") == weights(here / "whole")
    assert sorted(path.name for path in (here / "pixels").iterdir()) == names


def test_a_pass_leaves_its_pixels_for_training(here, capsys):
    teach = ["teach", "images", "--teacher", "teacher.keras", "--batch-size", "9"]
    views = ["--views", "2", "--crop", "0.5", "1", "--canonical-size", "10x12"]
    code, answer, errors = command(capsys, *teach, *views, "--out", "new.h5", *DISK)
    assert code == 0 and (here / "new.h5").read_bytes() == (here / "s.h5").read_bytes()
    (pixels,) = (here / "pixels").glob("*.pixels")
    path = f"pixels/{pixels.name}"
    assert answer["cache"] == {"path": path, "image_size": [10, 12], "num_images": 15}
    assert f"pixels of 15 of 15 images, at 10x12, are kept in {path} for `train" in errors
    before = pixels.stat().st_mtime_ns
    trained(capsys, "disk", "--epochs", 4, *DISK)
    assert weights(here / "disk") == weights(here / "whole")
    assert pixels.stat().st_mtime_ns == before
    words = [*teach, *views, "--out", "quiet.h5", *DISK, "--quiet"]
    assert "kept in" not in command(capsys, *words)[2]


def test_a_cache_for_all_commands_of_a_file_is_that_of_train(here, capsys):
    (here / "s.toml").write_text('cache = "memory"\nteacher = "teacher.keras"\n')
    words = ["teach", "images", "--config", "s.toml", "--batch-size", "9"]
    code, answer, errors = command(capsys, *words, "--out", "plain.h5")
    assert code == 0 and answer["cache"] is None, errors
    with (here / "s.toml").open("a") as file:
        file.write('[teach]\ncache = "disk"\ncache-directory = "pixels"\n')
    answer = command(capsys, *words, "--out", "kept.h5")[1]
    assert answer["cache"]["num_images"] == 15 and answer["cache"]["image_size"] == [8, 8]


def test_quiet_says_nothing_of_the_cache(here, capsys):
    _, errors = trained(capsys, "quiet", "--epochs", 1, *DISK, "--quiet")
    assert "kept in" not in errors


def test_images_without_logits_may_learn_from_their_labels_alone(here, capsys):
    helpers.draw_image(here / "images" / "bee" / "new.png", 600, 1)
    words = [*TRAIN, "--store", "s.h5", "--epochs", 1, "--cache", "memory"]
    with pytest.warns(
        UserWarning, match="1 of 16 images have no logits and learn from their labels"
    ):
        code, answer, errors = command(capsys, *words, "--out", "labels", "--missing", "label")
    assert code == 0 and answer["steps"] == 3, errors
    code, answer, _ = command(capsys, *words, "--out", "none")
    assert code == 2 and "1 of 16 images have no logits in the store" in answer["error"]["message"]
    assert not (here / "none").exists()


def test_a_directory_that_takes_no_files_is_refused(here, capsys):
    (here / "pixels").write_bytes(b"")
    words = [*TRAIN, "--store", "s.h5", "--out", "new", *DISK]
    message = refusal(capsys, *words)
    assert message.startswith("Cannot write pixels: ") and "`--cache-directory`" in message
    assert not (here / "new").exists()
    code, answer, _ = command(capsys, *words)
    assert code == 2 and answer["error"]["message"] + "\n" == message


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--cache-directory", "p"], "The cache directory is p, and the cache is None"),
        (
            ["--cache-directory", "p", "--cache", "memory"],
            "The cache directory is p, and the cache is memory.\nAdd `--cache disk`.",
        ),
        (["--cache", "memory", "--cache-bytes", "-1"], "cache_bytes is -1"),
        (["--cache", "disk", "--cache-bytes", "0"], "cache_bytes is 0"),
    ],
)
def test_flags_that_do_not_fit_are_refused(here, capsys, words, message):
    assert message in refusal(capsys, *TRAIN, "--store", "s.h5", "--out", "new", *words)
    assert not (here / "new").exists() and not (here / "p").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--cache-directory", "p"], "--cache-directory is p, and no cache is asked for"),
        (["--cache-bytes", "9"], "--cache-bytes is 9, and no cache is asked for"),
        (["--cache", "memory"], "Argument --cache: invalid choice: 'memory'"),
        (["--cache", "disk", "--cache-directory", "images"], "lies in the directory of the images"),
    ],
)
def test_flags_of_a_pass_that_do_not_fit_are_refused(here, capsys, words, message):
    teach = ["teach", "images", "--teacher", "teacher.keras", "--out", "new.h5"]
    assert message in refusal(capsys, *teach, *words)
    assert not (here / "new.h5").exists() and not (here / "p").exists()

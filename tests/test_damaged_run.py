"""A run directory that was damaged, planted or renamed: refused by name, and nothing outside."""

from __future__ import annotations

import json
import os
import re
import shutil
import warnings

import pytest
from run_helpers import command, dense_student, refusal, snapshot
from run_helpers import fit as fit_student

from streamkd.errors import OutputError, ResumeError, StreamkdError, StudentError
from streamkd.exports.export import export
from streamkd.manifest.manifest import scan
from streamkd.models.load_student import load_student
from streamkd.runs import checkpoint
from streamkd.runs.checkpoint import Checkpoints
from streamkd.runs.run_directory import RunDirectory, config_of_model
from streamkd.stream.join import join
from streamkd.teachers.load_teacher import load_teacher


def fit(stream, student, run, **options):
    """Trains at one learning rate, so that a run may have more epochs than it began with."""
    return fit_student(stream, student, run, schedule="constant", **options)


@pytest.fixture(scope="module")
def stream(shared):
    return join(scan(shared[0]), shared[1], batch_size=15)


@pytest.fixture(scope="module")
def begun(stream, tmp_path_factory):
    """A run of one epoch."""
    run = tmp_path_factory.mktemp("begun") / "run"
    fit(stream, dense_student(), run)
    return run


@pytest.fixture
def run(begun, tmp_path):
    return shutil.copytree(begun, tmp_path / "run")


def put(kind, path):
    """Leaves something under the name of a file."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
    if kind == "a pipe":
        os.mkfifo(path)
    elif kind == "a directory":
        path.mkdir()
    elif kind == "a link":
        path.symlink_to(path.parent.parent / "victim")
    elif kind == "an enormous file":
        with open(path, "wb") as file:
            file.truncate(1 << 40)
    else:
        path.write_bytes(kind)


CONFIGS = [
    (b"{", "it is no JSON"),
    (b"\xff\xfe", "it is no UTF-8 text"),
    (b"", "it is no JSON"),
    (b"[1]", "it is a list, not an object"),
    (b"[" * 200_000, "nested too deep"),
    (b'{"image_options": null}', "its entry 'image_options' is missing or null"),
    (b'{"image_options": {"image_size": 8}}', "its entry 'image_size' is a number"),
    (b'{"image_options": {"image_size": [8, "x"]}}', r"image_size is \(8, 'x'\)"),
    (b'{"image_options": {"image_size": [90000, 90000]}}', r"'image_size' is \[90000, 90000\]"),
    (b'{"image_options": {"image_size": [8, 8], "decode": 3}}', "decode is 3"),
    (b'{"image_options": {"image_size": [8, 8], "new": 1}}', "unknown field, 'new'"),
    (b'{"image_options": {"image_size": [8, 8], "crop_to_aspect_ratio": "no"}}', "is a text"),
    (b'{"class_names": "ant"}', "its entry 'class_names' is a text"),
    (b'{"class_names": ["a", 3]}', "its entry 'class_names' is a number"),
    (b'{"class_names": [["a"]]}', "its entry 'class_names' is a list"),
    (b'{"student": 3}', "its entry 'student' is a number"),
    (b'{"versions": []}', "its entry 'versions' is a list"),
    ("a pipe", "it is a pipe, not a file"),
    ("a link", "it is a link, not a file"),
    ("a directory", "it is a directory, not a file"),
    ("an enormous file", "it has 1,099,511,627,776 bytes"),
]


@pytest.mark.parametrize(("kind", "words"), CONFIGS, ids=lambda value: repr(value)[:30])
def test_a_damaged_configuration_is_no_model_s(tmp_path, kind, words):
    (tmp_path / "run").mkdir()
    (tmp_path / "victim").write_text("{}")
    put(kind, tmp_path / "run" / "config.json")
    with pytest.raises(StudentError) as info:
        config_of_model(tmp_path / "run")
    assert re.search(words, str(info.value))
    assert str(info.value).startswith(
        f"{tmp_path / 'run' / 'config.json'} is damaged, so the classes and the images of the run "
        "are not known: "
    )
    assert str(info.value).endswith(
        f".\nRestore the file, or give the model itself: {tmp_path / 'run' / 'student.keras'}."
    )


def test_evaluate_refuses_it_and_takes_the_model_itself(run, shared, capsys):
    put(b'{"image_options": null}', run / "config.json")
    assert "is damaged" in refusal(capsys, "evaluate", run, shared[0])
    code, _, _ = command(capsys, "evaluate", run / "student.keras", shared[0])
    assert code == 0


@pytest.mark.parametrize("kind", [b"{", "a link", "an enormous file", b'{"student": 3}'])
def test_a_run_with_a_damaged_configuration_does_not_resume(stream, run, tmp_path, kind):
    (tmp_path / "victim").write_text("{}")
    put(kind, run / "config.json")
    with pytest.raises(ResumeError, match=r"config\.json is missing or damaged.*\n.*--no-resume"):
        fit(stream, dense_student(), run, epochs=2)
    fit(stream, dense_student(), run, resume=False)
    assert (tmp_path / "victim").read_text() == "{}"
    assert json.loads((run / "config.json").read_text())["batch_size"] == 15


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        (b"garbage\n", "line 1: it is no JSON"),
        (b'{"key": "a", "reason": "b"}\n{"key": 3, "reason": "b"}\n', "line 2 names no image"),
        (b'{"reason": "b"}\n', "line 1 names no image"),
        (b'{"key": "a"}\n', "its entry 'reason' is missing or null"),
        (b'{"key_base64": "*", "reason": "b"}\n', "line 1 names no image"),
        (b"[]\n", "line 1: it is a list, not an object"),
        (b"\xff\n", "line 1: it is no UTF-8 text"),
        (b"[" * 100_000, "line 1: it is no JSON: it is nested too deep"),
        ("a link", "it is a link, not a file"),
        ("an enormous file", "it has 1,099,511,627,776 bytes"),
    ],
    ids=lambda value: repr(value)[:30],
)
def test_damaged_lines_of_skipped_images_are_refused(tmp_path, kind, words):
    directory = RunDirectory(tmp_path / "run")
    directory.path.mkdir()
    put(kind, directory.path / "skipped.jsonl")
    (tmp_path / "victim").write_text("")
    with pytest.raises(ResumeError, match=words) as info:
        directory.read_skipped()
    assert "skipped.jsonl is damaged, so the images that were skipped are not known" in str(
        info.value
    )
    assert str(info.value).endswith("`--no-resume`, or give another `--out`.")


def test_a_run_with_a_damaged_list_of_skipped_images_does_not_resume(stream, run):
    (run / "skipped.jsonl").write_text("garbage\n")
    with pytest.raises(ResumeError, match=r"skipped\.jsonl is damaged"):
        fit(stream, dense_student(), run, epochs=2)


@pytest.mark.parametrize("kind", ["a pipe", "a directory"])
@pytest.mark.parametrize(
    "name",
    ["config.json", "metrics.csv", "skipped.jsonl", "nonfinite.jsonl", "student.keras"],
)
def test_a_name_that_is_no_file_s_is_refused_before_training(tmp_path, name, kind):
    (tmp_path / "run").mkdir()
    put(kind, tmp_path / "run" / name)
    directory = RunDirectory(tmp_path / "run")
    with pytest.raises(OutputError) as info:
        directory.prepare()
    directory.release()
    path = tmp_path / "run" / name
    assert str(info.value) == (
        f"{path} is {kind}, and a run keeps a file of that name.\n"
        f"Move it away (`mv {path} {path}.old`), or give another `--out`."
    )


@pytest.mark.parametrize("leads_to", ["another run's student", "nothing", "itself"])
def test_a_student_that_is_a_link_is_refused_by_name(run, shared, capsys, tmp_path, leads_to):
    student, other = run / "student.keras", tmp_path / "other.keras"
    student.rename(other)
    target = {"itself": student, "nothing": tmp_path / "none.keras"}.get(leads_to, other)
    student.symlink_to(target)
    words = (
        f"{student} is a link, and a run keeps its student in a file of its own.\n"
        f"  link:  {student}\n  model: {target}\n"
        "Give the model itself, or copy it into the run: "
        f"`cp --remove-destination {target} {student}`."
    )
    for give in (
        lambda: load_teacher(run),
        lambda: load_student(run, num_classes=3, image_size=(8, 8), num_channels=3),
        lambda: export(run, tmp_path / "out.keras"),
    ):
        with pytest.raises(StreamkdError) as refused:
            give()
        assert str(refused.value) == words
    code, found, _ = command(capsys, "evaluate", run, shared[0])
    assert (code, found["error"]["message"]) == (2, words)
    assert not (tmp_path / "out.keras").exists()
    student.unlink()
    shutil.copy(other, student)
    assert command(capsys, "evaluate", run, shared[0])[0] == 0


@pytest.mark.parametrize("kind", [b"", "a pipe", "a link"])
def test_checkpoints_that_are_no_directory_are_refused_before_training(tmp_path, kind):
    (tmp_path / "run").mkdir()
    put(kind, tmp_path / "run" / "checkpoints")
    directory = RunDirectory(tmp_path / "run")
    with pytest.raises(OutputError, match="and a run keeps a directory of that name"):
        directory.prepare()
    directory.release()


@pytest.mark.parametrize("kind", ["a link", "a pipe", "a directory", b"rest"])
def test_names_that_can_be_foretold_are_not_written_through(stream, run, tmp_path, kind):
    (tmp_path / "victim").write_text("precious")
    names = (".writable", ".student.tmp.keras", "config.json.tmp", "metrics.csv.tmp")
    for name in names:
        put(kind, run / name)
    # A folder is removed with what is in it, but not what a link in it leads to.
    put(kind, run / "checkpoints" / "step-0000000004.tmp")
    put("a link", run / "metrics.csv")
    put("a link", run / "student.keras")
    fit(stream, dense_student(), run, epochs=2)
    assert (tmp_path / "victim").read_text() == "precious"
    assert sorted(path.name for path in run.iterdir()) == [
        *("checkpoints", "config.json", "metrics.csv", "student.keras")
    ]
    assert not any(path.is_symlink() for path in run.iterdir())


def test_a_temporary_name_that_is_taken_while_it_trains_is_not_written_through(run, tmp_path):
    (tmp_path / "victim").write_text("precious")
    directory = RunDirectory(run)
    directory.prepare()
    for name in ("config.json.tmp", "skipped.jsonl.tmp", ".student.tmp.keras"):
        put("a link", run / name)
    directory.write_config({"a": 1})
    directory.write_skipped({b"a": "b"})
    directory.save_student(dense_student())
    directory.release()
    assert (tmp_path / "victim").read_text() == "precious"
    assert config_of_model(run) == {"a": 1}


@pytest.mark.parametrize("name", ["state.json", "tensors.index", "tensors.data-00000-of-00001"])
@pytest.mark.parametrize("kind", ["a pipe", "a link", "a directory"])
def test_a_part_of_a_checkpoint_that_is_no_file_is_not_read(stream, run, name, kind):
    (folder,) = (run / "checkpoints").iterdir()
    put(kind, folder / name)
    with pytest.raises(ResumeError, match=rf"{folder.name}: {name} is {kind}, not a file"):
        fit(stream, dense_student(), run, epochs=2)


@pytest.mark.parametrize(
    "kind", [b"{", b"[]", b"[" * 100_000, b'{"step": "1", "digest": "x"}', b'{"step": 1}']
)
def test_a_state_of_another_kind_is_not_read(stream, run, kind):
    (folder,) = (run / "checkpoints").iterdir()
    put(kind, folder / "state.json")
    with pytest.raises(ResumeError, match=f"No checkpoint in .*\n  {folder.name}: "):
        fit(stream, dense_student(), run, epochs=2)


@pytest.mark.parametrize(
    ("entry", "value", "words"),
    [
        ("history", 3, "its entry 'history' is a number"),
        ("history", [{"step": "x"}], "its entry 'step' is a text"),
        ("left_out", [{}], "its entry 'step' is missing or null"),
        ("ended_early", 1, "its entry 'ended_early' is a number"),
        ("callbacks", [], "its entry 'callbacks' is a list"),
        ("other", 1, "its entry 'other' is not known"),
    ],
)
def test_a_state_of_another_program_is_refused(stream, run, entry, value, words):
    (folder,) = (run / "checkpoints").iterdir()
    state = {**json.loads((folder / "state.json").read_text()), entry: value}
    del state["digest"]
    digest = checkpoint._digest(state, b"")
    (folder / "state.json").write_text(json.dumps({**state, "digest": digest}))
    with pytest.raises(ResumeError, match=f"is of no run of streamkd: {words}"):
        fit(stream, dense_student(), run, epochs=2)


def test_enormous_arrays_take_no_memory(run):
    (folder,) = (run / "checkpoints").iterdir()
    put("an enormous file", folder / "arrays.npz")
    with pytest.raises(ValueError, match=r"arrays\.npz has 1,099,511,627,776 bytes"):
        checkpoint._read_state(folder)
    with open(folder / "arrays.npz", "wb") as file:
        file.truncate(1 << 24)
    with pytest.raises(ValueError, match=r"state\.json or arrays\.npz was changed"):
        checkpoint._read_state(folder)


@pytest.mark.parametrize("kind", [b"", "a link", "a pipe", "a directory"])
def test_what_is_called_like_a_checkpoint_is_in_no_one_s_way(tmp_path, kind):
    folder = tmp_path / "run" / "checkpoints"
    folder.mkdir(parents=True)
    (tmp_path / "run" / "victim").mkdir()
    for name in ("step-0000000009", "step-0000000001", "step-0000000001-2"):
        put(kind, folder / name)
    if kind == "a directory":
        for name in ("step-0000000001", "step-0000000001-2"):
            (folder / name).rmdir()
    checkpoints = Checkpoints(folder, model=dense_student())
    checkpoints.save(1, {})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # where "a directory" is the newest
        state, _ = checkpoints.restore()
    assert state == {"step": 1}


def test_only_leftovers_of_ours_are_removed(tmp_path):
    checkpoints = Checkpoints(tmp_path, model=dense_student())
    for name in ("mine.tmp", "step-0000000001.tmp", "step-0000000001-2.old.tmp"):
        (tmp_path / name).write_text("")
    checkpoints.remove_leftovers()
    assert [path.name for path in tmp_path.iterdir()] == ["mine.tmp"]


def renamed_when(directory, number):
    """Returns a function that renames the run directory when it is called for the n-th time."""
    calls = iter(range(1, 1000))

    def stop():
        if next(calls) == number:
            directory.rename(directory.with_name("moved"))
        return False

    return stop


@pytest.mark.parametrize("then", ["nothing", "an empty directory", "another run", "a link to it"])
def test_a_run_that_is_renamed_is_noticed_before_the_next_save(stream, begun, tmp_path, then):
    run = tmp_path / "run"
    rename = renamed_when(run, 3)  # within the second epoch

    def stop():
        rename()
        if (tmp_path / "moved").exists() and not os.path.lexists(run):
            if then == "an empty directory":
                run.mkdir()
            elif then == "another run":
                shutil.copytree(begun, run)
            elif then == "a link to it":
                run.symlink_to("moved")
        return False

    if then == "a link to it":  # the path still leads to the run
        fit(stream, dense_student(), run, epochs=3, steps_per_call=1, stop=stop)
        assert len((tmp_path / "moved" / "metrics.csv").read_text().splitlines()) == 4
        return
    with pytest.raises(OutputError) as info:
        fit(stream, dense_student(), run, epochs=3, steps_per_call=1, stop=stop)
    assert str(info.value) == (
        f"The run directory {run} was renamed or removed while the run trained.\n"
        "The checkpoints are where it is now. Move it back, and give the same command again; or "
        "give its new path as `--out`."
    )
    expected = {"nothing": None, "an empty directory": {}, "another run": snapshot(begun)}[then]
    assert (snapshot(run) if run.exists() else None) == expected
    fit(stream, dense_student(), tmp_path / "moved", epochs=3)
    assert len((tmp_path / "moved" / "metrics.csv").read_text().splitlines()) == 4


def test_a_directory_that_gets_another_number_is_not_taken_for_a_renamed_one(
    run, tmp_path, monkeypatch
):
    directory = RunDirectory(run)
    directory.prepare()
    before = snapshot(run)
    with monkeypatch.context() as patched:
        patched.setattr(os.path, "samestat", lambda first, second: False)
        directory.check_in_place()
        run.rename(tmp_path / "moved")
        shutil.copytree(tmp_path / "moved", run)
        with pytest.raises(OutputError, match="was renamed or removed"):
            directory.check_in_place()
    shutil.rmtree(tmp_path / "moved")
    with pytest.raises(OutputError, match="was renamed or removed"):
        directory.check_in_place()
    assert snapshot(run) == before
    directory.release()


def test_a_run_that_is_renamed_before_its_first_save_leaves_others_alone(stream, tmp_path):
    run = tmp_path / "run"
    rename = renamed_when(run, 1)

    def stop():
        rename()
        run.mkdir(exist_ok=True)
        (run / "notes.txt").write_text("mine")
        return False

    with pytest.raises(OutputError, match="was renamed or removed"):
        fit(stream, dense_student(), run, epochs=3, steps_per_call=1, stop=stop)
    assert [path.name for path in run.iterdir()] == ["notes.txt"]


@pytest.mark.parametrize("leads_to", ["victim", "nowhere"])
def test_export_does_not_write_through_a_link(tmp_path, leads_to):
    (tmp_path / "victim").write_text("precious")
    (tmp_path / "out.keras").symlink_to(leads_to)
    with pytest.raises(OutputError, match=r"out\.keras exists already"):
        export(dense_student(), tmp_path / "out.keras", progress=False)
    assert (tmp_path / "victim").read_text() == "precious"
    assert not (tmp_path / "nowhere").exists()


def test_a_manifest_is_not_written_through_a_link_or_into_a_pipe(shared, tmp_path):
    (tmp_path / "victim").write_text("precious")
    (tmp_path / ".train.jsonl.tmp").symlink_to("victim")
    scan(shared[0]).write(tmp_path / "train.jsonl")
    assert (tmp_path / "victim").read_text() == "precious"
    assert len(scan(tmp_path / "train.jsonl")) == 30
    os.mkfifo(tmp_path / "pipe.jsonl")
    with pytest.raises(OutputError, match=r"pipe\.jsonl exists, and is no manifest"):
        scan(shared[0]).write(tmp_path / "pipe.jsonl")

"""Small files of our own: what a disk or somebody else made of them is told in words."""

import contextlib
import os
import random
import socket

import numpy as np
import pytest
from run_helpers import refusal

from streamkd import disk, small_files
from streamkd.errors import ImagesNotFoundError, OptionError, TeacherError
from streamkd.manifest.manifest import scan
from streamkd.small_files import MAX_BYTES, DamagedFileError, read_object, read_objects
from streamkd.teachers.logits_files import read_logits


def place(path, kind):
    """Puts something under a name; returns what is to be kept open."""
    if kind == "a pipe":
        os.mkfifo(path)
    elif kind == "a directory":
        path.mkdir()
    elif kind == "a link":
        (path.parent / "target").write_text("{}")
        path.symlink_to("target")
    elif kind == "a link to itself":
        path.symlink_to(path.name)
    elif kind == "a link to a device":
        path.symlink_to("/dev/zero")
    elif kind == "a socket":
        listening = socket.socket(socket.AF_UNIX)
        listening.bind(os.path.relpath(path))  # the name of a socket is short
        return listening
    return None


KINDS = ["a pipe", "a directory", "a link", "a link to itself", "a link to a device", "a socket"]


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_no_file_is_named_and_not_waited_for(tmp_path, kind, monkeypatch):
    monkeypatch.chdir(tmp_path)
    kept = place(tmp_path / "x.json", kind)
    word = "a link" if kind.startswith("a link") else kind
    assert small_files.kind_of(tmp_path / "x.json") == word
    with pytest.raises(DamagedFileError, match=f"^it is {word}, not a file$"):
        read_object(tmp_path / "x.json")
    if kept is not None:
        kept.close()


def test_what_takes_the_name_between_two_looks_is_named_too(tmp_path, monkeypatch):
    os.mkfifo(tmp_path / "x.json")
    monkeypatch.setattr(small_files, "kind_of", lambda path: None)
    with pytest.raises(DamagedFileError, match=r"^it is a pipe, not a file$"):
        read_object(tmp_path / "x.json")


def test_an_enormous_file_takes_no_memory(tmp_path):
    with open(tmp_path / "x.json", "wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(
        DamagedFileError, match=rf"^it has 1,099,511,627,776 bytes, and {MAX_BYTES:,} are the most$"
    ):
        read_objects(tmp_path / "x.json")


@pytest.mark.parametrize("name", ["none.json", "none/x.json", "file/x.json", "nul\0.json"])
def test_a_file_that_is_not_there_is_told_as_such(tmp_path, name):
    (tmp_path / "file").write_text("")
    with pytest.raises(FileNotFoundError):
        read_object(tmp_path / name)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "it is no JSON: Expecting value"),
        (b"{", "it is no JSON: "),
        (b'{"a": 1} x', "it is no JSON: Extra data"),
        (b'{"a": 1, "a": 1}', "it is no JSON: it names 'a' twice"),
        (b"\xff\xfe{}", "it is no UTF-8 text"),
        (b"\0" * 4096, "it is no JSON: "),
        (b"[" * 200_000, "it is no JSON: it is nested too deep"),
        (b'{"a": ' + b"[" * 150 + b"]" * 150 + b"}", "^it is no JSON: it is nested too deep"),
        (b'{"a": ' * 150 + b"1" + b"}" * 150, "^it is no JSON: it is nested too deep"),
        (b"[]", "it is a list, not an object"),
        (b"null", "it is missing or null, not an object"),
        (b"7", "it is a number, not an object"),
        (b"9" * 10_000, "it is no JSON: "),
        (b'"x"', "it is a text, not an object"),
        (b"true", "it is true or false, not an object"),
    ],
    ids=lambda value: repr(value)[:20],
)
def test_what_is_no_object_is_told(tmp_path, data, words):
    (tmp_path / "x.json").write_bytes(data)
    with pytest.raises(DamagedFileError, match=words):
        read_object(tmp_path / "x.json")


def test_objects_are_read_line_by_line_and_a_damaged_line_is_named(tmp_path):
    (tmp_path / "x.jsonl").write_bytes(b'{"a": 1}\n{"b": [2]}\n')
    assert read_objects(tmp_path / "x.jsonl") == [{"a": 1}, {"b": [2]}]
    (tmp_path / "x.jsonl").write_bytes(b'{"a": 1}\n{"b": \n')
    with pytest.raises(DamagedFileError, match=r"^line 2: it is no JSON"):
        read_objects(tmp_path / "x.jsonl")


@pytest.mark.parametrize(
    ("value", "kinds", "words"),
    [
        ([1], (dict,), "its entry 'name' is a list"),
        (True, (int,), "its entry 'name' is true or false"),
        (1.5, (int,), "its entry 'name' is a number"),
        ("x", (list, None), "its entry 'name' is a text"),
        ({}, (str,), "its entry 'name' is an object"),
        (None, (dict,), "its entry 'name' is missing or null"),
    ],
)
def test_an_entry_of_another_kind_is_named(value, kinds, words):
    with pytest.raises(DamagedFileError, match=f"^{words}$"):
        small_files.entry({"name": value}, "name", *kinds)
    assert small_files.entry({}, "name", dict, None) is None
    assert small_files.entry({"name": 3}, "name", int) == 3


LEFTOVERS = [*KINDS, "a file", "a full directory"]


@pytest.mark.parametrize("kind", LEFTOVERS)
def test_a_new_file_takes_the_place_of_whatever_has_its_name(tmp_path, kind, monkeypatch):
    monkeypatch.chdir(tmp_path)
    victim = tmp_path / "target"
    path = tmp_path / "x.tmp"
    kept = place(path, kind)
    victim.write_text("precious")
    if kind == "a file":
        path.write_text("older, and longer")
    elif kind == "a full directory":
        (path / "below").mkdir(parents=True)
        (path / "below" / "link").symlink_to(victim)
    with disk.open_new(path) as file:
        file.write("é\n")
    assert path.read_bytes() == "é\n".encode() and not path.is_symlink()
    assert victim.read_text() == "precious"
    if kept is not None:
        kept.close()


@pytest.mark.parametrize("kind", ["a link", "a link to nothing", "a pipe", "a directory"])
def test_a_file_is_made_only_where_nothing_is(tmp_path, kind):
    path = tmp_path / "x"
    if kind == "a link to nothing":
        path.symlink_to(tmp_path / "nothing")
    else:
        place(path, kind)
    with pytest.raises(FileExistsError):
        disk.create(path)
    assert not (tmp_path / "nothing").exists()


def test_a_text_is_not_written_through_a_link_left_under_its_temporary_name(tmp_path):
    (tmp_path / "victim").write_text("precious")
    (tmp_path / "a.json.tmp").symlink_to("victim")
    (tmp_path / "a.json").symlink_to("victim")
    disk.write_atomically(tmp_path / "a.json", "new\n")
    assert (tmp_path / "victim").read_text() == "precious"
    assert (tmp_path / "a.json").read_text() == "new\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.json", "victim"]


def test_a_pipe_of_the_user_s_is_read_to_its_end_and_one_without_a_writer_is_empty(tmp_path):
    read_end, write_end = os.pipe()
    os.write(write_end, b"cat\ndog\n")
    os.close(write_end)
    assert small_files.read_input(f"/dev/fd/{read_end}") == b"cat\ndog\n"
    os.close(read_end)
    os.mkfifo(tmp_path / "pipe")
    assert small_files.read_input(tmp_path / "pipe") == b""


@pytest.mark.parametrize("path", ["/dev/zero", "enormous"])
def test_what_has_no_end_is_not_read_to_it(tmp_path, path):
    if path == "enormous":
        path = tmp_path / path
        with open(path, "wb") as file:
            file.truncate(1 << 40)
    with pytest.raises(OSError, match="it has more than 5,000,000 bytes"):
        small_files.read_input(path, max_bytes=5_000_000)


def enormous(path, head=b""):
    """Writes a file with a hole of a terabyte behind its head."""
    with open(path, "wb") as file:
        file.write(head)
        file.truncate(1 << 40)
    return path


MANIFEST_HEAD = (
    b'{"format": "streamkd manifest", "version": 1, "root": "/", "class_names": ["a"], '
    b'"num_images": 1}\n{"file_name": "a.png", "label": 0}\n'
)


@pytest.mark.parametrize(
    ("name", "head"),
    [
        ("train.jsonl", b""),
        ("train.jsonl", MANIFEST_HEAD),
        ("table.jsonl", b'{"file_name": "a.png"}\n'),
        ("table.csv", b"file_name,label\na.png,b\n"),
        ("table.csv", b""),
        ("table.tsv", b"file_name\tlabel\n"),
    ],
)
def test_an_enormous_manifest_or_table_is_refused_by_name(tmp_path, name, head):
    with pytest.raises(ImagesNotFoundError, match=f"{name}' is neither a directory nor a manifest"):
        scan(enormous(tmp_path / name, head))


@pytest.mark.parametrize("kind", ["pipe", "zero", "enormous"])
@pytest.mark.parametrize(
    "words",
    [
        ("scan", "--labels"),
        ("scan", "--class-map"),
        ("scan", "--class-names"),
        ("train", "--class-weight"),
        ("scan", "--config"),
    ],
    ids=" ".join,
)
def test_a_file_of_a_flag_is_never_waited_for(
    directory, tmp_path, capsys, monkeypatch, words, kind
):
    monkeypatch.setattr(small_files.read_input, "__kwdefaults__", {"max_bytes": 1 << 20})
    path = tmp_path / "pipe"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "zero":
        path = "/dev/zero"
    else:
        enormous(path)
    command, flag = words
    more = ["--student", "s.keras", "--out", tmp_path / "run"] if command == "train" else []
    if (flag, kind) == ("--config", "pipe"):
        return  # an empty file has no flags
    message = refusal(capsys, command, directory, flag, path, *more)
    assert kind == "pipe" or "it has more than 1,048,576 bytes" in message


@pytest.mark.parametrize("ending", ["json", "toml"])
def test_class_weights_that_nest_too_deep_are_refused(directory, tmp_path, capsys, ending):
    path = tmp_path / f"weights.{ending}"
    path.write_text(("a = " if ending == "toml" else "") + "[" * 200_000)
    more = ["--student", "s.keras", "--out", tmp_path / "run", "--class-weight", path]
    message = refusal(capsys, "train", directory, *more)
    assert message.startswith(f"--class-weight {path} cannot be read: it is nested too deep.\n")


@pytest.mark.parametrize("words", [("keys.jsonl", "logits.npy"), ("keys.jsonl", "logits.csv")])
@pytest.mark.parametrize("which", [0, 1], ids=["keys", "logits"])
@pytest.mark.parametrize("kind", ["pipe", "zero", "enormous", "deep"])
def test_import_waits_for_no_pipe_and_reads_no_line_without_end(
    directory, tmp_path, capsys, words, which, kind
):
    keys, logits = (tmp_path / word for word in words)
    keys.write_text('"class_0/00000.png"\n')
    logits.write_text("class_0/00000.png,1,2,3\n")
    path = (keys, logits)[which]
    path.unlink()
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "zero":
        path.symlink_to("/dev/zero")
    elif kind == "enormous":
        enormous(path)
    else:
        path.write_text("[" * 200_000)
    out = tmp_path / "new.h5"
    message = refusal(capsys, "import", logits, "--images", directory, "--keys", keys, "--out", out)
    assert ("cannot be read" in message or "and 0 keys" in message) and not out.exists()


@pytest.mark.parametrize("ending", ["npy", "npz", "npz compressed"])
@pytest.mark.parametrize("seed", range(3))
def test_damaged_logits_are_read_or_refused(directory, tmp_path, ending, seed):
    path = tmp_path / f"logits.{ending[:3]}"
    logits = np.random.default_rng(seed).normal(size=(30, 3)).astype(np.float32)
    if ending == "npy":
        np.save(path, logits)
    else:
        (np.savez_compressed if "compressed" in ending else np.savez)(path, logits=logits)
    data, chance = path.read_bytes(), random.Random(seed)
    for _ in range(100):
        changed = bytearray(data)
        # Most of them in the header, where NumPy parses Python.
        for _ in range(chance.randrange(1, 4)):
            changed[chance.randrange(min(160, len(data)))] = chance.choice(b"({[\"'\n\0\xff9,")
        path.write_bytes(changed)
        with contextlib.suppress(OptionError, TeacherError):
            read_logits(path)


@pytest.mark.parametrize("header", ["{'descr': (", "{'shape': " + "(" * 99, "{'a': 1", "é", "1 2"])
def test_a_damaged_header_of_logits_is_named(tmp_path, header):
    text = header.encode("latin-1").ljust(117) + b"\n"
    path = tmp_path / "logits.npy"
    path.write_bytes(b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + bytes(64))
    with pytest.raises(
        OptionError, match=r"^The logits .*logits\.npy cannot be read: .+\.\nGive a"
    ):
        read_logits(path)

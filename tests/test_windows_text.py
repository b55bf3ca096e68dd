"""Text files as Notepad, Excel and PowerShell write them are read as meant, or named."""

import re

import pytest
from helpers import draw_directory, draw_noise
from run_helpers import command, refusal

from streamkd.cli import files
from streamkd.errors import ImagesNotFoundError, OptionError
from streamkd.manifest.labels import read_class_map, read_labels
from streamkd.manifest.manifest import scan

MARK = b"\xef\xbb\xbf"
CODINGS = ["utf-16", "utf-16-le", "utf-16-be", "utf-32"]


@pytest.fixture
def root(tmp_path):
    for seed, name in enumerate(("cat", "dog")):
        (tmp_path / name).mkdir()
        draw_noise(tmp_path / name / "0.png", (8, 8), seed)
    return tmp_path


def test_marks_and_line_ends_are_no_part_of_the_text(root):
    path = root / "x"
    path.write_bytes(MARK + b"cat\r\ndog\r\n")
    assert read_labels(path) == files.read_class_names(str(path)) == ["cat", "dog"]
    path.write_bytes(MARK + b"0\r\n1\r\n")
    assert read_labels(path) == [0, 1]
    path.write_bytes(MARK + b'["cat",\r\n"dog"]')
    assert read_labels(path) == ["cat", "dog"]
    path.write_bytes(MARK + b'{"cat": "a",\r\n"dog": "b"}\r\n')
    assert read_class_map(path) == {"cat": "a", "dog": "b"}
    path.write_bytes(MARK + b'{"cat": 2,\r\n"dog": 1.5}\r\n')
    assert files.read_class_weight(str(path)) == {"cat": 2, "dog": 1.5}
    (root / "x.toml").write_bytes(MARK + b"cat = 2\r\n")
    assert files.read_class_weight(str(root / "x.toml")) == {"cat": 2}


@pytest.mark.parametrize("coding", CODINGS)
def test_wide_text_is_named(root, coding):
    def written(text):
        (root / "x").write_bytes(text.encode(coding))
        return root / "x"

    words = f"it is UTF-{coding[4:6]} text; save it with the encoding UTF-8"
    for read in (read_labels, lambda path: files.read_class_names(str(path))):
        with pytest.raises(OptionError, match=words):
            read(written("cat\ndog\n"))
    for read in (read_class_map, lambda path: files.read_class_weight(str(path))):
        with pytest.raises(OptionError, match=words):
            read(written('{"cat": "a"}'))
    for ending, text in (("csv", "file_name,label\n"), ("jsonl", '{"file_name": "a.png"}\n')):
        (root / f"t.{ending}").write_bytes(text.encode(coding))
        with pytest.raises(ImagesNotFoundError, match=words):
            scan(root / f"t.{ending}")


@pytest.mark.parametrize("coding", CODINGS)
def test_a_wide_config_is_named(root, capsys, monkeypatch, coding):
    monkeypatch.chdir(root)
    (root / "c.toml").write_bytes("seed = 3\n".encode(coding))
    message = refusal(capsys, "scan", "--config", "c.toml")
    assert f"it is UTF-{coding[4:6]} text; save it with the encoding UTF-8" in message


@pytest.mark.parametrize(
    "text",
    [
        "file_name,label\r\ncat/0.png,cat\r\ndog/0.png,dog\r\n",
        "file_name;label\r\ncat/0.png;cat\r\ndog/0.png;dog\r\n",
        "file_name\tlabel\r\ncat/0.png\tcat\r\ndog/0.png\tdog\r\n",
        "file_name,label\rcat/0.png,cat\rdog/0.png,dog\r",
        '"file_name","label"\r\n"cat/0.png","cat"\r\n"dog/0.png","dog"\r\n',
        " file_name , label \r\ncat/0.png,cat\r\ndog/0.png,dog\r\n",
        "file_name,label\r\ncat\\0.png,cat\r\n.\\dog\\0.png,dog\r\n",
        "label,file_name,note\r\ncat,cat/0.png,a;b\r\ndog,dog/0.png,\r\n",
    ],
)
@pytest.mark.parametrize("mark", [b"", MARK])
def test_tables_of_excel_are_read(root, text, mark):
    (root / "t.csv").write_bytes(mark + text.encode())
    images = scan(root / "t.csv")
    assert images.keys.tolist() == [b"cat/0.png", b"dog/0.png"]
    assert (images.labels.tolist(), images.class_names) == ([0, 1], ["cat", "dog"])


def test_a_backslash_that_is_part_of_a_name_stays(root):
    (root / "cat\\0.png").write_bytes((root / "cat/0.png").read_bytes())
    (root / "t.csv").write_text("file_name\ncat\\0.png\nnone\\0.png\n")
    assert scan(root / "t.csv").keys.tolist() == [b"cat\\0.png", b"none\\0.png"]


@pytest.mark.parametrize(
    ("header", "words"),
    [
        ("file_name,Label", "the column 'Label' is not read; write it as 'label'"),
        ("file_name,WEIGHT", "the column 'WEIGHT' is not read; write it as 'weight'"),
        ("file_name,label,label", "it has the column 'label' twice"),
        ("file_name,file_name", "it has the column 'file_name' twice"),
        ("filename,label", "no column 'file_name'; the columns are 'filename', 'label'"),
        ("filename;label", "no column 'file_name'; the columns are 'filename;label'"),
    ],
)
def test_columns_that_would_be_passed_over_are_refused(root, header, words):
    (root / "t.csv").write_text(f"{header}\n")
    with pytest.raises(ImagesNotFoundError, match=re.escape(words)):
        scan(root / "t.csv")


def test_a_manifest_with_a_mark_and_windows_line_ends_is_read(root):
    images = scan(root)
    images.write(root / "m.jsonl")
    data = (root / "m.jsonl").read_bytes()
    (root / "m.jsonl").write_bytes(MARK + data.replace(b"\n", b"\r\n"))
    assert scan(root / "m.jsonl").fingerprint == images.fingerprint


@pytest.mark.parametrize("flag", ["--labels", "--class-names", "--class-map"])
def test_a_picture_in_place_of_a_text_is_named(root, capsys, flag):
    message = refusal(capsys, "scan", root, flag, root / "cat" / "0.png")
    assert "it holds a NUL byte, and is no text" in message


def moved(tmp_path):
    root = draw_directory(tmp_path / "old", {"cat": 2, "dog": 2})
    scan(root).write(tmp_path / "m.jsonl")
    root.rename(tmp_path / "new")
    return tmp_path / "m.jsonl", tmp_path / "new"


def test_a_manifest_whose_root_was_moved_is_opened_at_its_new_place(tmp_path, capsys):
    manifest, new = moved(tmp_path)
    message = refusal(capsys, "scan", manifest)
    assert message.startswith(f"There is no directory '{tmp_path}/old', the root of the images.\n")
    assert message.endswith("`--root DIR` (in Python `kd.scan(FILE, root=DIR)`).\n")
    code, answer, _ = command(capsys, "scan", manifest, "--root", new, "--check")
    assert (code, answer["num_images"], answer["num_bad"]) == (0, 4, 0)
    assert answer["fingerprint"] == scan(new).fingerprint == scan(manifest, root=new).fingerprint


def test_a_root_that_does_not_fit_is_refused(tmp_path, capsys):
    manifest, new = moved(tmp_path)
    message = refusal(capsys, "scan", new, "--root", new)
    assert message == (
        f"'{new}' is a directory, and has no other root.\n"
        "Give --root with a manifest or a table, or leave it out.\n"
    )
    with pytest.raises(ImagesNotFoundError, match="There is no directory"):
        scan(manifest, root=tmp_path / "nowhere")

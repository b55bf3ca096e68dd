"""Logits in Parquet files are read rightly, a few rows at a time, or refused by name."""

import builtins
import json
import os
import random
import signal
import tempfile
from contextlib import suppress

import helpers
import numpy as np
import pytest

from streamkd.cli.main import main
from streamkd.errors import DiskFullError, MissingExtraError, OptionError, StreamkdError
from streamkd.teachers import parquet_logits
from streamkd.teachers.import_logits import import_logits
from streamkd.teachers.logits_files import read_logits

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")

KEYS = ["cat/0.png", "cat/1 ü.png", "dog/2.png", "dog/3.png", "dog/a-longer-name.png"]
LOGITS = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
ENCODED = [key.encode() for key in KEYS]
ROWS = LOGITS.tolist()


def columns(names="abc", logits=LOGITS):
    return {name: logits[:, number] for number, name in enumerate(names)}


def lists(kind=None, rows=ROWS):
    return pa.array(rows, kind or pa.list_(pa.float32()))


GOOD = {
    "lists": {"key": KEYS, "logits": lists()},
    "another name": {"scores": lists(), "file_name": KEYS},
    "large lists": {"key": KEYS, "logits": lists(pa.large_list(pa.float32()))},
    "lists of fixed size": {"key": KEYS, "logits": lists(pa.list_(pa.float32(), 3))},
    "double": {"key": KEYS, "logits": lists(pa.list_(pa.float64()))},
    "tensors": {
        "key": KEYS,
        "logits": pa.ExtensionArray.from_storage(
            pa.fixed_shape_tensor(pa.float32(), [3]), lists(pa.list_(pa.float32(), 3))
        ),
    },
    "bytes as keys": {"path": pa.array(ENCODED, pa.binary()), "logits": lists()},
    "a dictionary of keys": {"path": pa.array(KEYS).dictionary_encode(), "logits": lists()},
    "the only texts": {"who": KEYS, "logits": lists()},
    "among others": {
        "label": [0, 0, 1, 1, 1],
        "caption": ["x"] * 5,
        "logits": lists(),
        "embedding": lists(rows=[[1.0, 2.0]] * 5),
        "image_path": KEYS,
        "confidence": [0.5] * 5,
    },
    "a column a class": {"file_name": KEYS, **columns()},
    "classes and others": {"label": [0, 0, 1, 1, 1], **columns(), "file_name": KEYS},
    "classes with dots": {"file_name": KEYS, **columns(["a", "a.b", "a.b.c"])},
    "double classes": {"file_name": KEYS, **columns(logits=LOGITS.astype(np.float64))},
    "pandas' index": {**columns(), "__index_level_0__": KEYS},
}


@pytest.mark.parametrize("case", list(GOOD))
@pytest.mark.parametrize("options", [{}, {"row_group_size": 2, "compression": "zstd"}])
def test_parquet_is_read(tmp_path, monkeypatch, case, options):
    monkeypatch.setattr(parquet_logits, "BATCH_ROWS", 2)
    pq.write_table(pa.table(GOOD[case]), tmp_path / "l.parquet", **options)
    table = read_logits(tmp_path / "l.parquet")
    np.testing.assert_array_equal(table.logits, LOGITS)
    assert table.keys == ENCODED
    names = ["a", "a.b", "a.b.c"] if "dots" in case else ["a", "b", "c"]
    has_names = "class" in case or "pandas" in case
    assert table.class_names == (names if has_names else None)


def test_many_row_groups_leave_memory_for_a_mapped_file(tmp_path):
    logits = np.random.default_rng(1).normal(size=(5000, 4)).astype(np.float16)
    keys = [f"{number}.png" for number in range(5000)]
    rows = pa.FixedSizeListArray.from_arrays(pa.array(logits.reshape(-1)), 4)
    pq.write_table(pa.table({"key": keys, "out": rows}), tmp_path / "l.pq", row_group_size=700)
    table = read_logits(tmp_path / "l.pq")
    assert isinstance(table.logits, np.memmap) and table.logits.dtype == np.float16
    np.testing.assert_array_equal(table.logits, logits)
    assert table.keys == [key.encode() for key in keys]


def test_flags_name_the_columns(tmp_path):
    path = tmp_path / "l.parquet"
    pq.write_table(pa.table({"u": KEYS, "v": KEYS[::-1], "p": lists(), "q": lists()}), path)
    for logits, keys, words in (
        ("p", None, "2 columns that may hold keys, u, v; name one: `--keys-dataset NAME`"),
        (None, "u", "2 columns of lists, p, q; name the logits with `--logits-dataset p`"),
        ("n", "u", "the columns u, v, p, q, and --logits-dataset is n"),
        ("u", "v", "its column u holds no lists of floating-point numbers"),
        ("p", "n", "the columns u, v, p, q, and --keys-dataset is n"),
        ("p", "q", "its column q holds no texts"),
    ):
        with pytest.raises(OptionError, match=rf"l\.parquet cannot be read: .*{words}"):
            read_logits(path, logits, keys)
    table = read_logits(path, "q", "v")
    assert table.keys == ENCODED[::-1] and table.class_names is None


BAD = {
    "another length": (
        {"key": KEYS[:3], "logits": lists(rows=[[1.0, 2], [1, 2], [3, 4, 5]])},
        "row 3 of its column logits has 3 numbers, and row 1 has 2",
    ),
    "another length later": (
        {"key": KEYS[:4], "logits": lists(rows=[[1.0, 2], [1, 2], [3.0], [4.0]])},
        "its row 3 has 1 numbers, and its first 2",
    ),
    "no list": (
        {"key": KEYS[:3], "logits": lists(rows=[[1.0, 2], [1, 2], None])},
        "row 3 of its column logits has no list",
    ),
    "no number": (
        {"key": KEYS[:3], "logits": lists(rows=[[1.0, 2], [1, None], [1, 2]])},
        r"row 2 of its column logits lacks a number \(it is null\)",
    ),
    "no number of a class": (
        {"key": KEYS[:3], "a": [1.0, 2, 3], "b": [1.0, 2, None]},
        r"row 3 of its column b lacks a number \(it is null\)",
    ),
    "no key": (
        {"key": ["a", "b", None], "logits": lists(rows=[[1.0, 2]] * 3)},
        "row 3 of its column key has no key",
    ),
    "whole numbers": (
        {"key": KEYS, "a": [1] * 5, "b": lists(pa.list_(pa.int32()), [[1, 2]] * 5)},
        "none of its columns, key, a, b, holds floating-point numbers or lists of them",
    ),
    "no rows": ({"key": pa.array([], pa.string()), "logits": lists(rows=[])}, "it has no rows"),
    "empty lists": ({"key": KEYS, "logits": lists(rows=[[]] * 5)}, "it has no rows of numbers"),
}


@pytest.mark.parametrize("case", list(BAD))
def test_parquet_that_does_not_fit_is_refused_by_name(tmp_path, monkeypatch, case):
    monkeypatch.setattr(parquet_logits, "BATCH_ROWS", 2 if "later" in case else 1024)
    table, words = BAD[case]
    pq.write_table(pa.table(table), tmp_path / "l.parquet")
    with pytest.raises(OptionError, match=rf"The logits .*l\.parquet cannot be read: .*{words}"):
        read_logits(tmp_path / "l.parquet")


def test_files_that_are_no_parquet_are_refused(tmp_path):
    (tmp_path / "text.parquet").write_text("a,b\n1,2\n")
    (tmp_path / "d.parquet").mkdir()
    os.mkfifo(tmp_path / "pipe.parquet")
    for name, words in (
        ("text", r"it is no Parquet file, or damaged \(Parquet"),
        ("d", "it is no file"),
        ("pipe", "it is no file"),
        ("none", "No such file"),
    ):
        with pytest.raises(OptionError, match=rf"{name}\.parquet cannot be read: .*{words}"):
            read_logits(tmp_path / f"{name}.parquet")


def test_a_file_that_unpacks_to_too_much_is_refused_before(tmp_path, monkeypatch):
    monkeypatch.setattr(parquet_logits, "MAX_UNPACKED_BYTES", 1 << 16)
    rows = lists(pa.list_(pa.float32(), 100), [[1.0] * 100] * 1000)
    pq.write_table(pa.table({"key": ["k"] * 1000, "logits": rows}), tmp_path / "l.parquet")
    with pytest.raises(OptionError, match=r"it would unpack to [\d,]{7,} bytes"):
        read_logits(tmp_path / "l.parquet")


@pytest.mark.parametrize("seed", range(3))
def test_damaged_parquet_is_read_or_refused(tmp_path, seed):
    path, chance = tmp_path / "l.parquet", random.Random(seed)
    table = GOOD[["lists", "a column a class", "lists of fixed size"][seed]]
    pq.write_table(pa.table(table), path, compression=["snappy", "none", "gzip"][seed])
    data = path.read_bytes()
    for number in range(40):
        changed = bytearray(data)
        for _ in range(chance.randrange(1, 4)):
            changed[chance.randrange(len(data))] = chance.randrange(256)
        if number % 8 == 0:
            del changed[chance.randrange(len(data)) :]
        path.write_bytes(changed)
        with suppress(StreamkdError):
            read_logits(path)


def test_a_file_that_ends_the_library_is_refused(tmp_path, monkeypatch):
    pq.write_table(pa.table(GOOD["lists"]), tmp_path / "l.parquet")
    monkeypatch.setattr(parquet_logits, "_read", lambda *_: os.kill(os.getpid(), signal.SIGKILL))
    with pytest.raises(OptionError, match=r"it is damaged: the Parquet library ends with SIGKILL"):
        read_logits(tmp_path / "l.parquet")


def test_a_missing_package_is_named_with_its_extra(tmp_path, monkeypatch):
    pq.write_table(pa.table(GOOD["lists"]), tmp_path / "l.parquet")
    real = builtins.__import__

    def without(name, *rest):
        if name.startswith("pyarrow"):
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(
        MissingExtraError,
        match=r"l\.parquet is a Parquet file, and the package pyarrow is not installed\.\n"
        r"Install it: `pip install 'streamkd\[parquet\]'`\.",
    ):
        read_logits(tmp_path / "l.parquet")


def test_a_full_disk_of_temporary_files_is_named(tmp_path, monkeypatch):
    pq.write_table(pa.table(GOOD["lists"]), tmp_path / "l.parquet")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(parquet_logits.disk, "write_at", full)
    with pytest.raises(DiskFullError, match=r"no room for .*\n.*\n.*\nName another .*`TMPDIR=DIR"):
        read_logits(tmp_path / "l.parquet")
    assert os.path.isdir(tempfile.gettempdir())


class TestImport:
    """A Parquet file becomes a store, by the rules of the other formats."""

    @pytest.fixture
    def logits(self, images):
        return helpers.encoded_logits(np.arange(len(images)), images.labels, 3)

    @pytest.fixture
    def keys(self, images):
        return [key.decode() for key in images.keys]

    @pytest.mark.parametrize("form", ["lists", "classes", "other order of classes"])
    @pytest.mark.parametrize("keys_elsewhere", [False, True])
    def test_store_has_each_image_s_logits(
        self, images, directory, tmp_path, logits, keys, form, keys_elsewhere, capsys
    ):
        order = np.random.default_rng(2).permutation(len(images))
        table = {"file_name": [keys[i] for i in order]}
        names = ["ant", "bee", "cat"] if form == "classes" else ["cat", "ant", "bee"]
        if form == "lists":
            table["logits"] = lists(rows=logits[order].tolist())
        else:
            for name in names:
                table[name] = logits[order, ["ant", "bee", "cat"].index(name)]
        given = ["--keys", str(tmp_path / "k.jsonl")] if keys_elsewhere else []
        if keys_elsewhere:
            (tmp_path / "k.jsonl").write_text("\n".join(map(json.dumps, table.pop("file_name"))))
        pq.write_table(pa.table(table), tmp_path / "l.parquet", row_group_size=4)
        out = str(tmp_path / "s.h5")
        command = ["import", str(tmp_path / "l.parquet"), "--images", str(directory), "--out", out]
        assert main([*command, *given, "--json", "--quiet"]) == 0
        answer = json.loads(capsys.readouterr().out)
        assert answer["teacher_accuracy"] == 1.0 and answer["warnings"] == []
        from streamkd.store.reader import LogitStore

        store = LogitStore(out)
        wanted = logits[:, [["ant", "bee", "cat"].index(name) for name in store.class_names]]
        np.testing.assert_array_equal(store.gather(np.arange(len(images))), wanted)
        # The same call goes on, or finds that all is done.
        assert main([*command, *given, "--json", "--quiet"]) == 0

    def test_refusals_are_those_of_other_formats(self, images, tmp_path, logits, keys):
        def write(rows, names):
            pq.write_table(pa.table({"key": names, "logits": lists(rows=rows)}), path)

        path, options = tmp_path / "l.parquet", {"progress": False}
        write(logits.tolist(), [*keys[:-1], keys[0]])
        with pytest.raises(OptionError, match=r"The key 'ant/.*' is listed twice"):
            import_logits(path, None, images, tmp_path / "s.h5", **options)
        write(logits.tolist(), [*keys[:-1], "ant/none.png"])
        with pytest.raises(OptionError, match=r"ant/none\.png"):
            import_logits(path, None, images, tmp_path / "s.h5", **options)
        with pytest.raises(OptionError, match=r"There are 30 rows of logits and 29 keys"):
            import_logits(path, keys[:-1], images, tmp_path / "s.h5", **options)
        broken = logits.copy()
        broken[3, 1] = np.nan
        write(broken.tolist(), keys)
        with pytest.raises(StreamkdError, match=r"not finite|nan"):
            import_logits(path, None, images, tmp_path / "s.h5", output="logits", **options)
        write(logits[:, :2].tolist(), keys)
        with pytest.raises(StreamkdError, match=r"Each image has 2 logits, and there are 3 class"):
            import_logits(path, None, images, tmp_path / "s.h5", **options)
        pq.write_table(pa.table({"logits": lists(rows=logits.tolist())}), path)
        with pytest.raises(OptionError, match=r"The rows of logits have no keys"):
            import_logits(path, None, images, tmp_path / "s.h5", **options)
        assert not (tmp_path / "s.h5").exists()

    def test_an_order_by_chance_is_told(self, images, tmp_path, logits, keys):
        rows = np.roll(logits, 11, axis=0)
        pq.write_table(
            pa.table({"key": keys, "logits": lists(rows=rows.tolist())}), tmp_path / "l.parquet"
        )
        with pytest.warns(UserWarning, match=r"chance is 33\.3%.*also the order of the rows"):
            import_logits(tmp_path / "l.parquet", None, images, tmp_path / "s.h5", progress=False)

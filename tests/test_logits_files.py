"""Files of logits as people have them: each is read rightly, or refused by name."""

import csv
import json
import os
import random
import signal
import struct
from contextlib import suppress

import h5py
import helpers
import numpy as np
import pytest

from streamkd.errors import ClassNamesError, OptionError, StreamkdError, TeacherError
from streamkd.manifest.manifest import scan
from streamkd.teachers.hdf5_arrays import Hdf5Arrays
from streamkd.teachers.import_logits import import_logits
from streamkd.teachers.keys_files import read_keys
from streamkd.teachers.logits_files import read_logits

KEYS = ["cat/0.png", "cat/1 ü.png", "dog/2.png", "dog/3.png", "dog/a-longer-name.png"]
LOGITS = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
ENCODED = [key.encode() for key in KEYS]


def hdf5(name="logits", keys="filenames", **options):
    """Returns a function that writes logits with these options of `create_dataset`, and keys."""

    def write(file):
        file.create_dataset(name, data=LOGITS, **options)
        file[keys] = KEYS

    return write


def growing(file):
    for name, shape, dtype in (("logits", (0, 3), "f4"), ("names", (0,), h5py.string_dtype())):
        file.create_dataset(name, shape, dtype, maxshape=(None, *shape[1:]), chunks=(2, *shape[1:]))
    for number, key in enumerate(KEYS):
        file["logits"].resize(number + 1, axis=0)
        file["names"].resize(number + 1, axis=0)
        file["logits"][number], file["names"][number] = LOGITS[number], key


def fixed_texts(file):
    file["logits"] = LOGITS
    file["paths"] = np.array(ENCODED)


def blank_padded_texts(file):
    file["logits"] = LOGITS
    kind = h5py.h5t.C_S1.copy()
    kind.set_size(40)
    kind.set_strpad(h5py.h5t.STR_SPACEPAD)
    dataset = h5py.h5d.create(file.id, b"keys", kind, h5py.h5s.create_simple((5,)))
    padded = np.array([key.ljust(40) for key in ENCODED], "S40")
    dataset.write(h5py.h5s.ALL, h5py.h5s.ALL, padded, mtype=kind)


def among_others(file):
    hdf5()(file)
    file["embeddings"] = np.ones((5, 64), np.float32)
    file["labels"] = [0, 0, 1, 1, 1]
    file["label_names"] = ["cat"] * 2 + ["dog"] * 3
    file["model"] = "resnet"


def one_for_each_image(file):
    for key, row in zip(KEYS, LOGITS, strict=True):
        file[key] = row


def compressed_texts(file):
    file["logits"] = LOGITS
    file.create_dataset("keys", data=KEYS, dtype=h5py.string_dtype(), compression="gzip")


GOOD = {
    "plain": hdf5(),
    "another name": hdf5("preds"),
    "in a group": hdf5("epoch/3/logits", "epoch/3/file_names"),
    "compressed": hdf5(compression="gzip", shuffle=True, fletcher32=True, chunks=(2, 2)),
    "chunks": hdf5(chunks=(4, 3)),
    "big-endian": hdf5(dtype=">f4"),
    "double": hdf5(dtype="f8"),
    "compressed double": hdf5(dtype="f8", compression=9),
    "growing": growing,
    "compressed texts": compressed_texts,
    "fixed texts": fixed_texts,
    "blanks behind": blank_padded_texts,
    "among others": among_others,
    "one for each image": one_for_each_image,
}


@pytest.mark.parametrize("case", list(GOOD))
def test_hdf5_of_others_is_read(tmp_path, case):
    with h5py.File(tmp_path / "l.h5", "w") as file:
        GOOD[case](file)
    table = read_logits(tmp_path / "l.h5")
    assert sorted(table.keys) == sorted(ENCODED)
    order = [table.keys.index(key) for key in ENCODED]
    np.testing.assert_array_equal(table.logits[order], LOGITS)


@pytest.mark.parametrize("block", [0, 512, 4096])
def test_hdf5_behind_a_userblock_is_read(tmp_path, block):
    with h5py.File(tmp_path / "l.hdf5", "w", userblock_size=block) as file:
        hdf5()(file)
    table = read_logits(tmp_path / "l.hdf5")
    np.testing.assert_array_equal(table.logits, LOGITS)
    assert table.keys == ENCODED


def test_flags_name_the_arrays(tmp_path):
    with h5py.File(tmp_path / "l.h5", "w") as file:
        hdf5("old/scores", "old/a")(file)
        file["new"], file["b"] = LOGITS + 1, KEYS[::-1]
    with pytest.raises(OptionError, match=r"none is named logits; name one with `--logits-dataset"):
        read_logits(tmp_path / "l.h5")
    with pytest.raises(OptionError, match=r"2 arrays of 5 texts, b, old/a; name the keys with `--"):
        read_logits(tmp_path / "l.h5", "new")
    for name in ("old/scores", "scores", "/old/scores"):
        table = read_logits(tmp_path / "l.h5", name, "a")
        assert table.keys == ENCODED and (np.asarray(table.logits)[0] == LOGITS[0]).all()


def test_keys_of_another_file_need_no_choice_among_texts(images, tmp_path):
    logits = helpers.encoded_logits(np.arange(len(images)), images.labels, 3)
    with h5py.File(tmp_path / "l.h5", "w") as file:
        file["logits"], file["a"], file["b"] = logits, ["x"] * len(logits), ["y"] * len(logits)
    keys, options = images.keys.tolist(), {"progress": False}
    store = import_logits(tmp_path / "l.h5", keys, images, tmp_path / "s.h5", **options)
    assert store.summary["teacher_accuracy"] == 1.0
    with pytest.raises(OptionError, match=r"--keys-dataset is a, and --keys is given, too\."):
        import_logits(tmp_path / "l.h5", keys, images, tmp_path / "t.h5", keys_dataset="a")


ARRAYS = {
    "keys": {"logits": LOGITS, "keys": np.array(KEYS)},
    "paths as bytes": {"probs": LOGITS, "paths": np.array(ENCODED)},
    "among others": {
        "logits": LOGITS,
        "files": np.array(KEYS),
        "classes": np.array(["a", "b", "c"]),
        "who": np.array(["me"] * 5),
    },
    "one for each image": dict(zip(KEYS, LOGITS, strict=True)),
}


@pytest.mark.parametrize("case", list(ARRAYS))
def test_npz_with_keys_is_read(tmp_path, case):
    np.savez(tmp_path / "l.npz", **ARRAYS[case])
    table = read_logits(tmp_path / "l.npz")
    np.testing.assert_array_equal(table.logits, LOGITS)
    assert table.keys == ENCODED
    assert table.class_names == (["a", "b", "c"] if "classes" in ARRAYS[case] else None)


TABLES = {
    "no header": (None, lambda i: [KEYS[i]]),
    "pandas": (["", "filename"], lambda i: [i, KEYS[i]]),
    "no index": (["path"], lambda i: [KEYS[i]]),
    "index of keys": ([""], lambda i: [KEYS[i]]),
}


@pytest.mark.parametrize("case", list(TABLES))
@pytest.mark.parametrize("ending", ["csv", "tsv"])
def test_tables_are_read_with_their_keys(tmp_path, case, ending):
    header, cells = TABLES[case]
    path = tmp_path / f"l.{ending}"
    with open(path, "w", newline="", encoding="utf-8-sig") as file:
        lines = csv.writer(file, delimiter="\t" if ending == "tsv" else ",")
        if header is not None:
            lines.writerow([*header, "a", "b", "c"])
        lines.writerows([*cells(i), *LOGITS[i].tolist()] for i in range(5))
    table = read_logits(path)
    np.testing.assert_array_equal(table.logits, LOGITS)
    assert table.keys == ENCODED
    assert table.class_names == (None if header is None else ["a", "b", "c"])


def test_keys_behind_the_numbers_and_two_columns_of_keys(tmp_path):
    (tmp_path / "l.csv").write_text("a,b,image,path\n1,2,cat/0.png,x\n3,4,cat/1.png,y\n")
    with pytest.raises(OptionError, match=r"2 columns that may hold keys, image, path; name one"):
        read_logits(tmp_path / "l.csv")
    with pytest.raises(
        OptionError, match=r"the columns a, b, image, path, and --keys-dataset is k"
    ):
        read_logits(tmp_path / "l.csv", None, "k")
    (tmp_path / "l.csv").write_text("a,b,image\n1,2,cat/0.png\n3,4,cat/1.png\n")
    for name in (None, "image"):
        table = read_logits(tmp_path / "l.csv", None, name)
        assert table.keys == [b"cat/0.png", b"cat/1.png"] and table.logits.tolist()[1] == [3, 4]


KEY_FILES = {
    "k.txt": "\n".join(KEYS) + "\n",
    "windows.txt": "\ufeff" + "\r\n".join(KEYS),
    "k.jsonl": "".join(json.dumps(key) + "\n" for key in KEYS),
    "quoted.txt": "".join(json.dumps(key) + "\n" for key in KEYS),
    "manifest.txt": '{"format": "streamkd manifest"}\n'
    + "".join(json.dumps({"file_name": key}) + "\n" for key in KEYS),
    "k.json": json.dumps(KEYS),
    "objects.json": json.dumps([{"file_name": key} for key in KEYS], indent=1),
    "k.csv": "\n".join(KEYS),
    "named.csv": "id,file_name\n" + "\n".join(f"{i},{key}" for i, key in enumerate(KEYS)),
    "named.tsv": "path\tlabel\n" + "\n".join(f"{key}\t1" for key in KEYS),
}


@pytest.mark.parametrize("name", list(KEY_FILES))
def test_files_of_keys_are_read(tmp_path, name):
    (tmp_path / name).write_text(KEY_FILES[name], encoding="utf-8")
    assert read_keys(tmp_path / name) == ENCODED


def test_keys_in_python_and_in_an_array_file(tmp_path):
    np.save(tmp_path / "k.npy", np.array(KEYS))
    for keys in (KEYS, ENCODED, np.array(KEYS), tuple(KEYS), tmp_path / "k.npy"):
        assert read_keys(keys) == ENCODED
    with pytest.raises(OptionError, match=r"A key is 3, a int\.\nGive each key as text"):
        read_keys(["a", 3])


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("k.json", "[1]", "line 1 is a list, whose entry 1 names no key"),
        ("k.csv", "a,b\n1,2\n", "which of its columns a, b has the keys does not show"),
        ("k.csv", "path,b\n1\n", "line 2 has 1 columns, not 2"),
        ("k.csv", "", "it is empty"),
        ("k.npy", "no array", "Cannot load file|pickle|magic"),
    ],
)
def test_files_of_keys_that_do_not_fit_are_refused(tmp_path, name, text, words):
    (tmp_path / name).write_text(text)
    with pytest.raises(OptionError, match=rf"--keys .*{name} cannot be read: .*({words})"):
        read_keys(tmp_path / name)


def link(kind):
    def write(file):
        with h5py.File(file.filename + ".other", "w") as other:
            hdf5()(other)
        file["logits"] = kind(file.filename + ".other")
        file["filenames"] = KEYS

    return write


def external_storage(file):
    path = file.filename + ".raw"
    with open(path, "wb") as raw:
        raw.write(LOGITS.tobytes())
    file.create_dataset("logits", (5, 3), "f4", external=[(path, 0, LOGITS.nbytes)])


def virtual(file):
    layout = h5py.VirtualLayout((5, 3), "f4")
    layout[:] = h5py.VirtualSource(file.filename + ".other", "logits", (5, 3))
    file.create_virtual_dataset("logits", layout)


def half_written(file):
    file.create_dataset("logits", (5, 3), "f4", chunks=(1, 3))
    file["logits"][:2] = 1


def bomb(file):
    file.create_dataset("logits", (1 << 28, 64), "f4", chunks=(1 << 20, 64), compression=9)


def large_chunk(file):
    file.create_dataset("logits", (1 << 28, 2), "f4", chunks=(1 << 27, 2), compression=9)


def bad_deflate(file):
    dataset = file.create_dataset("logits", (5, 3), "f4", chunks=(5, 3), compression=9)
    dataset.id.write_direct_chunk((0, 0), b"no deflate")


def deflate_of_more(file):
    import zlib

    dataset = file.create_dataset("logits", (5, 3), "f4", chunks=(5, 3), compression=9)
    dataset.id.write_direct_chunk((0, 0), zlib.compress(bytes(10_000_000)))


def lzf(file):
    file.create_dataset("logits", data=np.zeros((512, 4), np.float32), compression="lzf")


def nested(file):
    file["/".join("d" * 40)] = LOGITS


BAD = {
    "external link": (
        link(lambda p: h5py.ExternalLink(p, "/logits")),
        "filenames is no array of f",
    ),
    "soft link": (link(lambda p: h5py.SoftLink("/filenames")), "filenames is no array of floating"),
    "external storage": (external_storage, "logits is not in this file: write its numbers"),
    "virtual": (virtual, "logits is not in this file"),
    "never written": (
        lambda f: f.create_dataset("logits", (5, 3), "f4"),
        "logits was never written",
    ),
    "half written": (half_written, "logits has 2 of 5 chunks; the others were never written"),
    "bomb": (bomb, "logits has 0 of 256 chunks"),
    "large chunk": (large_chunk, "logits has chunks of 1,073,741,824 bytes"),
    "bad deflate": (bad_deflate, r"a compressed chunk is damaged \("),
    "deflate of more": (deflate_of_more, "logits has a chunk of another size"),
    "lzf": (lzf, "logits is compressed by 'lzf'; write it with gzip, or plain"),
    "nested": (nested, "groups are nested more than 32 levels deep"),
    "whole numbers": (
        lambda f: f.create_dataset("logits", data=[[1, 2]]),
        "logits is no array of f",
    ),
    "nothing": (lambda f: None, "it has no arrays"),
    "two": (
        lambda f: [f.create_dataset(f"{g}/logits", data=LOGITS) for g in "ab"],
        "arrays a/logits, b/logits, and 2 are named logits; name one with `--logits-dataset a/lo",
    ),
}


@pytest.mark.parametrize("case", list(BAD))
def test_hdf5_that_is_not_plain_is_refused_by_name(tmp_path, case):
    write, words = BAD[case]
    with h5py.File(tmp_path / "l.h5", "w") as file:
        write(file)
    with pytest.raises(OptionError, match=rf"The logits .*l\.h5 cannot be read: .*{words}"):
        read_logits(tmp_path / "l.h5")


def test_texts_that_claim_to_be_long_are_refused_before_they_are_made(tmp_path):
    path = tmp_path / "l.h5"
    with h5py.File(path, "w") as file:
        file["logits"], file["keys"] = LOGITS, KEYS
        offset = file["keys"].id.get_offset()
    data = bytearray(path.read_bytes())
    for number in range(5):
        data[offset + 16 * number : offset + 16 * number + 4] = struct.pack("<I", 1 << 31)
    path.write_bytes(data)
    with pytest.raises(
        OptionError, match=r"its texts are 10,737,418,240 bytes, more than the file"
    ):
        read_logits(path)


@pytest.mark.parametrize("name", ["SIGSEGV", "SIGALRM", "SIGABRT"])
def test_a_file_that_ends_the_library_is_refused(tmp_path, monkeypatch, name):
    with h5py.File(tmp_path / "l.h5", "w") as file:
        hdf5()(file)

    def end(arrays):
        signal.signal(signal.Signals[name], signal.SIG_DFL)
        os.kill(os.getpid(), signal.Signals[name])

    monkeypatch.setattr(Hdf5Arrays, "look_at_all", end)
    with pytest.raises(OptionError, match=rf"it is damaged: the HDF5 library ends with {name}\."):
        read_logits(tmp_path / "l.h5")


@pytest.mark.parametrize("damage", [b"GCOL", b"cat/0.png"])
def test_a_damaged_heap_of_texts_is_refused(tmp_path, damage):
    path = tmp_path / "l.h5"
    with h5py.File(path, "w") as file:
        hdf5()(file)
    data = bytearray(path.read_bytes())
    start = data.index(damage)
    for number in (-8, -4, 0, 8, 15):  # sizes and numbers around the signature and the first text
        changed = data[:]
        changed[start + number] ^= 0xFF
        path.write_bytes(changed)
        with suppress(OptionError):
            assert len(read_logits(path).keys) == 5


@pytest.mark.parametrize("seed", range(3))
def test_damaged_hdf5_is_read_or_refused(tmp_path, seed):
    path, chance = tmp_path / "l.h5", random.Random(seed)
    with h5py.File(path, "w") as file:
        [hdf5(), hdf5(compression="gzip", chunks=(2, 3)), growing][seed](file)
    data = path.read_bytes()
    for number in range(12):
        changed = bytearray(data)
        for _ in range(chance.randrange(1, 4)):
            changed[chance.randrange(len(data))] = chance.randrange(256)
        if number % 4 == 0:
            del changed[chance.randrange(len(data)) :]
        path.write_bytes(changed)
        with suppress(StreamkdError):
            read_logits(path)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        (
            "l.pkl",
            r"ends in '\.pkl', and opening such a file runs code in it\.\nWrite plain arrays",
        ),
        ("l.pt", r"runs code in it\.\n.*`np\.savez\("),
        ("l.feather", r"ends in '\.feather'; give one of \.npy, .*\.h5.*\n.*`np\.savez\("),
        ("l.h5", r"l\.h5 cannot be read: it is no HDF5 file"),
        ("d.h5", r"d\.h5 cannot be read: Is a directory"),
        ("none.h5", r"none\.h5 cannot be read: No such file"),
    ],
)
def test_other_files_are_refused_with_a_way_on(tmp_path, name, words):
    (tmp_path / "d.h5").mkdir()
    for file in ("l.pkl", "l.pt", "l.feather", "l.h5"):
        (tmp_path / file).write_bytes(b"\x80\x04K\x01." * 300)
    with pytest.raises(OptionError, match=words):
        read_logits(tmp_path / name)


@pytest.mark.parametrize("flag", ["logits_dataset", "keys_dataset"])
def test_names_of_parts_go_with_files_of_parts(tmp_path, flag):
    np.save(tmp_path / "l.npy", LOGITS)
    with pytest.raises(
        OptionError, match=rf"--{flag.replace('_', '-')} is x, and the parts of .*n"
    ):
        read_logits(tmp_path / "l.npy", **{flag: "x"})
    np.savez(tmp_path / "l.npz", a=LOGITS)
    with pytest.raises(OptionError, match=r"it has the arrays a, and --.*-dataset is x"):
        read_logits(tmp_path / "l.npz", **{flag: "x"})


class TestClasses:
    """The columns of a file with the images' classes in another order are taken by their names."""

    @pytest.fixture
    def logits(self, images):
        return helpers.encoded_logits(np.arange(len(images)), images.labels, 3)

    @pytest.fixture(params=["csv", "npz", "h5"])
    def path(self, request, images, logits, tmp_path):
        path, order = tmp_path / f"l.{request.param}", [2, 0, 1]
        names = [images.class_names[i] for i in order]
        keys = [key.decode() for key in images.keys]
        if request.param == "csv":
            lines = [["key", *names]]
            lines += [[key, *row[order]] for key, row in zip(keys, logits, strict=True)]
            path.write_text("\n".join(",".join(map(str, line)) for line in lines))
        elif request.param == "npz":
            np.savez(path, logits=logits[:, order], keys=keys, class_names=names)
        else:
            with h5py.File(path, "w") as file:
                file["logits"], file["keys"], file["classes"] = logits[:, order], keys, names
        return path

    def test_names_in_another_order(self, images, path, tmp_path):
        store = import_logits(path, None, images, tmp_path / "s.h5", progress=False)
        assert store.class_names == ["cat", "ant", "bee"]
        assert store.summary["teacher_accuracy"] == 1.0

    def test_names_of_more_classes_than_the_images_have(self, images, path, tmp_path):
        some = scan(os.fsdecode(images.root), class_map={"ant": "ant", "bee": None, "cat": "cat"})
        table = read_logits(path)
        kept = [row for row, key in enumerate(table.keys) if not key.startswith(b"bee")]
        np.savez(
            tmp_path / "some.npz",
            logits=table.logits[kept],
            keys=[table.keys[row].decode() for row in kept],
            classes=table.class_names,
        )
        options = {"progress": False}
        store = import_logits(tmp_path / "some.npz", None, some, tmp_path / "s.h5", **options)
        assert store.class_names == ["cat", "ant", "bee"]
        assert store.summary["teacher_accuracy"] == 1.0

    def test_class_names_in_another_order_are_refused(self, images, path, tmp_path):
        names = images.class_names
        with pytest.raises(
            ClassNamesError, match=r"  columns: +'cat', 'ant', 'bee'\n  class names"
        ):
            import_logits(path, None, images, tmp_path / "s.h5", class_names=names, progress=False)


def test_a_store_is_no_file_of_logits(store):
    with pytest.raises(OptionError, match=r"it is a logit store already; give it as `--store`"):
        read_logits(store.path)


def test_numbers_that_are_no_logits_stay_refused():
    with pytest.raises(TeacherError, match=r"the array holds int64\[2, 2\], and must hold float"):
        read_logits(np.ones((2, 2), np.int64))

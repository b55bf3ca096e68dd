"""Codecs against a decoder written here from the table in `store/layout.py`, number by number."""

from __future__ import annotations

import h5py
import numpy as np
import pytest
import store_helpers as helpers

from streamkd.errors import DamagedStoreError, NonFiniteError, OptionError
from streamkd.store import codecs
from streamkd.store.codecs.bit_packing import pack
from streamkd.store.collection import open_store
from streamkd.store.verify_file import verify_store
from streamkd.store.writer import StoreWriter

PACKED = ["8", "4", "3", "2", "8+1", "4+3", "3+8", "2+5", "0+1", "0+9"]
PACKED = [f"packed:{form}" for form in PACKED]


def teacher_like(rows: int, num_classes: int, seed: int = 0) -> np.ndarray:
    """Returns float32 logits: a bell of classes, and a few that stand out."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 2, (rows, num_classes))
    for row in logits:
        few = rng.integers(0, num_classes, 3)
        row[few] += rng.uniform(2, 12, 3)
    return logits.astype(np.float32)


def rebuild(name: str, stored: dict[str, np.ndarray], num_classes: int) -> np.ndarray:
    """Returns float64 `[rows, num_classes]` as `store/layout.py` says, slowly."""
    bits, _, kept = name.removeprefix("packed:").partition("+")
    bits, kept = int(bits), int(kept or 0)
    rebuilt = []
    for row in range(len(stored["scale"])):
        scale = stored["scale"][row].astype(float).tolist()
        steps = stored["kept_distances"][row].tolist() if kept else []
        held = [scale[-1] - 0.25 * (524033 ** (d / 255) - 1) for d in steps]
        if bits == 0:
            classes = stored["kept_classes"][row].tolist()
            logits = [held[classes.index(c)] if c in classes else scale[0]
                      for c in range(num_classes)]  # fmt: skip
        else:
            number = int.from_bytes(stored["packed"][row].tobytes(), "little")
            codes = [(number >> bits * c) % 2**bits for c in range(num_classes)]
            waiting = iter(held)
            logits = [next(waiting) if kept and code == 2**bits - 1 else scale[0] + code * scale[1]
                      for code in codes]  # fmt: skip
            assert next(waiting, None) is None
        rebuilt.append(logits)
    return np.array(rebuilt)


@pytest.mark.parametrize("name", PACKED)
@pytest.mark.parametrize("num_classes", [10, 11, 12, 13, 15, 16, 100])
def test_decoding_agrees_with_the_documented_layout(name, num_classes):
    logits = teacher_like(6, num_classes)
    codec = codecs.get(name)
    stored = codec.encode(logits)
    for part, (dtype, shape) in codec.datasets(num_classes).items():
        assert stored[part].shape == (6, *shape) and stored[part].dtype == dtype
    assert stored.keys() == codec.datasets(num_classes).keys()
    decoded = codec.decode(stored, num_classes)
    assert decoded.dtype == np.float32 and decoded.flags.c_contiguous
    np.testing.assert_allclose(decoded, rebuild(name, stored, num_classes), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", PACKED)
def test_a_row_is_coded_by_itself(name):
    logits = teacher_like(70, 1001)
    codec = codecs.get(name)
    together = codec.encode(logits)
    for row in (0, 31, 32, 69):
        alone = codec.encode(logits[row : row + 1])
        for part, values in alone.items():
            assert values[0].tobytes() == together[part][row].tobytes()


# (logits, why); the oracle for the largest class is float16.
ODD_ROWS = {
    "constant": np.full(12, 0.1),
    "constant and far from zero": np.full(12, -65504.0),
    "all equal to the largest but one": np.array([5.0] * 11 + [-3.0]),
    "one heap and one that is ruled out": np.array([1.0, 1.5, 2.0, 0.5] * 2 + [-10_000.0] * 4),
    "the whole range of float16": np.array([65504.0, -65504.0] * 6),
    "ties for the largest": np.array([0.0, 7.0, 1.0, 7.0, 2.0, 7.0, 3.0, 7.0, 7.0, 4.0, 5.0, 6.0]),
    "equal in float16 only": 10 + np.arange(12) * 1e-4,
    "nearly equal": 1 + np.arange(12) * 1e-3,
    "tiny": np.arange(12) * 1e-7,
    "far below the largest": np.array([60_000.0] + [-60_000.0 + n for n in range(11)]),
    "descending": np.arange(12, 0, -1.0),
}


@pytest.mark.parametrize("name", [name for name in PACKED if "+" in name])
@pytest.mark.parametrize("logits", ODD_ROWS.values(), ids=ODD_ROWS.keys())
def test_the_largest_logit_survives_exactly_and_at_its_class(name, logits):
    logits = logits.astype(np.float32)[None]
    codec = codecs.get(name)
    decoded = codec.decode(codec.encode(logits), logits.shape[1])
    as_half = logits.astype(np.float16)
    assert decoded.argmax() == as_half.argmax()
    assert decoded.max() == as_half.max()
    assert np.isfinite(decoded).all()


@pytest.mark.parametrize("name", PACKED)
@pytest.mark.parametrize("logits", ODD_ROWS.values(), ids=ODD_ROWS.keys())
def test_odd_rows_come_back_within_their_own_range(name, logits):
    logits = logits.astype(np.float32)[None]
    codec = codecs.get(name)
    decoded = codec.decode(codec.encode(logits), logits.shape[1])
    as_half = logits.astype(np.float16).astype(np.float32)
    # A distance of a kept logit is rounded by 3 % at most.
    slack = 0.03 * np.ptp(logits) + 0.02
    assert decoded.max() <= max(logits.max(), as_half.max()) + 1e-3 * abs(logits.max())
    assert decoded.min() >= min(logits.min(), as_half.min()) - slack


def test_thousands_of_random_rows_keep_the_class_of_their_largest_logit():
    rng = np.random.default_rng(4)
    for name in ("packed:3+1", "packed:8+2", "packed:2+4", "packed:4+7", "packed:0+3"):
        logits = rng.normal(0, 1, (2000, 9)) * rng.choice([1e-3, 0.1, 1, 30, 5000], (2000, 1))
        logits = np.round(logits + rng.normal(0, 1000, (2000, 1)), 1).astype(np.float32)
        codec = codecs.get(name)
        decoded = codec.decode(codec.encode(logits), 9)
        as_half = logits.astype(np.float16).astype(np.float32)
        assert (decoded.argmax(axis=1) == as_half.argmax(axis=1)).all()
        assert (decoded.max(axis=1) == as_half.max(axis=1)).all()


def teach_packed(path, name: str, num_classes: int = 21) -> np.ndarray:
    """Writes a store of 10 images and two views; returns the logits, image-major."""
    helpers.create(path, codec=name, num_classes=num_classes, num_views=2)
    logits = teacher_like(20, num_classes)
    with StoreWriter(path) as writer:
        for block in writer.pending_blocks().tolist():
            content = helpers.content_of(writer.images_of_block(block))
            writer.write_block(block, logits[writer.rows_of_block(block)], content)
        writer.finish(helpers.SUMMARY)
    return logits


@pytest.mark.parametrize("io", ["mmap", "pread"])
@pytest.mark.parametrize("name", PACKED)
def test_rows_gathered_from_a_store_are_those_that_the_codec_rebuilds(tmp_path, name, io):
    path = tmp_path / "s.h5"
    logits = teach_packed(path, name)
    expected = rebuild(name, codecs.get(name).encode(logits), 21)
    rows = np.array([19, 0, 7, 7, 12])
    gathered = open_store(path, io).gather(rows)
    np.testing.assert_allclose(gathered, expected[rows], rtol=1e-5, atol=1e-5)
    assert open_store(path, io).gather(rows[:0]).shape == (0, 21)
    assert verify_store(path).sound


@pytest.mark.parametrize("name", PACKED)
def test_plain_h5py_finds_the_datasets_that_the_layout_lists(tmp_path, name):
    path = tmp_path / "s.h5"
    stored = codecs.get(name).encode(teach_packed(path, name))
    with h5py.File(path, "r") as file:
        assert set(stored) <= set(file) and "logits" not in file
        for part, values in stored.items():
            assert np.array_equal(file[part][:].reshape(values.shape), values)


@pytest.mark.parametrize("name", PACKED)
def test_a_bit_flipped_in_any_packed_dataset_is_found(tmp_path, name):
    path = tmp_path / "s.h5"
    teach_packed(path, name)
    extents = helpers.extents_of(path)
    for part in codecs.get(name).datasets(21):
        offset, num_bytes = extents[part]
        helpers.flip_bit(path, offset + num_bytes // 2)
        report = verify_store(path)
        assert (report.num_problems, report.problems[0]["view"]) == (1, 0)
        with pytest.raises(DamagedStoreError, match="does not have its checksum"):
            open_store(path).gather(np.arange(20))
        helpers.flip_bit(path, offset + num_bytes // 2)
    assert verify_store(path).sound


def spoil(part: str, value: int):
    def change(stored: dict[str, np.ndarray]) -> None:
        stored[part][1] = value

    return change


def one_row_takes_the_mark_of_another(stored: dict[str, np.ndarray]) -> None:
    for row, count in ((0, 2), (1, 4)):
        stored["packed"][row] = pack(np.array([[7] * count + [0] * (21 - count)], np.uint8), 3)[0]


def last_class_is_one_too_many(stored):
    stored["kept_classes"][1, -1] = 21  # ascending still


FORGED_ROWS = {
    "last class one too many": ("packed:0+3", last_class_is_one_too_many),
    "too many marks": ("packed:3+3", spoil("packed", 255)),
    "no marks": ("packed:8+3", spoil("packed", 0)),
    "marks in the wrong row": ("packed:3+3", one_row_takes_the_mark_of_another),
    "class out of range": ("packed:0+3", spoil("kept_classes", 21)),
    "class far out of range": ("packed:0+3", spoil("kept_classes", 65535)),
    "the same class twice": ("packed:0+3", spoil("kept_classes", 4)),
}


def test_a_tail_as_large_as_the_largest_logit_stays_below_it():
    codec = codecs.get("packed:0+3")
    logits = np.full((2, 21), 5.0, np.float32)
    rebuilt = codec.decode(codec.encode(logits), 21)
    assert (rebuilt[:, 0] == 5).all() and rebuilt[:, 3:].max() < 5


@pytest.mark.parametrize(("name", "forge"), FORGED_ROWS.values(), ids=FORGED_ROWS.keys())
def test_a_row_that_no_writer_writes_is_refused_although_it_has_its_checksum(tmp_path, name, forge):
    path = tmp_path / "s.h5"
    helpers.create(path, 3, codec=name, num_classes=21)
    stored = codecs.get(name).encode(teacher_like(3, 21))
    forge(stored)
    with StoreWriter(path) as writer:
        writer.write_stored(0, stored, helpers.content_of(range(3)), np.zeros(3, bool))
        writer.finish(helpers.SUMMARY)
    with pytest.raises(
        DamagedStoreError,
        match=rf"\(row [01]\) has its checksum, .* not one that the codec {name[:8]}",
    ):
        open_store(path).gather(np.arange(3))
    assert open_store(path).gather(np.array([2])).shape == (1, 21)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("packed", "no codec 'packed'; choose one of float16, float32, packed:BITS or"),
        ("packed:", "no codec 'packed:'"),
        ("packed:08", "no codec 'packed:08'"),
        ("packed:3+", r"no codec 'packed:3\+'"),
        ("packed:3+0", r"no codec 'packed:3\+0'"),
        ("packed:3 + 8", "no codec"),
        ("packed:٣+8", "no codec"),
        ("packed:5", "no codec 'packed:5': BITS is one of 8, 4, 3, 2, or 0 where"),
        ("packed:16+2", r"no codec 'packed:16\+2': BITS is one of"),
        ("packed:0", "no codec 'packed:0': BITS is one of"),
    ],
)
def test_codec_names_that_mean_nothing_are_refused(name, message):
    with pytest.raises(OptionError, match=message):
        codecs.get(name)


@pytest.mark.parametrize("name", ["packed:3+10", "packed:0+11", "packed:8+999999999999"])
def test_a_store_cannot_keep_every_class(name):
    with pytest.raises(OptionError, match=r"keeps .* logits, and there are 10 classes\.\nKeep"):
        helpers.header_of(num_classes=10, codec=name)


@pytest.mark.parametrize(
    ("name", "bits", "num_kept"),
    [("packed:8", 8, 0), ("packed:2", 2, 0), ("packed:3+28", 3, 28), ("packed:0+100", 0, 100)],
)
def test_a_name_says_how_many_bits_and_kept_logits_there_are(name, bits, num_kept):
    codec, datasets = codecs.get(name), codecs.get(name).datasets(1000)
    assert codec.name == name
    assert datasets.get("packed", ("|u1", (0,))) == ("|u1", (1000 * bits // 8,))
    assert datasets.get("kept_distances", ("|u1", (0,))) == ("|u1", (num_kept,))


@pytest.mark.parametrize("name", ["packed:8", "packed:3+1", "packed:0+1"])
def test_two_classes_can_be_packed(name):
    logits = np.array([[1.0, -2.0], [-3.0, 4.0], [0.5, 0.5]], np.float32)
    codec = codecs.get(name)
    assert np.allclose(codec.decode(codec.encode(logits), 2), logits, atol=0.02)


def test_one_class_can_be_packed_without_kept_logits():
    codec = codecs.get("packed:2")
    assert codec.decode(codec.encode(np.array([[3.25]], np.float32)), 1) == 3.25


@pytest.mark.parametrize(("num_classes", "dtype"), [(65_536, "<u2"), (65_537, "<u4")])
def test_tens_of_thousands_of_classes_have_wide_enough_class_numbers(num_classes, dtype):
    logits = np.zeros((2, num_classes), np.float32)
    logits[0, -1], logits[0, 7], logits[1, 0] = 9, 8, 5
    codec = codecs.get("packed:0+2")
    stored = codec.encode(logits)
    assert stored["kept_classes"].dtype == dtype
    assert stored["kept_classes"].tolist() == [[7, num_classes - 1], [0, 1]]
    decoded = codec.decode(stored, num_classes)
    assert decoded.argmax(axis=1).tolist() == [num_classes - 1, 0]
    assert np.allclose(decoded, logits, atol=0.1)


@pytest.mark.parametrize("name", PACKED)
def test_logits_beyond_float16_are_refused_for_packed_codecs(tmp_path, name):
    helpers.create(tmp_path / "s.h5", 3, codec=name, num_classes=21)
    logits = teacher_like(3, 21)
    logits[1, 4] = 65505
    with (
        StoreWriter(tmp_path / "s.h5") as writer,
        pytest.raises(NonFiniteError, match="finite numbers up to 65504"),
    ):
        writer.write_block(0, logits, helpers.content_of(range(3)))

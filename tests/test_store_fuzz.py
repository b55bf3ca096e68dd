"""Random damage: it is detected, or what is read is what was written.

Flipped bits over whole files, files cut short or grown, and changed metadata, once with the digest
left as it was and once with one that fits, so that HDF5 is made to parse the damage.
"""

import collections
import json
import os
import random
import subprocess

import numpy as np
import pytest
import store_helpers as helpers
from process_helpers import running

from streamkd.errors import DamagedStoreError, MissingLogitsError, OptionError, StoreError
from streamkd.store import codecs, userblock
from streamkd.store.collection import open_store
from streamkd.store.userblock import USERBLOCK_BYTES
from streamkd.store.verify_file import verify_store

NUM_IMAGES, NUM_CLASSES = 6, 100


@pytest.fixture(params=["float16", "packed:3+8"])
def path(request, tmp_path):
    """A finished store of two views."""
    try:
        codecs.get(request.param)
    except OptionError:
        pytest.skip(f"there is no codec {request.param}")
    path = tmp_path / "s.h5"
    helpers.teach(path, NUM_IMAGES, num_views=2, num_classes=NUM_CLASSES, codec=request.param)
    return path


def numbers(few, many):
    """Returns a mark with two counts: of the ordinary test and of the slow one."""
    return pytest.mark.parametrize(
        "count",
        [
            pytest.param(few, id=str(few)),
            pytest.param(many, id=str(many), marks=pytest.mark.slow),
        ],
    )


def rows_of(store):
    """Returns the rows that a store gives out, one by one; others it refuses by an error."""
    given = {}
    for row in range(store.rows_total):
        try:
            given[row] = store.gather(np.array([row]))[0].tolist()
        except (MissingLogitsError, DamagedStoreError):
            continue
    return given


def everything(path):
    """Returns all that a store says, so that two of them can be compared."""
    store = open_store(path)
    store.gather(np.arange(store.rows_total))
    return {
        "header": repr(store.header),
        "keys": store.keys.tolist(),
        "images": store.images_of_keys(helpers.keys_of(NUM_IMAGES)).tolist(),
        "labels": store.labels.tolist(),
        "class_names": store.class_names,
        "content": store.content_of(np.arange(store.num_images)).tolist(),
        "by content": store.images_of_content(helpers.content_of(range(NUM_IMAGES))).tolist(),
        "rows": rows_of(store),
        "summary": store.summary,
        "rows_done": store.rows_done,
    }


def what_happens(path, expected):
    """Returns how damage shows: 'at opening', 'on reading', 'by verify', or 'harmless'.

    Raises:
      AssertionError: it does not show at all, or a row is given out that is wrong.
    """
    try:
        given = rows_of(open_store(path))
    except StoreError:
        return "at opening"
    assert all(expected["rows"][row] == logits for row, logits in given.items()), "a wrong row"
    sound = verify_store(path).sound
    try:
        read = everything(path)
    except (StoreError, MissingLogitsError):
        assert not sound, "verify missed what a reader refuses"
        return "on reading"
    if not sound:
        return "by verify"
    assert read == expected, "silent damage"
    return "harmless"


def regions_of(path):
    """Returns where userblock and metadata lie, and where these and each dataset lie."""
    block = userblock.parse("", path.read_bytes())
    ranges = [(0, USERBLOCK_BYTES), *userblock.metadata_ranges(block.file_size, block.extents)]
    return ranges, ranges + [(start, start + size) for start, size in block.extents.values()]


@numbers(100, 5000)
def test_a_flipped_bit_is_detected_or_harmless(path, count):
    expected, (_, regions) = everything(path), regions_of(path)
    data, chance, outcomes = path.read_bytes(), random.Random(1), collections.Counter()
    for number in range(count):
        # Half of them anywhere, half of them in any part: most of the bytes are logits.
        start, stop = (0, len(data)) if number % 2 else chance.choice(regions)
        offset = chance.randrange(start, stop)
        helpers.flip_bit(path, offset, bit := chance.randrange(8))
        outcomes[what_happens(path, expected)] += 1
        helpers.flip_bit(path, offset, bit)
    print(f"{count} flipped bits: {dict(outcomes)}")
    assert path.read_bytes() == data and what_happens(path, expected) == "harmless"
    assert outcomes["at opening"] > count / 10 and outcomes["on reading"] > count / 10
    assert not outcomes["harmless"]


@numbers(40, 500)
def test_a_file_cut_short_is_refused(path, count):
    expected, data, chance = everything(path), path.read_bytes(), random.Random(2)
    for length in chance.sample(range(len(data)), count):
        path.write_bytes(data[:length])
        assert what_happens(path, expected) == "at opening"


@numbers(20, 200)
def test_a_tail_of_zeros_is_detected_or_harmless_and_a_longer_file_refused(path, count):
    expected, data, chance = everything(path), path.read_bytes(), random.Random(3)
    outcomes = collections.Counter()
    for _ in range(count):
        kept = chance.randrange(len(data))
        path.write_bytes(data[:kept] + bytes(len(data) - kept))
        outcomes[what_happens(path, expected)] += 1
        path.write_bytes(data + chance.randbytes(chance.randint(1, 9000)))
        assert what_happens(path, expected) == "at opening"
        path.write_bytes(data + bytes(chance.randint(1, 9000)))
        assert what_happens(path, expected) == "at opening"
    print(f"{count} tails of zeros: {dict(outcomes)}")
    assert outcomes["at opening"]


def test_a_file_cut_short_while_it_is_read_is_an_error_with_pread(path):
    store = open_store(path, "pread")
    os.truncate(path, helpers.extents_of(path)["content"][0])
    with pytest.raises(DamagedStoreError, match="it ends inside of dataset '"):
        store.gather(np.arange(store.rows_total))


def changed(data, regions, chance):
    """Returns the data with one to four bytes changed inside of the regions."""
    sizes = [stop - start for start, stop in regions]
    other = bytearray(data)
    for _ in range(chance.randint(1, 4)):
        start, stop = chance.choices(regions, sizes)[0]
        other[chance.randrange(start, stop)] ^= chance.randint(1, 255)
    return bytes(other)


def living(data, regions):
    """Returns the pieces of 16 bytes in these regions that are not all zeros."""
    pieces = [(at, min(at + 16, stop)) for start, stop in regions for at in range(start, stop, 16)]
    return [piece for piece in pieces if any(data[slice(*piece)])]


@numbers(150, 2000)
def test_changed_metadata_is_refused_before_hdf5_sees_it(path, monkeypatch, count):
    data, chance = path.read_bytes(), random.Random(4)
    metadata, _ = regions_of(path)

    def seen(*_args, **_kwargs):
        raise AssertionError("HDF5 was given a damaged file")

    monkeypatch.setattr("h5py.File", seen)
    for _ in range(count):
        path.write_bytes(changed(data, metadata, chance))
        with pytest.raises(StoreError, match=r"damaged|format version|not a logit store"):
            open_store(path)


# Opens each file that it is told in a child of its own, which may die or hang.
EXAMINER = """
import json, os, signal, sys
import test_store_fuzz as tests
from streamkd.errors import StreamkdError

expected = tests.everything(sys.argv[1])
for line in sys.stdin:
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        signal.alarm(60)
        try:
            read = tests.everything(line.strip())
            wrong = [name for name in expected if read[name] != expected[name]]
            answer = "differs: " + ", ".join(wrong) if wrong else "equal"
        except StreamkdError as error:
            answer = "refused"
        except BaseException as error:
            answer = f"{type(error).__name__}: {error}"
        os.write(writing, answer.encode())
        os._exit(0)
    os.close(writing)
    answer = os.read(reading, 1 << 16).decode()
    os.close(reading)
    status = os.waitpid(child, 0)[1]
    print(json.dumps(answer or "killed by " + signal.Signals(os.WTERMSIG(status)).name), flush=True)
"""


@numbers(30, 2000)
def test_changed_metadata_with_a_digest_that_fits_gives_no_wrong_row(path, tmp_path, count):
    data, chance = path.read_bytes(), random.Random(5)
    (_, *metadata), _ = regions_of(path)
    forged, outcomes = tmp_path / "forged.h5", collections.Counter()
    pipes = {"stdin": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    with running("-c", EXAMINER, path, **pipes) as examiner:
        for number in range(count):
            # Most of the metadata are gaps between datasets, which HDF5 does not look at.
            regions = living(data, metadata) if number % 4 else metadata
            forged.write_bytes(changed(data, regions, chance))
            helpers.forge_userblock(forged)
            print(forged, file=examiner.stdin, flush=True)
            outcomes[json.loads(examiner.stdout.readline())] += 1
    print(f"{count} forged files: {dict(outcomes)}")
    # A digest stops damage, not malice: such a file may end the process that opens it, or say of
    # its teacher what it likes. It gives no row that was not written.
    allowed = {"equal", "refused", "differs: header"}
    crashes = {f"killed by {name}" for name in ("SIGSEGV", "SIGABRT", "SIGBUS", "SIGFPE")}
    assert not set(outcomes) - allowed - crashes
    assert sum(outcomes[crash] for crash in crashes) <= count / 20
    assert outcomes["refused"] > count / 5


@numbers(100, 1000)
def test_a_userblock_that_was_changed_with_its_digest_is_refused(path, count):
    data, chance = path.read_bytes(), random.Random(6)
    expected, head = everything(path), data[:USERBLOCK_BYTES]
    body = head.split(b"\n")[1]
    outcomes = collections.Counter()
    for _ in range(count):
        other = bytearray(body)
        for _ in range(chance.randint(1, 4)):
            other[chance.randrange(len(other))] = chance.choice(b'0123456789abcdef[]{}",:-.eu<f ')
        line = b"streamkd logit store 1 " + userblock.digest(bytes(other)).encode()
        with open(path, "r+b") as file:
            file.write((line + b"\n" + bytes(other) + b"\n").ljust(USERBLOCK_BYTES, b"\0"))
        outcomes[what_happens(path, expected)] += 1
    print(f"{count} changed userblocks: {dict(outcomes)}")
    assert outcomes["at opening"] > count * 0.6

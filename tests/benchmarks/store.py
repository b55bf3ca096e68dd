"""Random batches of stored logits: streamkd, numpy's memmap, h5py, zarr, LMDB, dict and seek.

    pip install zarr lmdb
    python tests/benchmarks/store.py                   100,000 images, 1,000 classes, 256 rows
    python tests/benchmarks/store.py --rounds 15

zarr and lmdb are peers. They are no extra of streamkd; the script names a peer that is not
installed and leaves it out. Everything is read from the page cache. In each round every contender
answers other random rows, another contender first. Printed are medians, and the speed as a fraction
of numpy's memmap (the first line of each table) doing the same work, by wall and by CPU time: 1 is
as fast.

Four tables: rows as they are stored; rows as float32, for each codec; rows as float32, asked for by
key; and the cost of checksums: when a row is first read, in `verify`, and before a pass resumes.
"""

from __future__ import annotations

import argparse
import importlib
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from common import cpu_seconds, made_up_header, rotated

from streamkd.keys import Keys
from streamkd.store import codecs
from streamkd.store.collection import open_store
from streamkd.store.creation import create_store
from streamkd.store.reader import LogitStore
from streamkd.store.verify_file import verify_store
from streamkd.store.writer import StoreWriter

Contender = Callable[[np.ndarray], Any]
CODECS = ("float16", "float32", "packed:8", "packed:4", "packed:3+28", "packed:0+100")
BLOCK_ROWS = 256


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=100_000)
    parser.add_argument("--classes", type=int, default=1000)
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--directory", type=Path, help="for the files; a temporary one by default")
    args = parser.parse_args()
    directory = Path(tempfile.mkdtemp(prefix="streamkd-", dir=args.directory))
    try:
        logits = made_up_logits(args.images, args.classes)
        keys = made_up_keys(args.images)
        stores = {name: write_store(directory, name, keys, logits) for name in CODECS}
        bench = Bench(args.images, args.batch_size, args.rounds)
        print(f"{args.images:,} images, {args.classes:,} classes, batches of {args.batch_size}")
        half = logits.astype("<f2")
        peers, by_key_peers = make_peers(directory, keys, half)
        raw_rows(bench, stores["float16"], half, peers)
        float32_rows(bench, stores)
        rows_by_key(bench, stores["float16"], keys, by_key_peers)
        first_reads(stores, args.batch_size)
    finally:
        shutil.rmtree(directory)


class Bench:
    """Runs contenders in turn on random rows and prints their medians."""

    def __init__(self, num_images: int, batch_size: int, rounds: int) -> None:
        self._num_images = num_images
        self._batch_size = batch_size
        self._rounds = rounds
        self._random = np.random.default_rng(1)

    def run(self, title: str, contenders: dict[str, Contender], expected: Contender) -> None:
        """Prints a table; the first contender is the reference, `expected` gives the right rows."""
        times: dict[str, list[float]] = {name: [] for name in contenders}
        cpu: dict[str, list[float]] = {name: [] for name in contenders}
        batches = {name: self._check_and_count(run, expected) for name, run in contenders.items()}
        for round_number in range(self._rounds):
            for name in rotated(contenders, round_number):
                rows = [self._draw() for _ in range(batches[name])]
                wall_start, cpu_start = time.perf_counter(), cpu_seconds()
                for batch in rows:
                    contenders[name](batch)
                times[name].append((time.perf_counter() - wall_start) / len(rows))
                cpu[name].append((cpu_seconds() - cpu_start) / len(rows))
        reference = next(iter(contenders))
        columns = f"{'ms a batch':>11}{'CPU ms':>9}{'of memmap':>11}{'CPU':>8}"
        print(f"\n{title:<44}{columns}")
        for name in contenders:
            # Paired within a round, so that what slows the whole machine slows both.
            fraction = np.median(np.array(times[reference]) / times[name])
            cpu_fraction = np.median(np.array(cpu[reference]) / cpu[name])
            print(
                f"{name:<44}{1e3 * np.median(times[name]):>11.3f}{1e3 * np.median(cpu[name]):>9.3f}"
                f"{fraction:>11.2g}{cpu_fraction:>8.2g}",
                flush=True,
            )

    def _check_and_count(self, run: Contender, expected: Contender) -> int:
        """Returns how many batches take about 50 ms, after comparing one with the right rows."""
        rows = self._draw()
        np.testing.assert_array_equal(run(rows), expected(rows))
        start = time.perf_counter()
        run(self._draw())
        return int(np.clip(0.05 / (time.perf_counter() - start), 1, 200))

    def _draw(self) -> np.ndarray:
        return self._random.integers(0, self._num_images, self._batch_size)


def raw_rows(
    bench: Bench, store: LogitStore, half: np.ndarray, peers: dict[str, Contender]
) -> None:
    """Prints rows of float16 as they are stored."""
    mapped = map_dataset(store, "logits")
    touch(store)
    contenders: dict[str, Contender] = {
        "numpy memmap, mm[rows]": lambda rows: mapped[rows],
        "streamkd, stored_rows": lambda rows: store.stored_rows(rows)[0]["logits"],
        **peers,
    }
    bench.run("rows as stored, float16", contenders, lambda rows: half[rows])


def float32_rows(bench: Bench, stores: dict[str, LogitStore]) -> None:
    """Prints rows decoded to float32, each codec and the memmap of its own datasets."""
    for name, store in stores.items():
        codec = codecs.get(name)
        mapped = {part: map_dataset(store, part) for part in codec.datasets(store.num_classes)}

        def decoded(
            rows: np.ndarray,
            codec: Any = codec,
            mapped: dict[str, np.ndarray] = mapped,
            num_classes: int = store.num_classes,
        ) -> np.ndarray:
            stored = {part: values[rows] for part, values in mapped.items()}
            return codec.decode(stored, num_classes)

        contenders: dict[str, Contender] = {"numpy memmap and the codec's decode": decoded}
        if name.startswith("float"):
            contenders["numpy memmap and astype"] = lambda rows, values=mapped["logits"]: values[
                rows
            ].astype(np.float32)
        contenders["streamkd, gather"] = store.gather
        touch(store)
        row_bytes = sum(values[0].nbytes for values in mapped.values())
        bench.run(f"float32 from {name}, {row_bytes:,} bytes a row", contenders, decoded)


def rows_by_key(
    bench: Bench, store: LogitStore, keys: Keys, peers: dict[str, Callable[[Keys], np.ndarray]]
) -> None:
    """Prints look-up by key and rows as float32."""
    mapped = map_dataset(store, "logits")
    numbers = {key: row for row, key in enumerate(keys)}

    def from_dict(asked: Keys) -> np.ndarray:
        return decode_half(mapped[[numbers[key] for key in asked]])

    contenders = {
        "a dict in memory and numpy memmap": from_dict,
        "streamkd, images_of_keys and gather": lambda asked: store.gather(
            store.images_of_keys(asked)
        ),
        **peers,
    }
    # Everybody is asked for keys; taking them out of the manifest is the same work for all.
    bench.run(
        "float32 by key, from float16",
        {n: lambda rows, run=run: run(keys.take(rows)) for n, run in contenders.items()},
        lambda rows: from_dict(keys.take(rows)),
    )


def first_reads(stores: dict[str, LogitStore], batch_size: int) -> None:
    """Prints the cost of checksums: at the first read of a row, in `verify`, before resuming."""
    print(f"\n{'checksums':<24}{'first read':>12}{'again':>8}{'verify':>18}{'before resuming':>20}")
    for name, store in stores.items():
        order = np.random.default_rng(2).permutation(store.num_images)
        rounds = []
        for _ in range(3):
            fresh = open_store(store.path)
            rounds.append([timed(read_all, fresh, order, batch_size) for _ in range(2)])
        first, again = np.median(rounds, axis=0) / store.num_images * 1e6
        with StoreWriter(store.path) as writer:
            resume = timed(writer.pending_blocks)
        verify = timed(verify_store, store.path)
        num_bytes = store.describe()["num_bytes"]
        line = f"{name:<24}{first:>9.1f} µs{again:>5.1f} µs"
        for took in (verify, resume):
            line += f"{took / store.num_images * 1e6:>9.1f} µs {num_bytes / took / 1e9:>5.2f} GB/s"
        print(line, flush=True)
    print("µs a row of decoded logits, all rows in random batches; verify takes in the keys")


def make_peers(
    directory: Path, keys: Keys, half: np.ndarray
) -> tuple[dict[str, Contender], dict[str, Callable[[Keys], np.ndarray]]]:
    """Returns the peers that read rows by number, as stored, and those that read them by key."""
    by_row: dict[str, Contender] = {}
    by_key: dict[str, Callable[[Keys], np.ndarray]] = {}
    by_row["h5py, sorted unique list"] = h5py_reader(directory / "h5py.h5", half)
    by_row["dict and seek (as TinyViT), by number"], by_key["dict and seek, as TinyViT"] = (
        seek_readers(directory / "values.bin", keys, half)
    )
    for chunk_rows in (8, 64):
        name = f"zarr, chunks of {chunk_rows}, sorted unique list"
        by_row[name] = zarr_reader(directory / f"zarr{chunk_rows}", half, chunk_rows)
    by_row["LMDB, by number"], by_key["LMDB"] = lmdb_readers(directory / "lmdb", keys, half)
    missing = [name for name, run in by_row.items() if run is None]
    if missing:
        print("not installed, left out:", ", ".join(missing))
    return (
        {name: run for name, run in by_row.items() if run is not None},
        {name: run for name, run in by_key.items() if run is not None},
    )


def h5py_reader(path: Path, half: np.ndarray) -> Contender:
    """Returns h5py's best: a contiguous dataset asked for a sorted list without repetitions."""
    with h5py.File(path, "w") as file:
        file.create_dataset("logits", data=half)
    dataset = h5py.File(path, "r")["logits"]

    def read(rows: np.ndarray) -> np.ndarray:
        unique, inverse = np.unique(rows, return_inverse=True)
        return dataset[unique][inverse]

    return read


def zarr_reader(path: Path, half: np.ndarray, chunk_rows: int) -> Contender | None:
    """Returns zarr's orthogonal selection on uncompressed chunks.

    Chunks of one row, in shards of 4,096, read as fast and take a minute to write.
    """
    zarr = installed("zarr")
    if zarr is None:
        return None
    array = zarr.create_array(
        path,
        shape=half.shape,
        dtype="float16",
        chunks=(chunk_rows, half.shape[1]),
        compressors=None,
        filters=None,
    )
    array[:] = half
    array = zarr.open_array(path, mode="r")

    def read(rows: np.ndarray) -> np.ndarray:
        unique, inverse = np.unique(rows, return_inverse=True)
        return array.get_orthogonal_selection((unique, slice(None)))[inverse]

    return read


def lmdb_readers(path: Path, keys: Keys, half: np.ndarray) -> tuple[Any, Any]:
    """Returns readers of a map from key to bytes: by row number and by path."""
    lmdb = installed("lmdb")
    if lmdb is None:
        return None, None
    environment = lmdb.open(str(path), map_size=8 * half.nbytes + (1 << 26))
    with environment.begin(write=True) as transaction:
        for row, key in enumerate(keys):
            transaction.put(key, half[row].tobytes())
            transaction.put(b"%08d" % row, half[row].tobytes())
    environment.close()
    environment = lmdb.open(str(path), readonly=True, lock=False, readahead=False)
    width = half.shape[1]

    def read(names: list[bytes]) -> np.ndarray:
        rows = np.empty((len(names), width), "<f2")
        with environment.begin(buffers=True) as transaction:
            for index, name in enumerate(names):
                rows[index] = np.frombuffer(transaction.get(name), "<f2")
        return rows

    return (
        lambda rows: read([b"%08d" % row for row in rows.tolist()]),
        lambda asked: decode_half(read(asked.tolist())),
    )


def seek_readers(path: Path, keys: Keys, half: np.ndarray) -> tuple[Any, Any]:
    """Returns readers as TinyViT has them: a dict from key to number, seek and read of a record."""
    path.write_bytes(half.tobytes())
    file, item_bytes = open(path, "rb"), half[0].nbytes  # noqa: SIM115
    numbers = {key: row for row, key in enumerate(keys)}

    def read(rows: list[int]) -> np.ndarray:
        values = []
        for row in rows:
            file.seek(row * item_bytes)
            values.append(np.frombuffer(file.read(item_bytes), "<f2"))
        return np.stack(values)

    return (
        lambda rows: read(rows.tolist()),
        lambda asked: decode_half(read([numbers[key] for key in asked])),
    )


def decode_half(rows: np.ndarray) -> np.ndarray:
    """Returns float32, decoded as fast as streamkd does it."""
    return codecs.get("float16").decode({"logits": rows}, rows.shape[1])


def installed(name: str) -> Any:
    """Returns a module, or None where it is not installed."""
    try:
        return importlib.import_module(name)
    except ImportError:
        return None


def made_up_logits(num_images: int, num_classes: int) -> np.ndarray:
    """Returns float32 `[num_images, num_classes]`, in float16's precision."""
    random = np.random.default_rng(0)
    logits = np.empty((num_images, num_classes), np.float32)
    for start in range(0, num_images, 4096):
        part = logits[start : start + 4096]
        part[:] = (4 * random.standard_normal(part.shape, np.float32)).astype(np.float16)
    return logits


def made_up_keys(num_images: int) -> Keys:
    """Returns sorted keys such as `train/n01440764/n01440764_00012.JPEG`."""
    return Keys.from_list(
        b"train/n%08d/n%08d_%05d.JPEG" % (folder, folder, image)
        for folder, image in ((1440764 + n // 1300, n % 1300) for n in range(num_images))
    )


def write_store(directory: Path, codec: str, keys: Keys, logits: np.ndarray) -> LogitStore:
    """Returns a finished store."""
    path = directory / f"{codec.replace(':', '-')}.h5"
    header = made_up_header(len(keys), logits.shape[1], codec=codec, block_rows=BLOCK_ROWS)
    create_store(path, header, keys, np.full(len(keys), -1))
    with StoreWriter(path) as writer:
        for block in writer.pending_blocks().tolist():
            images = writer.images_of_block(block)
            content = np.arange(images.start, images.stop, dtype=np.uint64)
            writer.write_block(block, logits[images.start : images.stop], content)
        writer.finish({})
    return open_store(path)


def map_dataset(store: LogitStore, name: str) -> np.ndarray:
    """Returns numpy's own map of a dataset at the offset that h5py tells."""
    with h5py.File(store.path, "r") as file:
        dataset = file[name]
        images, views, *shape = dataset.shape
        return np.memmap(
            store.path, dataset.dtype, "r", dataset.id.get_offset(), (images * views, *shape)
        )


def touch(store: LogitStore) -> None:
    """Reads every row once, so that its checksum is behind it."""
    read_all(store, np.arange(store.rows_total), 4096)


def read_all(store: LogitStore, order: np.ndarray, batch_size: int) -> None:
    for start in range(0, len(order), batch_size):
        store.gather(order[start : start + batch_size])


def timed(work: Callable[..., Any], *args: Any) -> float:
    start = time.perf_counter()
    work(*args)
    return time.perf_counter() - start


if __name__ == "__main__":
    main()

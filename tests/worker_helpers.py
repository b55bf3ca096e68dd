"""A worker of a run, for tests that need several processes or devices; a script of its own.

    expected = alone(folder, epochs=2)                # in this process, with no strategy
    results = train(folder, "multi-worker", num_workers=2, epochs=2, run="r")
    results[0]["weights"], results[0]["epochs"], results[0]["opened"]

    python tests/worker_helpers.py JOB.json        # what `train` starts, once a worker

Every process reads the same JOB.json, and writes its result into the same folder.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
DEFAULTS: dict[str, Any] = {
    "strategy": None,
    "family": "tf_keras",
    "student": "dense",
    "images": "images",
    "validation": None,
    "store": "teacher.h5",
    "run": None,
    "epochs": 2,
    "join": {},
    "distiller": {},
    "fit": {},
    "callbacks": [],
    "stop_at": {},
    "kill_at": {},
    "vary": {},
}


def start(folder: Path, strategy: str | None, num_workers: int = 1, **job: Any) -> list[Any]:
    """Starts the workers of a run and returns their processes."""
    path = folder / "job.json"
    path.write_text(json.dumps({**DEFAULTS, "strategy": strategy, **job}))
    ports = _free_ports(num_workers)
    processes = []
    for number in range(num_workers):
        environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"}
        environment.pop("TF_CONFIG", None)
        if strategy == "multi-worker":
            cluster = {"worker": [f"127.0.0.1:{port}" for port in ports]}
            task = {"type": "worker", "index": number}
            environment["TF_CONFIG"] = json.dumps({"cluster": cluster, "task": task})
        for old in folder.glob(f"result-{number}.*"):
            old.unlink()
        words = [sys.executable, str(Path(__file__)), str(path), str(number)]
        with open(folder / f"errors-{number}.txt", "w") as errors:
            processes.append(subprocess.Popen(words, env=environment, stderr=errors))
    return processes


def finish(folder: Path, processes: list[Any]) -> list[dict[str, Any]]:
    """Waits for the workers of a run, kills those that hang, and returns their results.

    Returns:
      'code', which the process ended with; 'errors', its standard error; and, where it came to
      its end, 'weights', 'opened' (paths of the files it read), 'error' and all of `History`.
    """
    from timeouts import TIMEOUT_SECS

    codes: list[int | None] = []
    try:
        for process in processes:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(TIMEOUT_SECS)
            codes.append(process.poll())
    finally:
        for process in processes:
            process.kill()
            process.wait()
    results = []
    for number, code in enumerate(codes):
        errors = (folder / f"errors-{number}.txt").read_text()
        result: dict[str, Any] = {"code": code, "errors": errors}
        with contextlib.suppress(FileNotFoundError):
            result |= json.loads((folder / f"result-{number}.json").read_text())
            result["weights"] = None
            with np.load(folder / f"result-{number}.npz") as arrays:
                result["weights"] = [arrays[name] for name in sorted(arrays.files)]
        results.append(result)
    return results


def train(folder: Path, strategy: str | None, num_workers: int = 1, **job: Any) -> list[dict]:
    """Trains in processes of their own; returns what `finish` does, and asserts that all is well.

    Args:
      folder: with the images and the store; the workers' working directory.
      strategy: None, 'mirrored' on two logical devices, or 'multi-worker'.
      num_workers: of 'multi-worker'.
      job: entries that differ from `DEFAULTS`.
    """
    results = finish(folder, start(folder, strategy, num_workers, **job))
    for result in results:
        assert result["code"] == 0 and result["error"] is None, result["errors"][-4000:]
    return results


def _free_ports(number: int) -> list[int]:
    sockets = [socket.socket() for _ in range(number)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()


def _strategy(name: str | None) -> Any:
    import tensorflow as tf

    if name == "multi-worker":
        return tf.distribute.MultiWorkerMirroredStrategy()
    if name == "mirrored":
        (processor,) = tf.config.list_physical_devices("CPU")
        two = [tf.config.LogicalDeviceConfiguration()] * 2
        tf.config.set_logical_device_configuration(processor, two)
        return tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    return tf.distribute.get_strategy()


def student_of(kind: str, family: Any) -> Any:
    """Returns a student: 'dense', or with a 'norm', a 'dropout' or 'both'."""
    from run_helpers import dense_student

    if kind == "dense":
        return dense_student(family)
    layers = family.layers
    middle = {
        "norm": lambda: [layers.BatchNormalization()],
        "dropout": lambda: [layers.Dropout(0.3, seed=5)],
        "both": lambda: [layers.BatchNormalization(), layers.Dropout(0.3, seed=5)],
    }[kind]()
    parts = [family.Input((8, 8, 3)), layers.Rescaling(1 / 255), layers.Conv2D(4, 3)]
    model = family.Sequential([*parts, *middle, layers.Flatten(), layers.Dense(3)])
    rng = np.random.default_rng(0)
    for weight in model.trainable_variables:
        weight.assign(rng.normal(scale=0.1, size=weight.shape).astype(np.float32))
    return model


def run(job: dict[str, Any], number: int, student: Any) -> dict[str, Any]:
    """Trains in this process; returns `History`, the refusal, and the files that were read."""
    from streamkd.errors import StreamkdError
    from streamkd.manifest.manifest import scan
    from streamkd.pixels import file_batch
    from streamkd.stream.join import join
    from streamkd.training.distiller import Distiller

    opened: list[bytes] = []
    read_file = file_batch.read_file
    file_batch.read_file = lambda path: opened.append(path) or read_file(path)
    family = importlib.import_module(job["family"])
    calls = 0

    def stop() -> bool:
        nonlocal calls
        calls += 1
        if calls == job["kill_at"].get(str(number)):
            os.kill(os.getpid(), signal.SIGKILL)
        return calls == job["stop_at"].get(str(number))

    error, result = None, {}
    try:
        stream = join(
            scan(job["images"]),
            job["store"],
            **{"batch_size": 8, "seed": 1, "progress": False, **job["join"]},
        )
        settings = {"jit": "off", "steps_per_call": 1, "learning_rate": 0.01, **job["distiller"]}
        history = Distiller(student, **settings).fit(
            stream,
            epochs=job["epochs"],
            validation=job["validation"] and scan(job["validation"]),
            run=job["run"],
            stop=stop,
            callbacks=[getattr(family.callbacks, name)(**a) for name, a in job["callbacks"]],
            **{"progress": False, **job["fit"]},
        )
        result = vars(history)
    except StreamkdError as refusal:
        error = [type(refusal).__name__, str(refusal)]
    finally:
        file_batch.read_file = read_file
    return result | {"error": error, "opened": [os.fsdecode(path) for path in opened]}


def alone(folder: Path, **job: Any) -> dict[str, Any]:
    """Trains in this process, on one device, with no strategy; returns a worker's result."""
    job = {**DEFAULTS, **job}
    student = student_of(job["student"], importlib.import_module(job["family"]))
    with contextlib.chdir(folder):
        result = run(job, 0, student)
    assert result["error"] is None, result["error"]
    return result | {"weights": student.get_weights()}


def _main(path: str, number: int) -> None:
    job = json.loads(Path(path).read_text())
    job |= job["vary"].get(str(number), {})
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.chdir(Path(path).parent)
    strategy = _strategy(job["strategy"])
    with strategy.scope():
        student = student_of(job["student"], importlib.import_module(job["family"]))
    result = run(job, number, student)
    if result["error"] is None:
        arrays = {f"{i:03d}": weight for i, weight in enumerate(student.get_weights())}
        np.savez(f"result-{number}.npz", **arrays)
    Path(f"result-{number}.json").write_text(json.dumps(result))


if __name__ == "__main__":
    _main(sys.argv[1], int(sys.argv[2]))

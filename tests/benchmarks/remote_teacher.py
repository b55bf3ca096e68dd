"""A quantised TensorFlow Lite teacher behind an unreliable server, killed and resumed.

    python tests/benchmarks/remote_teacher.py IMAGES MODEL.tflite

The server speaks TensorFlow Serving's REST predict on this machine, and cuts the connection of one
request in twenty after the answer was computed. The pass has a query budget, is killed (SIGKILL)
once half of the images are answered, or as many as `--kill-after` says, and is resumed until it is
done; its store is compared with that of the model itself. A budget larger than that number, and
smaller than the rest, stops the pass besides:

    python tests/benchmarks/remote_teacher.py IMAGES MODEL.tflite --kill-after 200 --max-queries 350
"""

import argparse
import hashlib
import json
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from predict_helpers import predict_server

import streamkd as kd


class Model:
    """Answers uint8 images one by one, with probabilities; counts how often each was asked."""

    def __init__(self, path):
        from ai_edge_litert.interpreter import Interpreter

        self.interpreter = Interpreter(path)
        self.interpreter.allocate_tensors()
        self.input = self.interpreter.get_input_details()[0]
        self.output = self.interpreter.get_output_details()[0]
        self.counts = Counter()

    def __call__(self, images):
        scale, zero = self.output["quantization"]
        rows = []
        for image in np.clip(np.rint(images), 0, 255).astype(np.uint8):
            self.counts[hashlib.blake2b(image.tobytes()).digest()] += 1
            self.interpreter.set_tensor(self.input["index"], image[None])
            self.interpreter.invoke()
            answer = self.interpreter.get_tensor(self.output["index"])[0].astype(np.float64)
            rows.append(((answer - zero) * scale).tolist())
        return rows


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("images")
    parser.add_argument("model")
    parser.add_argument("--max-queries", type=int, default=700)
    parser.add_argument("--kill-after", type=int, metavar="IMAGES", help="default: half of them")
    args = parser.parse_args()
    size = tuple(Model(args.model).input["shape"][1:3].tolist())
    images = kd.scan(args.images, labels=None)
    with tempfile.TemporaryDirectory() as folder:
        served = Model(args.model)
        with predict_server(served, dtype="DT_UINT8", size=size, drop_every=20) as server:
            told = remote_passes(args, server, served, Path(folder) / "remote.h5", len(images))
            asked = sum(served.counts.values())
        begin = time.perf_counter()
        own = Model(args.model)
        teacher = kd.load_teacher(
            lambda pixels: np.float32(own(pixels)), output="probabilities", name="local"
        )
        local = kd.teach(
            images,
            teacher,
            Path(folder) / "local.h5",
            image_size=size,
            batch_size=16,
            progress=False,
        )
        seconds_local = time.perf_counter() - begin
        remote, rows = kd.open_store(Path(folder) / "remote.h5"), np.arange(len(images))
        different = sum(count > 1 for count in served.counts.values())
        result = {
            **told,
            "images": len(images),
            "answers_computed": asked,
            "different_images": len(served.counts),
            "images_asked_more_than_once": different,
            "requests": server.num_requests,
            "requests_dropped": server.num_dropped,
            "seconds_local": round(seconds_local, 1),
            "stores_equal": bool(np.array_equal(remote.gather(rows), local.gather(rows))),
        }
    print(json.dumps(result, indent=1))


def remote_passes(args, server, served, store, num_images):
    """Runs the command until it is done, killing the first one; returns what happened."""
    command = [sys.executable, "-m", "streamkd", "teach", args.images, "--labels", "none"]
    command += ["--teacher", server.address, "--out", str(store), "--batch-size", "16", "--quiet"]
    command += ["--teacher-output", "probabilities", "--max-queries", str(args.max_queries)]
    begin = time.perf_counter()
    killed = subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    kill_after = num_images // 2 if args.kill_after is None else args.kill_after
    while len(served.counts) < kill_after and killed.poll() is None:
        time.sleep(0.01)
    if killed.poll() is None:
        killed.send_signal(signal.SIGKILL)
    killed.wait()
    at_kill = {"answered_at_kill": len(served.counts), "kept": kd.open_store(store).rows_done}
    if killed.returncode != -signal.SIGKILL:
        raise SystemExit(
            f"The first pass ended with {killed.returncode} before {kill_after} answers.\n"
            "Give a larger --max-queries, or a smaller --kill-after."
        )
    codes, messages = [killed.returncode], []
    while codes[-1]:
        ended = subprocess.run(command, capture_output=True, text=True)
        codes.append(ended.returncode)
        messages += [line for line in ended.stderr.splitlines() if line.startswith("streamkd: ")]
        if ended.returncode not in (0, 2) or len(codes) > 9:
            raise SystemExit(ended.stderr)
    return {
        **at_kill,
        "exit_codes": codes,
        "messages": messages,
        "seconds": round(time.perf_counter() - begin, 1),
    }


if __name__ == "__main__":
    main()

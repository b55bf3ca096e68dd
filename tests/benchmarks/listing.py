"""Listing a million files: time and memory of `scan` beside Keras' own listing.

    python tests/benchmarks/listing.py [--files 1000000] [--folders 1000] [--repeats 3]

Empty files in class folders, made in the temporary directory and removed afterwards (one inode
each). Every listing runs in a process of its own, in turn, with the directory entries in the
kernel's cache; a first round is not counted. Memory is the process's own, per file: how far the
peak of the resident size rose above what there was before listing, and how much anonymous memory
stays with what was listed. Linux, since it reads `/proc/self/status`.
Both list without shuffling. Keras' listing holds paths and labels, as its loader does.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

LISTINGS = {
    "streamkd": """
from streamkd.manifest.manifest import scan
def run(directory):
    images = scan(directory)
    return images, len(images)
""",
    "streamkd, unlabelled": """
from streamkd.manifest.manifest import scan
def run(directory):
    images = scan(directory, labels=None)
    return images, len(images)
""",
    "keras": """
from keras.src.utils.dataset_utils import index_directory
FORMATS = (".bmp", ".gif", ".jpeg", ".jpg", ".png")
def run(directory):
    listed = index_directory(directory, "inferred", FORMATS, shuffle=False, verbose=False)
    return listed, len(listed[0])
""",
    "tf_keras": """
from tf_keras.src.utils.dataset_utils import index_directory
FORMATS = (".bmp", ".gif", ".jpeg", ".jpg", ".png")
def run(directory):
    listed = index_directory(directory, "inferred", FORMATS, shuffle=False)
    return listed, len(listed[0])
""",
}
# Measured in the process that lists: the peak since the counter was reset, and what stays.
MEASURE = """
import gc, json, re, resource, sys, time
def status(name):
    with open("/proc/self/status") as lines:
        return 1024 * int(re.search(name + r":\\s+(\\d+)", lines.read())[1])
def private():
    return status("RssAnon")
gc.collect()
with open("/proc/self/clear_refs", "w") as file:
    file.write("5")  # VmHWM starts again from the present size
before, before_peak = private(), status("VmHWM")
usage = resource.getrusage(resource.RUSAGE_SELF)
wall, cpu = time.perf_counter(), usage.ru_utime + usage.ru_stime
kept, num_images = run(sys.argv[1])
wall, usage = time.perf_counter() - wall, resource.getrusage(resource.RUSAGE_SELF)
print(json.dumps({
    "num_images": num_images, "wall": wall, "cpu": usage.ru_utime + usage.ru_stime - cpu,
    "peak": status("VmHWM") - before_peak, "kept": private() - before,
}))
"""


def make_files(root: Path, num_files: int, num_folders: int) -> None:
    """Makes empty files named like photographs, shared out evenly among class folders."""
    per_folder = num_files // num_folders
    for folder in range(num_folders):
        path = f"{root}/n{folder:08d}"
        os.mkdir(path)
        for number in range(per_folder):
            os.close(os.open(f"{path}/n{folder:08d}_{number}.JPEG", os.O_CREAT | os.O_WRONLY))


def listed(name: str, root: Path) -> dict[str, float]:
    """Returns what one listing in a process of its own took."""
    words = [sys.executable, "-c", LISTINGS[name] + MEASURE, str(root)]
    done = subprocess.run(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--files", type=int, default=1_000_000)
    parser.add_argument("--folders", type=int, default=1_000)
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    root = Path(tempfile.mkdtemp(prefix="streamkd-listing-"))
    try:
        make_files(root, args.files, args.folders)
        runs: dict[str, list[dict[str, float]]] = {name: [] for name in LISTINGS}
        for round_number in range(args.repeats + 1):
            for name in LISTINGS:
                run = listed(name, root)
                if round_number:
                    runs[name].append(run)
    finally:
        shutil.rmtree(root)
    report(runs)


def report(runs: dict[str, list[dict[str, float]]]) -> None:
    """Prints medians, and how many times as fast as each the listing of `scan` is."""
    medians = {
        name: {key: float(np.median([run[key] for run in some])) for key in some[0]}
        for name, some in runs.items()
    }
    assert len({median["num_images"] for median in medians.values()}) == 1, "all list the same"
    print(f"{int(medians['keras']['num_images']):,} files, medians of {len(runs['keras'])} runs")
    print(f"{'':22}{'wall s':>8}{'CPU s':>8}{'peak B/file':>13}{'kept B/file':>13}  scan is faster")
    for name, median in medians.items():
        ratio = median["wall"] / medians["streamkd"]["wall"]
        sizes = [median[key] / median["num_images"] for key in ("peak", "kept")]
        print(
            f"{name:22}{median['wall']:>8.2f}{median['cpu']:>8.2f}{sizes[0]:>13.0f}"
            f"{sizes[1]:>13.0f}  {ratio:.1f} times"
        )


if __name__ == "__main__":
    main()

"""The demo's table over several seeds: how far the distilled student is ahead, and how surely.

    python tests/benchmarks/demo_seeds.py --out demo-seeds

Runs `streamkd demo --seed N` for each seed and prints test errors, their mean and their standard
deviation over the seeds. A seed whose directory is finished is only read again.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

import numpy as np


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("demo-seeds"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    args = parser.parse_args()
    errors: dict[str, list[int]] = {}
    args.out.mkdir(parents=True, exist_ok=True)
    for seed in args.seeds:
        command = [sys.executable, "-m", "streamkd", "demo", "--json", "--quiet"]
        command += ["--seed", str(seed), "--out", str(args.out / f"seed-{seed}")]
        answer = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
        for row in answer["table"]:
            errors.setdefault(row["model"], []).append(row["num_errors"])
        print(f"seed {seed}: {', '.join(f'{n} {e[-1]}' for n, e in errors.items())}", flush=True)
    print(
        f"\n{'test errors of ' + format(answer['num_test_images'], ','):<24}{'mean':>8}{'std':>7}"
    )
    for name, values in errors.items():
        print(f"{name:<24}{np.mean(values):>8.1f}{np.std(values, ddof=1):>7.1f}   {values}")


if __name__ == "__main__":
    main()

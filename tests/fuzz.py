"""Fuzzing of all that streamkd reads: images, models, stores, files of its own, command lines.

    python tests/fuzz.py --seed 0 --images 20000 --models 2000 --files 2000 --command-lines 3000
    python tests/fuzz.py --seed 0 --image-parts 20000 --stores 1000 --configs 1000
    python tests/fuzz.py --seed 0 --first 17 --models 1       # one case again

Prints a JSON object for each case that goes wrong, with its kind, seed and number; exit code 1 if
there is one. A case goes wrong if a command ends with exit code 3 or a traceback, if a file is
changed that is not its own to write, if it takes too much memory or too long, or if the process
ends. The cases run in processes of their own, one kind after the other.
"""

from __future__ import annotations

import argparse
import json
import sys
import time

from fuzz_runner import KINDS, in_children


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="number of the first case")
    for kind in KINDS:
        flag = f"--{kind.replace('_', '-')}"
        parser.add_argument(flag, type=int, default=0, metavar="N", help=f"cases of {kind}")
    args = parser.parse_args()
    num_wrong = 0
    for kind in KINDS:
        count, begun, wrong_before = getattr(args, kind), time.monotonic(), num_wrong
        for case in in_children(kind, args.seed, range(args.first, args.first + count)):
            num_wrong += 1
            print(json.dumps(case), flush=True)
        if count:
            seconds = time.monotonic() - begun
            print(
                f"{count} {kind}: {num_wrong - wrong_before} wrong, {count / seconds:.1f} a second"
            )
    return int(num_wrong > 0)


if __name__ == "__main__":
    sys.exit(main())

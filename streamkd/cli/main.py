"""The command `streamkd`: flags, exit codes, and how answers and refusals are printed.

Exit codes: 0 done; 1 the answer is no; 2 the user must change something; 3 our own fault, the only
case with a traceback; 130 and 143 interrupted.
"""

from __future__ import annotations

import argparse
import io
import json
import math
import sys
import traceback
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import streamkd
from streamkd.cli import commands, config_file, flags, signals
from streamkd.errors import StreamkdError

EXIT_REFUSED = 2
EXIT_OUR_FAULT = 3
EXIT_INTERRUPTED = 130
EXIT_TERMINATED = 143


def build_parser() -> flags.Parser:
    """Returns the parser with every command."""
    parser = flags.Parser(
        prog="streamkd",
        description="Distils image classifiers from directories of images and stored teacher "
        "logits.",
        epilog="Exit codes: 0 done, 1 the answer is no, 2 change something, 3 our own fault.",
    )
    parser.add_argument("--version", action="version", version=f"streamkd {streamkd.__version__}")
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for add in (
        *(_demo, _scan, _plan, _teach, _verify, _inspect, _import, _merge),
        *(_train, _evaluate, _export),
    ):
        add(subparsers)
    parser.commands = subparsers.choices
    return parser


def _command(subparsers: Any, run: Callable[..., commands.Answer], help: str) -> Any:
    parser = subparsers.add_parser(run.__name__.rstrip("_"), help=help, description=help)
    parser.set_defaults(run=run)
    flags.add_common(parser)
    return parser


def _demo(subparsers: Any) -> None:
    parser = _command(
        subparsers, commands.demo, "A whole distillation on real handwritten digits, offline."
    )
    parser.add_argument("--out", default="streamkd-demo", help="directory to leave it all in")
    parser.add_argument("--seed", type=flags.seed, default=0)
    parser.epilog = (
        "JSON keys: out, seconds, table (one object a model: model, num_errors, accuracy, "
        "agreement, num_parameters, latency_ms), num_train_images, num_test_images, picture, "
        "commands."
    )


def _scan(subparsers: Any) -> None:
    parser = _command(subparsers, commands.scan, "Lists images, classes and counts.")
    flags.add_directory(parser)
    parser.add_argument(
        "--class-names",
        metavar="FILE",
        help="folders to take, one a line; of a table, its classes in the order of their numbers",
    )
    parser.add_argument("--check", action="store_true", help="open every file; 1 if any is bad")
    flags.add_max_pixels(parser)
    parser.add_argument("--out", metavar="MANIFEST", help="write the list, to be used as IMAGES")


def _teach(subparsers: Any) -> None:
    parser = _command(
        subparsers, commands.teach, "Asks the teacher about every image once and keeps the logits."
    )
    flags.add_directory(parser)
    flags.add_pixels(parser)
    flags.add_trust(parser)
    parser.add_argument("--teacher", required=True, metavar="T", help="a saved .keras model")
    parser.add_argument("--out", required=True, metavar="S.h5", help="the store; goes on if begun")
    parser.add_argument(
        "--batch-size", type=int, default=64, help="images a block; kept in the store (default 64)"
    )
    flags.add_codec(parser)
    parser.add_argument(
        "--views", type=int, default=0, metavar="N", help="answer N views beside the plain image"
    )
    flags.add_views(parser)
    flags.add_on_bad(parser)
    flags.add_max_pixels(parser)
    parser.add_argument(
        "--shard",
        type=flags.shard,
        metavar="I/N",
        help="only the I-th of N parts of the pass, from 1; `merge` makes one store of them",
    )
    _add_teacher_answers(parser)


def _add_teacher_answers(parser: argparse.ArgumentParser) -> None:
    """Adds what says how the teacher is asked and what its outputs mean."""
    parser.add_argument(
        "--preprocess",
        default="none",
        metavar="P",
        help="what the teacher expects of pixels: none, scale, MEAN,STD or a Keras application",
    )
    flags.add_teacher_output(parser)
    parser.add_argument(
        "--class-names", metavar="FILE", help="the teacher's classes in the order of its outputs"
    )
    parser.add_argument(
        "--drop-output", type=int, metavar="N", help="an output that is no class, from 0"
    )


def _plan(subparsers: Any) -> None:
    parser = _command(
        subparsers, commands.plan, "Bytes, fidelity and hours for each codec, before they are paid."
    )
    flags.add_directory(parser)
    flags.add_pixels(parser)
    flags.add_trust(parser)
    parser.add_argument("--store", metavar="S.h5", help="float16 or float32 logits of some images")
    parser.add_argument("--teacher", metavar="T", help="asked about --sample images, and timed")
    parser.add_argument(
        "--views", type=int, default=0, metavar="N", help="with crop and flip, beside the plain one"
    )
    parser.add_argument("--sample", type=int, default=1000, metavar="N", help="default 1000")
    parser.add_argument(
        "--codecs", nargs="+", type=flags.codec, metavar="CODEC", help="compare these only"
    )
    parser.add_argument(
        "--max-kl",
        type=float,
        default=0.01,
        metavar="NATS",
        help="recommend the smallest codec that loses no more at T = 1, 2, 4 and 20 (default 0.01)",
    )
    parser.add_argument("--batch-size", type=int, default=64, help="images asked about at once")
    flags.add_max_pixels(parser)
    _add_teacher_answers(parser)
    parser.epilog = (
        "JSON keys: num_images, num_views (rows an image), rows_total, num_classes, num_sampled, "
        "teacher, seconds_per_row and hours (null with --store), max_kl, recommended, codecs (one "
        "object each, by size: codec, row_bytes, bytes_per_image, num_bytes, kl by temperature, "
        "agreement; the last two null where the logits are too large for it)."
    )


def _import(subparsers: Any) -> None:
    parser = _command(
        subparsers, commands.import_, "Writes a store of logits that were made elsewhere."
    )
    parser.add_argument("logits", metavar="LOGITS", help="a .npy, .npz or .csv file")
    parser.add_argument(
        "--keys", metavar="KEYS.jsonl", help="one key a row; a .csv file may have its own"
    )
    parser.add_argument(
        "--images", required=True, metavar="IMAGES", help="the directory that the keys are of"
    )
    parser.add_argument("--out", required=True, metavar="S.h5", help="the store; goes on if begun")
    flags.add_labels(parser)
    flags.add_pixels(parser)
    flags.add_codec(parser)
    parser.add_argument("--batch-size", type=int, default=1024, help="images a block")
    flags.add_teacher_output(parser)
    parser.add_argument("--teacher-name", metavar="NAME", help="who made them; the file by default")
    parser.add_argument(
        "--class-names", metavar="FILE", help="the classes in the order of the columns"
    )
    parser.epilog = (
        "JSON keys: those of inspect, and num_images_without_logits, images of IMAGES that no key "
        "names."
    )


def _merge(subparsers: Any) -> None:
    parser = _command(
        subparsers, commands.merge, "Makes one store of shards, of a store and its deltas."
    )
    parser.add_argument(
        "stores", nargs="+", metavar="S.h5", help="of several that have an image the last counts"
    )
    parser.add_argument("--out", required=True, metavar="S.h5", help="the store; goes on if begun")
    parser.add_argument(
        "--images", metavar="IMAGES", help="keep what is there only; renamed files are found"
    )
    parser.add_argument(
        "--index", action="store_true", help="write a small file that lists the stores, copy no row"
    )
    parser.epilog = (
        "JSON keys: those of inspect, and num_superseded, images that a later store has as well, "
        "and num_dropped, images that are not in IMAGES."
    )


def _verify(subparsers: Any) -> None:
    parser = _command(
        subparsers, commands.verify, "Says whether a store is sound: exit 0, or 1 if it is not."
    )
    parser.add_argument("store", metavar="S.h5")
    parser.add_argument("--images", metavar="IMAGES", help="compare every file's content too")
    parser.add_argument("--sample", type=int, metavar="N", help="check about N rows")


def _inspect(subparsers: Any) -> None:
    parser = _command(subparsers, commands.inspect, "Says what a store holds.")
    parser.add_argument("store", metavar="S.h5")


def _train(subparsers: Any) -> None:
    parser = _command(subparsers, commands.train, "Distils a student.")
    flags.add_directory(parser)
    flags.add_pixels(parser)
    flags.add_trust(parser)
    parser.add_argument(
        "--store", metavar="S.h5", help="the teacher's logits; without it --label-weight must be 1"
    )
    parser.add_argument(
        "--student",
        required=True,
        metavar="M",
        help="a .keras file, package.module:function, or a Keras application (MobileNetV3Small:"
        "alpha=0.75)",
    )
    parser.add_argument("--out", required=True, metavar="RUN", help="the run directory")
    parser.add_argument("--validation", metavar="IMAGES", help="tried on after every epoch")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--temperature", type=float, default=4.0)
    parser.add_argument(
        "--label-weight", type=float, default=0.1, help="share of the label loss (default 0.1)"
    )
    parser.add_argument("--optimizer", default="adamw", help="a Keras name (default adamw)")
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument(
        "--student-preprocess",
        default="none",
        metavar="P",
        help="as --preprocess; becomes the student's first layers",
    )
    parser.add_argument("--missing", choices=("raise", "drop", "label"), default="raise")
    flags.add_on_bad(parser)
    flags.add_max_pixels(parser)
    parser.add_argument(
        "--augment",
        choices=("replay", "independent"),
        default="replay",
        help="show the views that the teacher answered, or, for comparison, others (--crop, …)",
    )
    flags.add_views(parser)
    flags.add_stream(parser)
    parser.add_argument("--jit", choices=("on", "off"), default="off", help="XLA (default off)")
    parser.add_argument(
        "--resume",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="go on from the newest checkpoint in --out (the default)",
    )


def _evaluate(subparsers: Any) -> None:
    parser = _command(subparsers, commands.evaluate, "Says how good a model is on some images.")
    parser.add_argument("model", metavar="MODEL", help="a .keras file or a run directory")
    flags.add_directory(parser)
    flags.add_pixels(parser)
    flags.add_trust(parser)
    parser.add_argument("--store", metavar="S.h5", help="the teacher's logits for these images")
    parser.add_argument(
        "--class-names", metavar="FILE", help="the model's classes in the order of its outputs"
    )
    parser.add_argument("--batch-size", type=int, default=64)
    flags.add_max_pixels(parser)


def _export(subparsers: Any) -> None:
    parser = _command(
        subparsers, commands.export, "Writes a student as an ordinary model, and compares the two."
    )
    parser.add_argument("model", metavar="MODEL", help="a .keras file or a run directory")
    flags.add_trust(parser)
    parser.add_argument("--format", choices=("keras",), default="keras")
    parser.add_argument("--out", required=True, metavar="PATH")
    parser.add_argument("--images", metavar="IMAGES", help="real images to compare on")
    parser.add_argument("--image-size", type=flags.image_size, metavar="HEIGHTxWIDTH")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    args = argparse.Namespace(json="--json" in words)
    try:
        with signals.sigterm_raises():
            config_file.parse(build_parser(), words, args)
            answer, code = args.run(args)
            _print_answer(answer, args.json)
            return code
    except StreamkdError as error:
        _print_refusal(error.code, str(error), error.key, args.json)
        return EXIT_REFUSED
    except signals.StoppedError as stopped:
        _print_refusal("interrupted", str(stopped), None, args.json)
        return stopped.exit_code
    except KeyboardInterrupt:
        return _interrupted("Interrupted", EXIT_INTERRUPTED, args.json)
    except signals.TerminatedError:
        return _interrupted("Terminated", EXIT_TERMINATED, args.json)
    except Exception as error:  # our own fault: the one case with a traceback
        traceback.print_exc()
        _print_refusal("internal", f"{type(error).__name__}: {error}", None, args.json)
        return EXIT_OUR_FAULT


def _print_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    """Prints what Python would print with the line of code that warned, without that line."""
    print(f"streamkd: warning: {message}", file=sys.stderr)


def _interrupted(word: str, code: int, as_json: bool) -> int:
    message = f"{word}. What was saved is safe; the same command goes on from there."
    _print_refusal("interrupted", message, None, as_json)
    return code


def _print_refusal(code: str, message: str, key: bytes | None, as_json: bool) -> None:
    if not as_json:
        print(f"streamkd: {message}", file=sys.stderr)
        return
    from streamkd.images.manifest import key_fields

    fields = {"key": None} if key is None else key_fields(key)
    print(json.dumps({"error": {"code": code, "message": message, **fields}}))


def _print_answer(answer: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print(json.dumps(_finite(answer), allow_nan=False))
        return
    text = answer.pop("text", None)
    if text is not None:
        print(text)
        return
    width = max(len(name) for name in answer)
    for name, value in answer.items():
        print(f"{name:<{width}}  {_shown(value)}")


def _finite(value: Any) -> Any:
    """Returns the answer with null for what JSON has no number for."""
    if isinstance(value, dict):
        return {name: _finite(part) for name, part in value.items()}
    if isinstance(value, list):
        return [_finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _shown(value: Any) -> str:
    if value is None or value == []:
        return "-"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    if isinstance(value, list) and value and isinstance(value[0], dict):
        lines = ("  " + ", ".join(f"{n}: {v}" for n, v in entry.items()) for entry in value)
        return "\n" + "\n".join(lines)
    if isinstance(value, list):
        return ", ".join(map(str, value[:20])) + (" …" if len(value) > 20 else "")
    if isinstance(value, dict):
        return ", ".join(f"{name}={part}" for name, part in value.items())
    return str(value)


def run() -> None:
    """Entry point of the console script."""
    # A folder's name need not be UTF-8; better an escaped name than a crash.
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    setattr(warnings, "showwarning", _print_warning)  # noqa: B010  the hook that warnings documents
    sys.exit(main())

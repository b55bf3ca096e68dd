"""The flags of commands that take the stores of several teachers, and the store they describe.

    store_flags.add_stores(parser, "the teacher's logits")
    store = store_flags.open_stores(args)       # None without --store

`--store S.h5=WEIGHT` may be repeated. A path that holds an equals sign and exists is a path.
"""

from __future__ import annotations

import argparse
import math
import os
from typing import Any

import streamkd as kd
from streamkd.cli import arguments
from streamkd.errors import DamagedStoreError, OptionError, StreamkdError
from streamkd.reports import MAX_LISTED

# As in `combine_stores`, which is imported when it is first used.
RULES = ("auto", "logits", "probabilities", "divergence")
COMBINE = (
    "how the answers of several stores are combined: the mean of log-probabilities (logits), that "
    "of probabilities, or each for its own classes alone (divergence); auto, the default, is "
    "logits, or divergence where classes differ"
)
DUSTBIN = (
    "class that stands for 'none of these' in the stores that have it, and is no class of the "
    "student"
)

# What a store says about its teacher, as `TeacherJudgement` has it.
JUDGED = (
    *("num_judged", "teacher_accuracy", "teacher_confidence", "teacher_entropy"),
    *("teacher_verdict", "teacher_advice", "teacher_classes"),
)
JUDGED_KEYS = (
    "JSON keys about the teacher, from the answers of num_judged images: teacher_confidence, the "
    "median largest probability; teacher_entropy, the mean, in nats; teacher_verdict: at_chance, "
    "nearly_even, nearly_certain, often_wrong, or null; teacher_advice, the same in words; "
    "teacher_classes, the least often right first: class, num_images, accuracy, confidence, "
    "entropy."
)

OUTCOME_KEY = (
    "outcome: new, resumed, already_finished (nothing was done), or extended by new or changed "
    "images"
)

# The JSON object of `compare_stores`, as `--help` lists it.
COMPARISON_KEYS = (
    "comparison, an object: num_stores, num_bytes, num_images (that all teachers answered), "
    "num_compared, num_classes, rule, num_labelled and accuracy (of the combination, null without "
    "labels), teachers (one object each: store, teacher, weight, num_bytes, num_images, "
    "num_classes, num_labelled, accuracy, combined_accuracy on the same images), num_pairs, pairs "
    "(one object each, on the classes that both know: first, second, num_shared_classes, "
    "num_images, agreement, divergence (Jensen-Shannon, nats), num_contradictions, contradictions: "
    "first_class, second_class, count, examples), num_unknown_classes and unknown_classes (of the "
    "images, that no teacher knows). Lists are cut off at 100 entries, contradictions at 10."
)


def add_stores(parser: Any, help: str) -> None:
    """Adds `--store`, `--combine` and `--dustbin` to a parser or a group."""
    parser.add_argument(
        "--store",
        action=arguments.Repeated,
        metavar="S.h5[=WEIGHT]",
        help=f"{help}; repeat it to combine several teachers, each with its weight (default: all "
        "alike) or with a .json file of weights by class",
    )
    parser.add_argument("--combine", choices=RULES, help=COMBINE)
    add_dustbin(parser)


def add_dustbin(parser: Any) -> None:
    """Adds the flags that tell of the dustbin class of specialists."""
    parser.add_argument("--dustbin", metavar="CLASS", help=DUSTBIN)
    parser.add_argument(
        "--oversampling",
        action=arguments.Repeated,
        metavar="S.h5=RATIO",
        help="how many times as often the teacher of a store with the --dustbin saw images of its "
        "own classes as they come among all images; repeat it for others",
    )


def add_inspected(parser: Any) -> None:
    """Adds one store or several, and the flags that say how several are compared."""
    parser.add_argument("store", metavar="S.h5", help="a store, or an index of stores")
    parser.add_argument(
        "other_stores",
        nargs="*",
        metavar="OTHER.h5",
        help="stores of other teachers, to compare with the first; S.h5=WEIGHT gives a weight",
    )
    parser.add_argument("--combine", choices=RULES, help=COMBINE)
    add_dustbin(parser)
    parser.add_argument(
        "--sample", type=int, metavar="N", help="compare N images, drawn at random (default: all)"
    )
    parser.epilog = f"{JUDGED_KEYS} Of several stores, besides those of one: {COMPARISON_KEYS}"


def rows_at(path: str) -> tuple[int, bool]:
    """Returns the rows of a store before a command writes it, and whether it is finished."""
    try:
        store = kd.open_store(path)
        return store.rows_done, store.finished
    except StreamkdError:  # there is none, or the command is about to say what is wrong
        return 0, False


def outcome(before: tuple[int, bool], store: Any) -> str:
    """Returns what a command did with a store, by what `rows_at` returned before it."""
    rows, was_finished = before
    if not rows:
        return "new"
    if not was_finished:
        return "resumed"
    return "already_finished" if store.rows_done == rows else "extended"


def described(store: Any) -> dict[str, Any]:
    """Returns what a store holds and what it says about its teacher, as `inspect` prints them.

    What a damaged store says is unknown; `verify` names its rows.
    """
    try:
        judged: dict[str, Any] = kd.judge_teacher(store).to_dict()
    except DamagedStoreError:
        judged = dict.fromkeys(JUDGED)
    else:
        judged["teacher_classes"] = judged["teacher_classes"][:MAX_LISTED]
    held = store.describe()
    return {**held, **{name: value for name, value in judged.items() if name not in held}}


def open_stores(args: argparse.Namespace) -> Any:
    """Returns the store that the flags describe: one, several combined, or None."""
    if not args.store:
        for flag in ("combine", "dustbin", "oversampling"):
            if getattr(args, flag) is not None:
                raise OptionError(f"--{flag} combines stores, and there is none.\nAdd `--store`.")
        return None
    return combined(args.store, args.combine, args.dustbin, args.oversampling)


def combined(
    texts: list[str], rule: str | None, dustbin: str | None, ratios: list[str] | None = None
) -> Any:
    """Returns the stores that were typed as `S.h5` or `S.h5=WEIGHT`, as one.

    Args:
      texts: one or more.
      rule: of the combination; None for the default.
      dustbin: name of a class, or None.
      ratios: of oversampling, as `S.h5=RATIO`.
    """
    from streamkd.ensemble.ensemble_store import as_store, combine_stores
    from streamkd.ensemble.member import Member

    members = [Member(*path_and_weight(text)) for text in texts]
    oversampling = _oversampling(ratios or [], [member.opened.path for member in members])
    if dustbin is not None:
        having = [dustbin in member.opened.class_names for member in members]
        if not any(having):
            raise OptionError(
                f"--dustbin is {dustbin!r}, and no store has such a class.\n"
                "Name a class as `streamkd inspect` shows it."
            )
        members = [
            Member(
                member.store,
                member.weight,
                dustbin if has else None,
                oversampling.get(member.opened.path, 1.0),
            )
            for member, has in zip(members, having, strict=True)
        ]
    elif oversampling:
        raise OptionError(
            "--oversampling corrects the dustbin of a store, and none is named.\n"
            "Add `--dustbin CLASS`."
        )
    if len(members) == 1:
        if rule is not None or dustbin is not None:
            flag = "--combine" if rule is not None else "--dustbin"
            raise OptionError(
                f"{flag} combines several stores, and there is one, {members[0].opened.path}.\n"
                "Add another store."
            )
        return as_store(members)
    return combine_stores(members, rule=rule or "auto")


def path_and_weight(text: str) -> tuple[str, Any]:
    """Returns the path and the weight of `S.h5=WEIGHT`; a weight of None for `S.h5`."""
    path, equals, weight = text.rpartition("=")
    if not equals or os.path.lexists(text):
        return text, None
    try:
        number = float(weight)
    except ValueError:
        number = math.nan
    if not math.isnan(number):
        return path, number
    if weight.endswith(".json"):
        return path, _weights_of_classes(weight)
    if not os.path.lexists(path):
        return text, None  # whoever opens it says that there is no such store
    raise OptionError(
        f"The weight of {path} is {weight!r}, and is no number.\n"
        f"Give a number, such as `--store {path}=0.5`, or a .json file of weights by class."
    )


def _oversampling(texts: list[str], paths: list[str]) -> dict[str, float]:
    """Returns the ratio of each path that was typed as `S.h5=RATIO`."""
    ratios: dict[str, float] = {}
    for text in texts:
        path, equals, ratio = text.rpartition("=")
        try:
            number = float(ratio) if equals else math.nan
        except ValueError:
            number = math.nan
        if math.isnan(number):
            raise OptionError(
                f"--oversampling is {text!r}; write it as S.h5=RATIO, such as "
                f"`--oversampling {paths[0]}=4`."
            )
        if path not in paths:
            raise OptionError(
                f"--oversampling names {path}, which is none of the stores.\n"
                f"  stores: {', '.join(paths)}\nWrite its path as `--store` has it."
            )
        if path in ratios:
            raise OptionError(f"--oversampling is given twice for {path}.\nGive it once.")
        ratios[path] = number
    return ratios


def _weights_of_classes(path: str) -> dict[str, Any]:
    """Returns the weights by class name that a JSON file holds."""
    from streamkd import json_text, small_files

    try:
        weights = json_text.load(small_files.text_of(small_files.read_input(path)))
    except (OSError, ValueError, RecursionError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise OptionError(
            f"The weights by class, {path}, cannot be read: {reason}.\n"
            'Give a JSON file such as {"cat": 0.7, "dog": 0.4}.'
        ) from error
    if not isinstance(weights, dict):
        raise OptionError(
            f"The weights by class, {path}, are a {type(weights).__name__}, not an object.\n"
            'Give a JSON file such as {"cat": 0.7, "dog": 0.4}.'
        )
    return weights


def recorded(texts: list[str] | None) -> Any:
    """Returns the stores as a run records them: one as its text, several as a list."""
    return texts[0] if texts and len(texts) == 1 else texts

"""`streamkd sweep`: from flags to a grid of students, and the answer.

    answer = sweep(args)
    answer.fields["best"], answer.fields["command"]

The flags themselves are in `sweep_flags`.
"""

from __future__ import annotations

import argparse
import os
import shlex
from typing import Any

from streamkd.cli import files, flags, pixel_flags, store_flags, train
from streamkd.cli.answer import Answer
from streamkd.cli.arguments import Parser
from streamkd.cli.collect_warnings import with_warnings
from streamkd.cli.command_words import words_of
from streamkd.cli.signals import StopSignals
from streamkd.cli.train_flags import add_train
from streamkd.errors import OptionError
from streamkd.tf_support.quiet_import import import_tensorflow

# Flags of `sweep` that `train` has not.
_OWN = ("at_once",)
# Flags that say which images there are: the manifests of the sweep say it too.
_OF_LISTING = ("labels", "class_map", "follow_links", "root", "validation_split", "stratify")
# Flags that do not change what a sweep trains, or that are compared by what they lead to.
_NOT_COMPARED = (
    *("images", "validation", "root", "store", "out", "resume", "at_once", "save_every"),
    *("trust", "no_lock", "store_io", "steps_per_call", "cache_directory", "cache_bytes", "run"),
    *("command", "config", "json", "quiet", "imports"),
)


@with_warnings
def sweep(args: argparse.Namespace) -> Answer:
    """Trains one student for each point of the grid, and chooses."""
    files.check_out(args.out, kind="run directory")
    flags.refuse_subset(args, "choose by")
    from streamkd.sweeps.grid import AXES, grid

    settings = grid({name: list(getattr(args, name)) for name in AXES})
    first = alone(args, settings[0].values, args.out)
    train.independent_views(first)
    class_weight = files.read_class_weight(args.class_weight)
    chosen = {
        "classes": files.read_classes(args.classes),
        "teacher_class_map": files.read_teacher_class_map(args.teacher_class_map),
    }
    images = flags.scan_side(first, None)
    validation = flags.scan_other(first, args.validation) if args.validation else None
    store = store_flags.open_stores(args)
    import_tensorflow()
    from streamkd.sweeps.report import SweepReport, describe
    from streamkd.sweeps.request import TRAIN, VALIDATION
    from streamkd.sweeps.sweep import prepare, run_sweep

    def settle(setting: Any, run: str) -> argparse.Namespace:
        """Returns the arguments of `train` for one student alone."""
        own = alone(args, setting.values, run)
        if validation is None:
            parser = _train_parser()
            for name in _OF_LISTING:
                setattr(own, name, parser.get_default(name))
            own.images = os.path.join(args.out, TRAIN)
            own.validation = os.path.join(args.out, VALIDATION)
        if request.decides_by_teacher:
            own.validation = None
        return own

    joining = {name: getattr(args, name) for name in train.JOIN_FLAGS if name != "seed"}
    distilling = {name: getattr(args, name) for name in train.DISTILLER_FLAGS if name not in AXES}
    request = prepare(
        settings,
        images,
        store,
        args.out,
        validation=validation,
        validation_split=args.validation_split,
        epochs=args.epochs,
        joining={**joining, **chosen, **pixel_flags.pixels(args)},
        distilling_all={**distilling, "model_output": args.output},
        fitting={"class_weight": class_weight, "save_every": args.save_every},
        views_of=lambda seed: train.independent_views(alone(args, {"seed": seed}, args.out)),
        callbacks_of=lambda student: train.callbacks_of(first, student),
        recorded=lambda setting, run: train.recorded(settle(setting, run)),
        command=lambda setting: shlex.join(
            ["streamkd", "train", *words_of(_train_parser(), settle(setting, f"{args.out}-best"))]
        ),
        asked=_asked(args, AXES),
        precision=args.precision,
        at_once=args.at_once,
        resume=args.resume,
        trust=args.trust,
        progress=not args.quiet,
        stopping=StopSignals,
    )
    if args.early_stopping is not None and request.decides_by_teacher:
        raise OptionError(
            "--early-stopping watches the loss on labelled images, and those that decide have no "
            "labels.\nLeave --early-stopping out."
        )
    report: SweepReport = run_sweep(request)
    return Answer(report, text=describe(report, settings))


def alone(args: argparse.Namespace, values: dict[str, Any], run: str) -> argparse.Namespace:
    """Returns the arguments of `train` with one value for each setting of the grid."""
    given = {name: value for name, value in vars(args).items() if name not in _OWN}
    own = argparse.Namespace(**{**given, **values, "out": run})
    own.tensorboard, own.distribute, own.extend = None, None, False
    return own


def _train_parser() -> Parser:
    parser = Parser(prog="streamkd train", add_help=False)
    flags.add_common(parser)
    add_train(parser)
    return parser


def _asked(args: argparse.Namespace, axes: tuple[str, ...]) -> dict[str, Any]:
    """Returns what must be the same when the sweep goes on, besides the grid and the images."""
    values = {n: v for n, v in vars(args).items() if n not in (*_NOT_COMPARED, *axes)}
    return {**values, "store": store_flags.recorded(args.store)}

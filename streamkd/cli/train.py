"""`streamkd train`: from flags to a stream, a student and a call of `fit`.

The flags themselves are in `train_flags`.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import json
import os
import sys
from pathlib import Path
from typing import Any

from streamkd.cli import flags
from streamkd.cli.signals import StopSignals
from streamkd.errors import MissingExtraError, OptionError
from streamkd.tf_support.quiet_import import import_tensorflow

# Flags that are arguments of `Distiller`, and of `join`, under the same names.
DISTILLER_FLAGS = (
    *("optimizer", "learning_rate", "schedule", "warm_up", "weight_decay", "clip_norm"),
    *("accumulate", "ema", "temperature", "label_weight", "label_smoothing"),
    *("student_preprocess", "jit", "steps_per_call", "on_nonfinite"),
)
JOIN_FLAGS = (
    *("batch_size", "seed", "missing", "on_bad", "augment"),
    *("cache", "cache_directory", "cache_bytes", "views_per_decode", "balance"),
)
# Not part of what a run is: the command itself, and how it answers.
UNRECORDED_FLAGS = ("command", "run", "config", "json", "quiet")
COLUMNS = ("loss", "accuracy", "val_accuracy", "agreement", "images_per_second")


def train(args: argparse.Namespace) -> tuple[dict[str, Any], int]:
    """Distils the student."""
    _check(args)
    views = _independent_views(args)
    class_weight = read_class_weight(args.class_weight)
    images, validation = _scan(args)
    from streamkd.store.collection import open_store

    store = open_store(args.store) if args.store else None
    import_tensorflow()
    scope = _scope(args.distribute)
    stream = _join(args, images, store, views)
    student = _student(args, stream, scope)
    from streamkd.training.distiller import Distiller

    distiller = Distiller(student, **{name: getattr(args, name) for name in DISTILLER_FLAGS})
    with StopSignals() as signals:
        history = distiller.fit(
            stream,
            epochs=args.epochs,
            validation=validation,
            run=args.out,
            resume=args.resume,
            progress=not args.quiet,
            callbacks=_callbacks(args, student),
            class_weight=class_weight,
            save_every=args.save_every,
            stop=signals.arrived,
            arguments=_recorded(args),
        )
    if history.stopped:
        raise signals.stopped_error(_where(history))
    last = history.last
    answer = {"epochs": len(history.epochs), "steps": last.get("step")}
    answer["num_skipped"] = history.num_skipped
    return {**answer, **{name: last.get(name) for name in COLUMNS}, "run": history.run}, 0


def _check(args: argparse.Namespace) -> None:
    """Refuses what needs neither images nor TensorFlow to be refused."""
    flags.check_out(args.out, what="run directory")
    if args.subset:
        raise OptionError(
            "train takes the training side of --validation-split, and validates on the other.\n"
            "Leave --subset out."
        )
    if args.early_stopping and not args.validation and args.validation_split is None:
        raise OptionError(
            "--early-stopping watches the loss on validation images, and there are none.\n"
            "Add `--validation IMAGES` or `--validation-split 0.1`."
        )
    if args.distribute == "multi-worker":
        _check_cluster()
    if args.tensorboard is not None:
        flags.check_out(args.tensorboard, what="directory", flag="--tensorboard")
        if importlib.util.find_spec("tensorboard") is None:
            raise MissingExtraError(
                "--tensorboard needs the package tensorboard, which is not installed: "
                "`pip install 'streamkd[tensorboard]'`."
            )


def _check_cluster() -> None:
    """Refuses a TF_CONFIG that does not say which machines take part, and which of them this is."""
    try:
        found = json.loads(os.environ["TF_CONFIG"])
        complete = found["cluster"]["worker"] and found["task"]["type"]
        problem = (
            None if complete and isinstance(found["task"]["index"], int) else "is not complete"
        )
    except KeyError as error:
        problem = "is not set" if "TF_CONFIG" not in os.environ else f"has no {error}"
    except (ValueError, TypeError) as error:
        problem = f"cannot be read: {error}"
    if problem is not None:
        raise OptionError(
            "--distribute multi-worker takes the machines from the variable TF_CONFIG, which "
            f"{problem}.\nSet it on each of them, with its own index: "
            '`TF_CONFIG=\'{"cluster": {"worker": ["host0:2222", "host1:2222"]}, '
            '"task": {"type": "worker", "index": 0}}\'`.'
        )


def _scan(args: argparse.Namespace) -> tuple[Any, Any]:
    """Returns the images to train on, and those to validate on or None."""
    split = args.validation_split is not None
    images = flags.scan_images(args, subset="training" if split else None)
    if args.validation:
        return images, flags.scan_images(args, args.validation)
    return images, flags.scan_images(args, subset="validation") if split else None


def _independent_views(args: argparse.Namespace) -> Any:
    """Returns the views of `--augment independent`; None for those of the store."""
    drawn = args.crop or args.flip or args.color or args.erase or args.mixup or args.cutmix
    if args.augment == "independent":
        if not drawn:
            raise OptionError(
                "--augment independent draws views of its own; say which: `--crop 0.35 1 --flip`."
            )
        return flags.views(args, 1)
    if drawn or args.canonical_size:
        raise OptionError(
            "The views belong to the store: the student sees what the teacher saw.\n"
            "Give --crop, --flip and the like to `streamkd teach`, or compare with "
            "`--augment independent`."
        )
    return None


def read_class_weight(text: str | None) -> Any:
    """Returns what `fit` takes as class_weight: None, 'balanced', or the table in a file."""
    if text is None or text == "balanced":
        return text
    import tomllib

    path = Path(text)
    try:
        content = path.read_text(encoding="utf-8")
        table = tomllib.loads(content) if path.suffix == ".toml" else json.loads(content)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise OptionError(
            f"--class-weight {text} cannot be read: {reason}.\n"
            'Give balanced, or a file such as {"cat": 2.5, "dog": 1} in JSON, or `cat = 2.5` in a '
            "file that ends in .toml."
        ) from error
    if not isinstance(table, dict):
        raise OptionError(
            f"--class-weight {text} holds a {type(table).__name__}, and no table from class names "
            'to weights.\nWrite {"cat": 2.5, "dog": 1}.'
        )
    return table


def _scope(distribute: str | None) -> Any:
    """Returns the scope of the strategy, to build the student in."""
    import tensorflow as tf

    if distribute is None:
        return contextlib.nullcontext()
    if distribute == "mirrored":
        return tf.distribute.MirroredStrategy().scope()
    # Its collectives are configured before anything runs, or it refuses to be made.
    return tf.distribute.MultiWorkerMirroredStrategy().scope()


def _join(args: argparse.Namespace, images: Any, store: Any, views: Any) -> Any:
    """Returns the stream."""
    from streamkd.stream.join import join

    stream = join(
        images,
        store,
        views=views,
        progress=not args.quiet,
        **{name: getattr(args, name) for name in JOIN_FLAGS},
        **flags.pixels(args),
    )
    if stream.cache is not None and stream.cache.path is not None and not args.quiet:
        where = f"decoded images are kept in {stream.cache.path}, which may be deleted at any time"
        print(where, file=sys.stderr)
    return stream


def _student(args: argparse.Namespace, stream: Any, scope: Any) -> Any:
    """Returns the student, with first weights that depend on the seed alone."""
    import tf_keras

    from streamkd.models.load_student import load_student
    from streamkd.models.precision import check_precision, precision

    tf_keras.utils.set_random_seed(args.seed)
    with scope, precision(args.precision):
        student = load_student(
            args.student,
            num_classes=stream.num_classes,
            image_size=stream.options.image_size,
            num_channels=stream.options.num_channels,
            trust=args.trust,
        )
    check_precision(student, args.precision)
    return student


def _callbacks(args: argparse.Namespace, student: Any) -> list[Any]:
    """Returns Keras' callbacks, of the student's family."""
    from streamkd.models.families import family_of

    keras = family_of(student).keras.callbacks
    callbacks = []
    if args.early_stopping is not None:
        callbacks.append(
            keras.EarlyStopping("val_loss", patience=args.early_stopping, restore_best_weights=True)
        )
    if args.tensorboard is not None:
        callbacks.append(keras.TensorBoard(args.tensorboard, write_graph=False))
    return callbacks


def _recorded(args: argparse.Namespace) -> dict[str, Any]:
    """Returns what is kept in config.json for the reader: every flag, given or not."""
    return {name: value for name, value in vars(args).items() if name not in UNRECORDED_FLAGS}


def _where(history: Any) -> str:
    """Returns where a run that was stopped goes on."""
    if not history.step:
        return "No step was taken yet; the same command begins again."
    return (
        f"The run is saved at step {history.step} in {history.run}; the same command goes on from "
        "there."
    )

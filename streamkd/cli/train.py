"""`streamkd train`: from flags to a stream, a student and a call of `fit`.

    answer = train(args)
    answer.fields["val_accuracy"], answer.fields["run"]

The flags themselves are in `train_flags`.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import os
import sys
from typing import Any

import streamkd as kd
from streamkd import json_text
from streamkd.cli import files, flags, pixel_flags, store_flags
from streamkd.cli.answer import Answer
from streamkd.cli.collect_warnings import with_warnings
from streamkd.cli.signals import StopSignals
from streamkd.codes import without_warnings
from streamkd.errors import MissingExtraError, OptionError
from streamkd.manifest.own_outputs import refuse_among_classes
from streamkd.tf_support.quiet_import import import_tensorflow

# Flags that are arguments of `Distiller` and of `join`, by the same names.
DISTILLER_FLAGS = (
    *("optimizer", "learning_rate", "schedule", "warm_up", "weight_decay", "clip_norm"),
    *("accumulate", "ema", "temperature", "label_weight", "label_smoothing"),
    *("loss", "standardize"),
    *("student_preprocess", "jit", "steps_per_call", "on_nonfinite"),
)
JOIN_FLAGS = (
    *("batch_size", "seed", "missing", "on_bad", "augment"),
    *("cache", "cache_directory", "cache_bytes", "views_per_decode", "balance"),
)
# Arguments that config.json does not keep: the command itself, and how it answers.
UNRECORDED_FLAGS = ("command", "run", "config", "json", "quiet")
# Columns of metrics.csv: the answer has their last values.
ANSWERED_COLUMNS = ("loss", "accuracy", "val_accuracy", "agreement", "images_per_second")


@with_warnings
def train(args: argparse.Namespace) -> Answer:
    """Distils the student."""
    _check(args)
    views = _independent_views(args)
    class_weight = files.read_class_weight(args.class_weight)
    chosen = {
        "classes": files.read_classes(args.classes),
        "teacher_class_map": files.read_teacher_class_map(args.teacher_class_map),
    }
    images, validation = _scan(args)
    _refuse_outputs_among_classes(args, images, validation)
    store = store_flags.open_stores(args)
    import_tensorflow()
    scope = _scope(args.distribute)
    stream = _join(args, images, store, views=views, **chosen)
    student = _student(args, stream, scope)
    settings = {name: getattr(args, name) for name in DISTILLER_FLAGS}
    distiller = kd.Distiller(student, model_output=args.output, **settings)
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
            extend=args.extend,
        )
    if history.stopped:
        raise signals.stopped_error(_how_to_resume(history))
    last = history.last
    return Answer(
        {
            "epochs": len(history.epochs),
            "steps": last.get("step"),
            "num_skipped": history.num_skipped,
            **{name: last.get(name) for name in ANSWERED_COLUMNS},
            "run": history.run,
            "outcome": history.outcome,
            "began_at_step": history.began_at_step,
        }
    )


def _check(args: argparse.Namespace) -> None:
    """Refuses mistakes that can be seen without images and without TensorFlow."""
    files.check_out(args.out, kind="run directory")
    if args.subset:
        raise OptionError(
            "train uses both sides of --validation-split: one to train, the other to validate.\n"
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
        files.check_out(args.tensorboard, kind="directory", flag="--tensorboard")
        if importlib.util.find_spec("tensorboard") is None:
            raise MissingExtraError(
                "--tensorboard needs the package tensorboard, which is not installed.\n"
                "Install it: `pip install 'streamkd[tensorboard]'`."
            )


def _check_cluster() -> None:
    """Refuses a TF_CONFIG that does not name all machines and the index of this one."""
    try:
        cluster = json_text.load(os.environ["TF_CONFIG"])
        complete = cluster["cluster"]["worker"] and cluster["task"]["type"]
        if complete and isinstance(cluster["task"]["index"], int):
            return
        problem = "is not complete"
    except KeyError as error:
        problem = "is not set" if "TF_CONFIG" not in os.environ else f"has no {error}"
    except (ValueError, TypeError) as error:
        problem = f"cannot be read: {error}"
    raise OptionError(
        "--distribute multi-worker reads the machines from the variable TF_CONFIG, which "
        f"{problem}.\nSet it on each machine, with the machine's own index: "
        '`TF_CONFIG=\'{"cluster": {"worker": ["host0:2222", "host1:2222"]}, '
        '"task": {"type": "worker", "index": 0}}\'`.'
    )


def _scan(args: argparse.Namespace) -> tuple[kd.Manifest, kd.Manifest | None]:
    """Returns the images to train on, and those to validate on or None."""
    has_split = args.validation_split is not None
    images = flags.scan_side(args, "training" if has_split else None)
    if args.validation:
        return images, flags.scan_other(args, args.validation)
    return images, flags.scan_side(args, "validation") if has_split else None


def _refuse_outputs_among_classes(
    args: argparse.Namespace, images: kd.Manifest, validation: kd.Manifest | None
) -> None:
    """Refuses directories that a later scan would take for a class."""
    for path, kind, flag in (
        (args.out, "run directory", "--out"),
        (args.tensorboard, "TensorBoard directory", "--tensorboard"),
    ):
        for scanned in (images, validation):
            if path is not None and scanned is not None:
                refuse_among_classes(scanned, path, kind=kind, flag=flag)


def _independent_views(args: argparse.Namespace) -> kd.Views | None:
    """Returns the views of `--augment independent`; None to replay the store's."""
    drawn = args.crop or args.flip or args.color or args.erase or args.mixup or args.cutmix
    if args.augment == "independent":
        if not drawn:
            raise OptionError(
                "--augment independent draws new views; say which: `--crop 0.35 1 --flip`."
            )
        return flags.views(args, 1)
    if drawn or args.canonical_size:
        raise OptionError(
            "The views belong to the store: the student sees what the teacher saw.\n"
            "Give --crop, --flip and the like to `streamkd teach`, or compare with "
            "`--augment independent`."
        )
    return None


def _scope(distribute: str | None) -> Any:
    """Returns the scope of the strategy, to build the student in."""
    import tensorflow as tf

    if distribute is None:
        return contextlib.nullcontext()
    if distribute == "mirrored":
        return tf.distribute.MirroredStrategy().scope()
    # Made before any operation runs: it refuses to configure its collectives later.
    return tf.distribute.MultiWorkerMirroredStrategy().scope()


def _join(args: argparse.Namespace, images: kd.Manifest, store: Any, **options: Any) -> kd.Stream:
    """Returns the stream, with more options of `join`; says where its pixel cache is."""
    # From labels alone, views need no answers of the teacher.
    is_alone = args.label_weight == 1
    with without_warnings("independent_views") if is_alone else contextlib.nullcontext():
        stream = kd.join(
            images,
            store,
            progress=not args.quiet,
            **options,
            **{name: getattr(args, name) for name in JOIN_FLAGS},
            **pixel_flags.pixels(args),
        )
    if stream.cache is not None and stream.cache.path is not None and not args.quiet:
        line = f"decoded images are kept in {stream.cache.path}, which may be deleted at any time"
        print(line, file=sys.stderr)
    return stream


def _student(args: argparse.Namespace, stream: kd.Stream, scope: Any) -> Any:
    """Returns the student, with first weights that depend on the seed alone."""
    import tf_keras

    from streamkd.models.load_student import load_student
    from streamkd.models.precision import check_precision, precision
    from streamkd.models.run_code import has_student, open_student
    from streamkd.training.loss_choice import needs_sigmoid

    is_sigmoid = needs_sigmoid(args.loss, stream, args.label_weight)
    tf_keras.utils.set_random_seed(args.seed)
    with scope, precision(args.precision):
        if has_student(args.student):
            student = open_student(args.student, trust=args.trust)
        else:
            student = load_student(
                args.student,
                num_classes=stream.num_classes,
                image_size=stream.options.image_size,
                num_channels=stream.options.num_channels,
                trust=args.trust,
                activation="sigmoid" if is_sigmoid else None,
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
    """Returns the flags that config.json keeps for its reader, given or not."""
    given = {name: value for name, value in vars(args).items() if name not in UNRECORDED_FLAGS}
    return {**given, "store": store_flags.recorded(args.store)}


def _how_to_resume(history: Any) -> str:
    """Returns how a stopped run is resumed."""
    if not history.step:
        return "No step was taken yet; the same command begins again."
    return f"The run is saved at step {history.step} in {history.run}; the same command resumes it."

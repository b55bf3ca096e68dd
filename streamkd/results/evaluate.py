"""Evaluates a model on images, and compares it with the teacher's stored logits.

report = evaluate(student, scan("photos/val"))
report.accuracy, report["latency_ms"]
json.dumps(report)                               # what `streamkd evaluate --json` prints
"""

from __future__ import annotations

import os
import time
from typing import Any

import numpy as np
import tensorflow as tf

from streamkd.checks import check_count, check_types
from streamkd.ensemble.ensemble_store import as_store
from streamkd.errors import StudentError
from streamkd.image_options import MAX_PIXELS, Background, ImageOptions, as_background
from streamkd.manifest.class_names import class_numbers, renumber, several_labels
from streamkd.manifest.listing import UNLABELLED
from streamkd.manifest.manifest import Manifest, as_manifest
from streamkd.manifest.wrapper import hinting
from streamkd.progress import image_progress
from streamkd.public import public
from streamkd.reports import Report
from streamkd.results.evaluated_model import KerasModel, open_model
from streamkd.results.evaluated_teacher import TeacherModel, is_asked_as_teacher
from streamkd.results.report_fields import report_fields, shown_labels
from streamkd.results.teacher_classes import TeacherClasses
from streamkd.results.teacher_logits import gathered
from streamkd.runs.run_directory import config_of_model
from streamkd.store.decisions import as_two, fits_names
from streamkd.store.row_store import RowStore
from streamkd.stream.content_check import refuse_changed
from streamkd.stream.evaluation_batches import each_once, evaluation_batches
from streamkd.stream.join import find_rows, image_options
from streamkd.stream.teacher_columns import ClassMap
from streamkd.teachers.load_teacher import load_teacher
from streamkd.teachers.teacher import Teacher
from streamkd.training.teacher_strength import warn_of_weaker

NUM_LATENCY_RUNS = 50
NUM_WARM_UP_RUNS = 5


class EvaluationReport(Report):
    """How good a model is on images. Fields that need absent labels or logits are None.

    Attributes:
      num_images: images that were evaluated, labelled or not.
      accuracy: fraction of the labelled images whose class is the model's first choice.
      top5_accuracy: fraction whose class is among the first five; None for five classes or fewer.
      nll: mean cross-entropy with the labels, in nats.
      ece: expected calibration error, 0 to 1.
      num_errors: labelled images whose class is not the model's first choice.
      agreement: fraction of all images for which the model and the teacher choose the same class.
      kl_to_teacher: mean KL(teacher ‖ model) at temperature 1, in nats.
      teacher_accuracy: the teacher's accuracy on the same images.
      num_parameters: weights of the model; None for a format that does not tell them.
      latency_ms: median time for one image alone, in milliseconds; None for a model behind an
        address.

    A model that ends in sigmoid is measured by its own probabilities, and its report has the field
    `activation`, 'sigmoid'. Of several independent labels, agreement and KL are means over images
    and labels, there are the further fields of `label_report.label_fields`, and for images with
    several labels each nll is the binary cross-entropy, averaged over the labels; then a first
    choice, and so accuracy, is not defined.
    """

    num_images: int
    accuracy: float | None
    top5_accuracy: float | None
    nll: float | None
    ece: float | None
    num_errors: int | None
    agreement: float | None
    kl_to_teacher: float | None
    teacher_accuracy: float | None
    num_parameters: int | None
    latency_ms: float | None


@public
def evaluate(
    model: Any,
    images: Manifest | str | os.PathLike,
    *,
    store: Any = None,
    image_size: tuple[int, int] | None = None,
    color_mode: str | None = None,
    interpolation: str | None = None,
    crop_to_aspect_ratio: bool | None = None,
    pad_to_aspect_ratio: bool | None = None,
    decode: str | None = None,
    exif: str | None = None,
    background: Background = None,
    class_names: list[str] | None = None,
    teacher_class_map: ClassMap = None,
    model_output: str | int | None = None,
    batch_size: int = 64,
    max_pixels: int = MAX_PIXELS,
    trust: bool = False,
    progress: bool = True,
) -> EvaluationReport:
    """Returns how good a model is on images.

    Args:
      model: a Keras model, a `.keras` or `.h5` file, or a run directory; or anything that
        `load_teacher` takes: a TFLite or ONNX file, a SavedModel, an address, a `Teacher`, which
        has a preprocessing and outputs that are no class.
      images: labelled or not; fields that need labels are None without them.
      store: the teacher's logits for these images, for agreement and KL: a store or its path, or
        several, as in `join`.
      image_size: (height, width); by default the size that the model takes.
      color_mode: by default the mode that fits the model's channels.
      interpolation, crop_to_aspect_ratio, pad_to_aspect_ratio, decode, exif, background: by default
        as in the store, without a store as in the run's training, otherwise as in Keras' loader.
      class_names: the model's classes in the order of its outputs; by default those of the run
        directory, of the store, or of the images. Of the store, only the columns of these classes
        are compared with.
      teacher_class_map: the model's class of each of the teacher's classes, as in `join`; by
        default as in the run's training.
      model_output: name or number of the output to evaluate, for a model with several.
      batch_size: images a batch.
      max_pixels: an image with more pixels is refused as undecodable.
      trust: allow a model file that runs code on loading.
      progress: show progress on standard error.

    Raises:
      StreamkdError: the model, the images and the store do not fit together.
    """
    check_types(evaluate, locals())
    images = as_manifest(images)
    check_count("batch_size", batch_size)
    trained: dict[str, Any] = {}
    trained_loss = None
    config: dict[str, Any] = {}
    if is_asked_as_teacher(model):
        model = load_teacher(model, model_output=model_output, trust=trust)
    elif isinstance(model, str | os.PathLike):
        config = config_of_model(model)
        class_names = class_names or config.get("class_names")
        trained = config.get("image_options", {})
        trained_loss = config.get("loss")
        model = open_model(model, trust=trust)
    if store is not None:
        store = as_store(store)
    own: KerasModel | TeacherModel
    if isinstance(model, Teacher):
        own, class_names = TeacherModel(model), class_names or model.class_names
    else:
        own = KerasModel(model, model_output)
    size = image_size or own.image_size or trained.get("image_size")
    asked = {
        "interpolation": interpolation,
        "crop_to_aspect_ratio": crop_to_aspect_ratio,
        "pad_to_aspect_ratio": pad_to_aspect_ratio,
        "decode": decode,
        "exif": exif,
        "background": as_background(background),
    }
    if store is None:
        if size is None:
            raise own.no_size()
        asked = {name: trained.get(name) if v is None else v for name, v in asked.items()}
    mode = color_mode or own.color_mode(size)
    options = image_options(store, size, mode, asked, max_pixels)
    own.settle(options)
    teacher_classes = TeacherClasses(store, images, class_names, teacher_class_map, config)
    rows, known_digests = None, None
    if store is not None:
        images, rows = find_rows(images, store, "raise", progress)
        known_digests = store.content_of(rows // store.num_views)
    shown = shown_labels(images, store, trained_loss)
    answer = own.logits_function(shown)
    logits = answer_all(answer, images, options, batch_size, progress, known_digests)
    classes = teacher_classes.of_model(logits.shape[1])
    labels = _labels(images, classes, logits.shape[1])
    teacher_logits = None
    if store is not None and rows is not None:
        teacher_logits = _teacher_logits(store, rows, teacher_classes, classes, logits.shape[1])
    names = classes or images.class_names
    report = EvaluationReport(
        num_images=len(logits),
        **report_fields(
            logits,
            teacher_logits,
            labels,
            several_labels(images, names, "the model", logits.shape[1]),
            names=names,
            model=own.activation or (shown and "sigmoid"),
            teacher=None if store is None else store.header.activation,
        ),
        num_parameters=own.num_parameters,
        latency_ms=None if own.is_paid_for else latency_ms(answer, options),
    )
    num_labelled = int(np.count_nonzero(labels != UNLABELLED))
    warn_of_weaker(report.teacher_accuracy, report.accuracy, num_labelled)
    return report


def answer_all(
    answer: Any,
    images: Manifest,
    options: ImageOptions,
    batch_size: int,
    progress: bool,
    known_digests: np.ndarray | None = None,
) -> np.ndarray:
    """Returns the logits of every image, float32 `[num_images, num_classes]`, in order.

    Args:
      answer: compiled function from pixels to logits.
      images, options, batch_size, progress: as in `evaluate`.
      known_digests: uint64 `[num_images]`, content digests that the files must have; None to
        accept any content.

    Raises:
      ChangedImageError: a file has another digest.
    """
    batch_size = min(batch_size, len(images))
    dataset = evaluation_batches(images, options, batch_size)
    batches = each_once(dataset, images, options, batch_size)
    answers = []
    with image_progress(len(images), 0, "evaluating", progress) as bar:
        for pixels, content_digests, indices, weights in batches:
            num_real = int(weights.numpy().sum())  # the last batch is filled up
            if known_digests is not None:
                seen = indices.numpy()[:num_real]
                digests = content_digests.numpy()[:num_real]
                refuse_changed(images, seen, digests, known_digests[seen])
            answers.append(np.asarray(answer(pixels))[:num_real])
            bar.update(num_real)
    return np.concatenate(answers)


def latency_ms(answer: Any, options: ImageOptions) -> float:
    """Returns the median time for one image alone, in milliseconds."""
    image = tf.random.stateless_uniform((1, *options.shape), (1, 2), maxval=255.0)
    times = []
    for _ in range(NUM_WARM_UP_RUNS + NUM_LATENCY_RUNS):
        started = time.perf_counter()
        np.asarray(answer(image))
        times.append(time.perf_counter() - started)
    return round(1000 * float(np.median(times[NUM_WARM_UP_RUNS:])), 3)


def _teacher_logits(
    store: RowStore,
    rows: np.ndarray,
    teacher_classes: TeacherClasses,
    classes: list[str] | None,
    num_outputs: int,
) -> np.ndarray:
    """Returns stored logits in the order of the model's outputs, float32 `[rows, num_classes]`."""
    blocks = gathered(store, rows)
    if {num_outputs, store.num_classes} <= {1, 2} and 1 in (num_outputs, store.num_classes):
        return _of_decision(np.concatenate([*blocks]), store, classes, num_outputs)
    columns = teacher_classes.columns(classes, num_outputs)
    return np.concatenate([block if columns is None else columns.of(block) for block in blocks])


def _of_decision(
    logits: np.ndarray, store: RowStore, classes: list[str] | None, num_outputs: int
) -> np.ndarray:
    """Returns stored logits of two classes, which have one logit, or two of a softmax.

    Raises:
      StudentError: the store has two independent labels, and the model one.
    """
    if num_outputs < store.num_classes and store.header.is_sigmoid:
        raise StudentError(
            "The model's output disagrees with the store.\n"
            f"  model: {num_outputs} outputs\n"
            f"  store: {store.num_classes} independent labels ({store.path})\n"
            "Give the store the model was distilled from, or leave `--store` out."
        )
    if 2 in (num_outputs, len(store.class_names)):
        logits = as_two(logits)
    if classes and store.class_names and classes != store.class_names:
        # Classes are matched by name, not by number.
        return logits[:, class_numbers(classes, store.class_names, "the store")[:-1]]
    return logits


def _labels(images: Manifest, classes: list[str] | None, num_outputs: int) -> np.ndarray:
    """Returns labels numbered like the model's outputs, int64 `[num_images]`."""
    classes = classes or images.class_names
    if images.class_names is None:
        return images.labels
    if classes is not None and not fits_names(num_outputs, classes):
        raise StudentError(
            f"The model has {num_outputs} outputs, and there are {len(classes)} classes.\n"
            f"  images: {images!r}\n"
            "Give the directory of the classes it was trained on, or the run directory instead of "
            "the model file."
        )
    with hinting(images):
        return renumber(images.labels, images.class_names, classes, "the model")

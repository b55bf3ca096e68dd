"""Evaluates a model on images, beside the teacher where its stored logits are given.

report = evaluate(student, scan("photos/val"))
report["accuracy"], report["latency_ms"]
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from streamkd.checks import check_count
from streamkd.errors import OptionError, StudentError
from streamkd.image_options import MAX_PIXELS, ImageOptions
from streamkd.manifest.class_names import class_numbers, renumber
from streamkd.manifest.manifest import UNLABELLED, Manifest
from streamkd.models import families, output_kind
from streamkd.models.inference import compiled_answer
from streamkd.models.logits_head import logits_model
from streamkd.progress import image_progress
from streamkd.public import public
from streamkd.results import metrics
from streamkd.runs.run_directory import read_config
from streamkd.store.collection import open_store
from streamkd.store.row_store import RowStore
from streamkd.stream.content_check import refuse_changed
from streamkd.stream.evaluation_batches import each_once, evaluation_batches
from streamkd.stream.join import find_rows, image_options

NUM_LATENCY_RUNS = 50
NUM_WARM_UP_RUNS = 5


@public
def evaluate(
    model: Any,
    images: Manifest,
    *,
    store: RowStore | str | os.PathLike | None = None,
    image_size: tuple[int, int] | None = None,
    color_mode: str | None = None,
    interpolation: str | None = None,
    crop_to_aspect_ratio: bool | None = None,
    pad_to_aspect_ratio: bool | None = None,
    decode: str | None = None,
    class_names: list[str] | None = None,
    batch_size: int = 64,
    max_pixels: int = MAX_PIXELS,
    trust: bool = False,
    progress: bool = True,
) -> dict[str, Any]:
    """Returns how good a model is on some images.

    Args:
      model: a Keras model, a `.keras` file or a run directory.
      images: labelled or not; what needs labels is None without them.
      store: the teacher's logits for these images, for agreement and KL.
      image_size: by default what the model takes.
      color_mode: by default what the model's channels ask for.
      interpolation, crop_to_aspect_ratio, pad_to_aspect_ratio, decode: by default as the store
        says, as the run was trained, or as in Keras' loader.
      class_names: the model's classes in the order of its outputs; by default those of the run
        directory, of the store, or of the images.
      batch_size: images a batch.
      max_pixels: an image of more is refused, as one that cannot be decoded.
      trust: allow a model file that runs code on loading.
      progress: show progress on standard error.

    Returns:
      A dict with num_images, accuracy, top5_accuracy, nll (nats), ece, agreement, kl_to_teacher
      (nats, temperature 1), teacher_accuracy, num_errors, num_parameters and latency_ms (one
      image at a time, median); None for what is not known.

    Raises:
      StreamkdError: the model, the images and the store do not fit.
    """
    check_count("batch_size", batch_size)
    given: dict[str, Any] = {
        "interpolation": interpolation,
        "crop_to_aspect_ratio": crop_to_aspect_ratio,
        "pad_to_aspect_ratio": pad_to_aspect_ratio,
        "decode": decode,
    }
    trained: dict[str, Any] = {}
    if isinstance(model, str | os.PathLike):
        config = read_config(model)
        class_names = class_names or config.get("class_names")
        trained = config.get("image_options", {})
        model = open_model(model, trust=trust)
    if store is not None:
        store = open_store(store)
    if store is None:  # what the student was trained on, unless another is asked for
        given = {name: trained.get(name) if v is None else v for name, v in given.items()}
    size = image_size or model_image_size(model) or trained.get("image_size")
    if store is None and size is None:
        raise OptionError("The model takes images of any size; add --image-size HEIGHTxWIDTH.")
    options = image_options(store, size, color_mode or model_color_mode(model), given, max_pixels)
    rows = None
    if store is not None:
        images, rows = find_rows(images, store, "raise", progress)
    answer = logits_function(model)
    stored = None if store is None or rows is None else store.content_of(rows // store.num_views)
    logits = answer_all(answer, images, options, batch_size, progress, stored)
    classes = class_names or (store.class_names if store is not None else None)
    labels = _labels(images, classes, logits.shape[1])
    report = _label_report(logits, labels)
    report |= _teacher_report(logits, labels, classes, store, rows)
    report["num_parameters"] = int(model.count_params())
    report["latency_ms"] = latency_ms(answer, options)
    return report


def open_model(path: str | os.PathLike, *, trust: bool = False) -> Any:
    """Returns the model of a `.keras` file or of a run directory."""
    path = Path(path)
    if path.is_dir():
        if not (path / "student.keras").exists():
            raise StudentError(
                f"{path} is a directory without student.keras, so it is no finished run.\n"
                "Give a `.keras` file or the --out of `streamkd train`."
            )
        path = path / "student.keras"
    return families.load_model(path, refusal=StudentError, trust=trust)


def logits_function(model: Any) -> Any:
    """Returns a compiled function from images to logits, float32 `[batch, num_classes]`."""
    logits = logits_model(model)
    answer = compiled_answer(logits.model)
    if logits.inspected:
        return answer

    def probed(images: tf.Tensor) -> np.ndarray:
        answers = answer(images).numpy()
        return output_kind.to_logits(answers, output_kind.output_kind(answers))

    return probed


def answer_all(
    answer: Any,
    images: Manifest,
    options: ImageOptions,
    batch_size: int,
    progress: bool,
    stored: np.ndarray | None = None,
) -> np.ndarray:
    """Returns the logits of every image, float32 `[num_images, num_classes]`, in order.

    Args:
      answer: compiled function from pixels to logits.
      images, options, batch_size, progress: as in `evaluate`.
      stored: uint64 `[num_images]`, content digests that the files must have; None for any.

    Raises:
      ChangedImageError: a file has another digest.
    """
    batch_size = min(batch_size, len(images))
    dataset = evaluation_batches(images, options, batch_size)
    batches = each_once(dataset, images, options, batch_size)
    answers = []
    with image_progress(len(images), 0, "evaluating", progress) as bar:
        for pixels, digests, indices, weights in batches:
            num_real = int(weights.numpy().sum())
            if stored is not None:
                seen = indices.numpy()[:num_real]
                refuse_changed(images, seen, digests.numpy()[:num_real], stored[seen])
            answers.append(np.asarray(answer(pixels))[:num_real])
            bar.update(num_real)
    return np.concatenate(answers)


def latency_ms(answer: Any, options: ImageOptions) -> float:
    """Returns the median time of one image at a time, in milliseconds."""
    image = tf.random.stateless_uniform((1, *options.shape), (1, 2), maxval=255.0)
    times = []
    for _ in range(NUM_WARM_UP_RUNS + NUM_LATENCY_RUNS):
        started = time.perf_counter()
        np.asarray(answer(image))
        times.append(time.perf_counter() - started)
    return round(1000 * float(np.median(times[NUM_WARM_UP_RUNS:])), 3)


def _label_report(logits: np.ndarray, labels: np.ndarray) -> dict[str, Any]:
    known = labels != UNLABELLED
    names = ("accuracy", "top5_accuracy", "nll", "ece", "num_errors")
    report: dict[str, Any] = {"num_images": len(logits), **dict.fromkeys(names)}
    if not known.any():
        return report
    logits, labels = logits[known], labels[known]
    report["accuracy"] = metrics.accuracy(logits, labels)
    report["num_errors"] = int(np.sum(logits.argmax(axis=1) != labels))
    report["nll"] = metrics.negative_log_likelihood(logits, labels)
    report["ece"] = metrics.expected_calibration_error(logits, labels)
    if logits.shape[1] > 5:
        report["top5_accuracy"] = metrics.top_accuracy(logits, labels, 5)
    return report


def _teacher_report(
    logits: np.ndarray,
    labels: np.ndarray,
    classes: list[str] | None,
    store: RowStore | None,
    rows: np.ndarray | None,
) -> dict[str, Any]:
    names = ("agreement", "kl_to_teacher", "teacher_accuracy")
    report: dict[str, Any] = dict.fromkeys(names)
    if store is None or rows is None:
        return report
    if logits.shape[1] != store.num_classes:
        raise StudentError(
            "The model's output disagrees with the store.\n"
            f"  model: {logits.shape[1]} outputs\n"
            f"  store: {store.num_classes} classes ({store.path})\n"
            "Give the store the model was distilled from, or leave `--store` out."
        )
    teacher_logits = np.concatenate(
        [store.gather(rows[start : start + 4096]) for start in range(0, len(rows), 4096)]
    )
    if classes and store.class_names and classes != store.class_names:
        # The outputs of both are matched by name, not by number.
        columns = class_numbers(classes, store.class_names, "the store")[:-1]
        teacher_logits = teacher_logits[:, columns]
    known = labels != UNLABELLED
    report["agreement"] = metrics.agreement(logits, teacher_logits)
    report["kl_to_teacher"] = metrics.divergence(teacher_logits, logits)
    if known.any():
        report["teacher_accuracy"] = metrics.accuracy(teacher_logits[known], labels[known])
    return report


def _labels(images: Manifest, classes: list[str] | None, num_outputs: int) -> np.ndarray:
    """Returns the labels in the numbering of the model's outputs."""
    classes = classes or images.class_names
    if images.class_names is None:
        return images.labels
    if classes is not None and len(classes) != num_outputs:
        raise StudentError(
            f"The model has {num_outputs} outputs, and there are {len(classes)} classes.\n"
            f"  images: {images!r}\n"
            "Give the directory of the classes it was trained on, or the run directory instead of "
            "the model file."
        )
    return renumber(images.labels, images.class_names, classes, "the model")


def model_image_size(model: Any) -> tuple[int, int] | None:
    shape = getattr(model, "input_shape", None)
    if isinstance(shape, tuple) and len(shape) == 4 and shape[1] and shape[2]:
        return int(shape[1]), int(shape[2])
    return None


def model_color_mode(model: Any) -> str | None:
    shape = getattr(model, "input_shape", None)
    if isinstance(shape, tuple) and len(shape) == 4:
        return {1: "grayscale", 3: "rgb", 4: "rgba"}.get(shape[3])
    return None

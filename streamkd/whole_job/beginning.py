"""The beginning of a job: what a sample says about teacher and student, and the settings from that.

facts, recipe = begin(request)
recipe["temperature"].value
"""

from __future__ import annotations

import dataclasses
import tempfile
from pathlib import Path
from typing import Any

from streamkd.codes import without_warnings
from streamkd.manifest.manifest import Manifest
from streamkd.pixels.cache.free_space import free_disk
from streamkd.store.row_store import RowStore
from streamkd.stream.join import join
from streamkd.stream.stream import Stream
from streamkd.teachers.plan import plan
from streamkd.training.distiller import Distiller
from streamkd.training.optimizers import build_optimizer
from streamkd.training.student_checks import check_student
from streamkd.training.student_model import student_model
from streamkd.views.views import Views
from streamkd.whole_job.parts import check_classes
from streamkd.whole_job.recipe_choice import Facts, Setting, choose_recipe, values_of
from streamkd.whole_job.request import Request, independent_views, views_of
from streamkd.whole_job.speed import seconds_per_image
from streamkd.whole_job.student_source import is_trained
from streamkd.whole_job.teacher_sample import NUM_SAMPLED, median_side, sampled, summary_of

# Batch of one: enough to see that student, images and answers fit.
_TRIED = 1


def begin(request: Request) -> tuple[Facts, dict[str, Setting]]:
    """Returns what is known of a job, and its settings; writes nothing that stays.

    The teacher is asked about a sample; under a time budget a few steps are taken, and timed.

    Raises:
      StreamkdError: teacher, student, images and settings do not fit together.
    """
    images = request.parts.train
    sample = sampled(images, NUM_SAMPLED, request.seed)
    request.say(f"asking the teacher about {len(sample):,} of the images")
    with tempfile.TemporaryDirectory() as folder, without_warnings():
        views = Views(1, flip=True, seed=request.seed)
        path = Path(folder) / "sample.h5"
        store = request.teach(sample, path, views, codec="float16", progress=False)
        check_classes(store.class_names, images)
        tried = join(sample, store, batch_size=_TRIED, image_size=request.image_size)
        request.student.keep(Path(folder), tried.options.shape)
        facts = _facts(request, store, sample, tried)
        recipe = choose_recipe(facts, request.given)
        views_of(values_of(recipe), request.seed)  # refuses settings that contradict each other
        if request.budget is not None and request.budget.seconds is not None:
            request.say("measuring how fast the teacher answers, and the student learns")
            facts = _timed(request, facts, values_of(recipe), sample, tried)
            recipe = choose_recipe(facts, request.given)
        _try_student(request, tried, values_of(recipe))
    return facts, recipe


def _facts(request: Request, store: RowStore, sample: Manifest, tried: Stream) -> Facts:
    """Returns what is known before the pass over all images."""
    answers = summary_of(store, sample)
    student = request.student.build(tried, label_weight=0.0)
    height, width = store.header.images["image_size"]
    return Facts(
        num_images=len(request.parts.train),
        num_outputs=store.num_classes,
        is_labelled=bool(tried.labelled.any()),
        image_size=(height, width),
        num_channels=tried.options.num_channels,
        file_size=median_side(request.parts.train),
        teacher_confidence=answers.confidence,
        teacher_accuracy=answers.accuracy,
        mirror_agreement=answers.mirror_agreement,
        is_trained=is_trained(student),
        budget=request.budget,
        num_validation=len(request.parts.validation),
        student_size=tried.options.image_size,
        free_disk=free_disk(request.out),
    )


def _timed(
    request: Request, facts: Facts, settings: dict[str, Any], sample: Manifest, tried: Stream
) -> Facts:
    """Returns the facts with the measured times of an answer and of an image in training."""
    planned = plan(
        sample,
        teacher=request.teacher,
        codecs=["float16"],
        class_names=request.class_names,
        progress=False,
        clock=request.clock,
        **request.teacher_pixels,
    )
    numbers = [str(number) for number in range(tried.num_classes)]
    seconds = seconds_per_image(
        request.student.build(tried, label_weight=0.0),
        sample,
        {**request.teacher_pixels, "image_size": tried.options.image_size},
        views=independent_views(settings, request.seed),
        batch_size=settings["batch_size"],
        class_names=tried.class_names or numbers,
        student_preprocess=request.student_preprocess,
    )
    return dataclasses.replace(
        facts, teacher_seconds=planned.seconds_per_row, student_seconds=seconds
    )


def _try_student(request: Request, tried: Stream, settings: dict[str, Any]) -> None:
    """Refuses a student that does not fit, before the teacher is asked about all images."""
    label_weight = settings["label_weight"]
    student = request.student.build(tried, label_weight=label_weight)
    distiller = Distiller(student, **request.distilling(settings, label_weight))
    parts = student_model(student, preprocess=request.student_preprocess, shape=tried.options.shape)
    if parts is not None:
        check_student(distiller.recipe, parts, tried, 1)
        variables = parts.student.trainable_variables
        build_optimizer(distiller.recipe, distiller.family, num_steps=1, variables=variables)

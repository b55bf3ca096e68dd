"""A whole job: every step, each of which resumes where it was stopped.

    sample → settings → teacher's answers → student → student from labels alone → evaluation

    answer = Job(request).run()

The directory of a job is the run directory of its student, and holds besides:

    job.json                                 what was asked, found and chosen; then the answer
    train.jsonl, validation.jsonl            the images of the two parts
    teacher.h5, teacher-validation.h5        the teacher's answers
    classes.txt                              the teacher's classes, where only the job knows them
    labels-alone/                            the run of the student from labels alone
    pixels/                                  decoded images, until the job is finished
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from streamkd import disk
from streamkd.codes import without_warnings
from streamkd.errors import ResumeError
from streamkd.manifest.manifest import Manifest, scan
from streamkd.manifest.own_outputs import refuse_among_classes
from streamkd.results.evaluate import EvaluationReport, evaluate
from streamkd.runs.run_directory import STUDENT
from streamkd.store.judgement import judge_teacher
from streamkd.store.row_store import RowStore
from streamkd.stream.join import join
from streamkd.stream.stream import Stream
from streamkd.training.distiller import Distiller
from streamkd.views.views import Views
from streamkd.whole_job.beginning import begin
from streamkd.whole_job.by_hand import commands_by_hand
from streamkd.whole_job.job_file import JobFile
from streamkd.whole_job.recipe_choice import Setting, values_of
from streamkd.whole_job.request import (
    CLASSES,
    Request,
    independent_views,
    views_of,
)

LABELS_ALONE = "labels-alone"
TRAIN, VALIDATION = "train.jsonl", "validation.jsonl"
PIXELS = "pixels"
STORE, VALIDATION_STORE = "teacher.h5", "teacher-validation.h5"


class Job:
    """One call of `distill`."""

    def __init__(self, request: Request) -> None:
        self.request = request
        self.file = JobFile(request.out)
        self.settings: dict[str, Any] = {}
        self.recipe: dict[str, Setting] = {}

    def run(self) -> dict[str, Any]:
        """Does what is still to be done; returns the answer by its JSON keys.

        Raises:
          StreamkdError: something does not fit; what was done is kept.
        """
        request = self.request
        for images in (request.parts.train, request.parts.validation):
            refuse_among_classes(images, request.out, kind="run directory", flag="--out")
        is_begun = self.file.open(request.asked, request.given)
        if is_begun:
            self._compare_images()
        if is_begun and (answer := self._finished()) is not None:
            request.say(f"the job {request.out} is already finished; nothing is done")
            return {**answer, "outcome": "already_finished"}
        if is_begun:
            request.student.keep(request.out)
            self._settle(self.file.recipe(), f"going on with the job {request.out}:")
        else:
            self._begin()
        views = views_of(self.settings, request.seed)
        keeps = request.keeps_pixels(self.settings)
        kept = {"cache": "disk", "cache_directory": self._cache_directory} if keeps else {}
        store = self._teach(request.parts.train, STORE, views, **kept)
        if (advice := judge_teacher(store).teacher_advice) is not None:
            request.say(advice)
        validation_store = self._teach(request.parts.validation, VALIDATION_STORE, None)
        stream = self._stream(store)
        self._fit(stream, request.out, self.settings["label_weight"])
        if request.baseline:
            self._fit(self._stream_of_labels(store), self._labels_alone, 1.0)
        answer = self._answer(validation_store, stream.options.image_size)
        disk.remove(request.out / PIXELS)
        self.file.finish(answer)
        return {**answer, "outcome": "resumed" if is_begun else "new"}

    @property
    def _labels_alone(self) -> Path:
        return self.request.out / LABELS_ALONE

    @property
    def _cache_directory(self) -> Path | None:
        """Where decoded images are kept; None for the place of a cache that was asked for.

        A cache that was chosen belongs to the job, and goes with its end.
        """
        is_chosen = self.settings["cache"] == "disk" and "cache" not in self.request.given
        return self.request.out / PIXELS if is_chosen else None

    def _finished(self) -> dict[str, Any] | None:
        """Returns the answer of a job that has done all that is asked; else None."""
        answer, runs = self.file.answer, [self.request.out]
        if self.request.baseline:
            runs.append(self._labels_alone)
        if answer is None or not all((run / STUDENT).exists() for run in runs):
            return None
        if self.request.baseline and answer["baseline_num_errors"] is None:
            return None
        return answer

    def _compare_images(self) -> None:
        """Refuses to go on with other images than those that the job began with."""
        parts = self.request.parts
        for name, images in ((TRAIN, parts.train), (VALIDATION, parts.validation)):
            begun = scan(self.request.out / name)
            if begun.fingerprint != images.fingerprint:
                raise ResumeError(
                    f"The images have changed since the job {self.request.out} began.\n"
                    f"  job: {len(begun):,} images in {name}\n"
                    f"  now: {len(images):,} images\n"
                    "Put the images back, or begin a job in another directory: `--out`."
                )

    def _begin(self) -> None:
        """Chooses the settings, and writes down what is known before the first step."""
        request = self.request
        facts, recipe = begin(request)
        self._settle(recipe, "settings, each of which has a flag:")
        disk.make_directory(request.out)
        request.student.keep(request.out)
        request.parts.train.write(request.out / TRAIN)
        request.parts.validation.write(request.out / VALIDATION)
        if request.needs_class_file:
            names = "".join(f"{name}\n" for name in request.class_names or [])
            disk.write_atomically(request.out / CLASSES, names)
        self.file.begin(request.asked, request.given, facts, recipe)

    def _settle(self, recipe: dict[str, Setting], heading: str) -> None:
        """Keeps the settings, and shows each with its reason."""
        self.recipe, self.settings = recipe, values_of(recipe)
        self.request.say(heading)
        for name, setting in recipe.items():
            flag = f"--{name.replace('_', '-')}"
            self.request.say(f"  {flag:<16} {_shown(setting.value):<10} {setting.reason}")

    def _teach(self, images: Manifest, name: str, views: Views | None, **kept: Any) -> RowStore:
        """Returns the store of the teacher's answers; a stopped pass goes on."""
        path, progress = self.request.out / name, self.request.progress
        codec = self.settings["codec"]
        return self.request.teach(images, path, views, codec=codec, progress=progress, **kept)

    def _stream(self, store: RowStore, **options: Any) -> Stream:
        """Returns the stream of the images to learn from."""
        return join(
            self.request.parts.train,
            store,
            image_size=self.request.image_size,
            batch_size=self.settings["batch_size"],
            seed=self.request.seed,
            cache=self.settings["cache"],
            cache_directory=self._cache_directory,
            progress=self.request.progress,
            **options,
        )

    def _stream_of_labels(self, store: RowStore) -> Stream:
        """Returns the stream of the student from labels alone, with the same crops and flips.

        The store says how the images are read and which classes there are; its logits have no part
        in the loss.
        """
        views = independent_views(self.settings, self.request.seed)
        if views is None:
            return self._stream(store)
        with without_warnings("independent_views"):
            return self._stream(store, augment="independent", views=views)

    def _fit(self, stream: Stream, run: Path, label_weight: float) -> None:
        """Trains a student into `run`, or goes on with it."""
        request = self.request
        student = request.student.build(stream, label_weight=label_weight)
        distiller = Distiller(student, **request.distilling(self.settings, label_weight))
        kind = "learns from labels alone" if label_weight == 1 else "is distilled"
        request.say(f"the student {kind}, into {run}")
        with request.stopping() as signals:
            history = distiller.fit(
                stream,
                epochs=self.settings["epochs"],
                validation=request.parts.validation if stream.labelled.any() else None,
                run=run,
                progress=request.progress,
                stop=None if signals is None else signals.arrived,
                arguments=self._recorded(),
            )
        if history.stopped and signals is not None:
            raise signals.stopped_error(
                f"{run} is saved at step {history.step:,}; the same command goes on."
            )
        if history.stopped:  # in a notebook, where `fit` returns what it has
            raise KeyboardInterrupt

    def _recorded(self) -> dict[str, Any]:
        """Returns what config.json keeps for its reader."""
        recipe = {name: dataclasses.asdict(setting) for name, setting in self.recipe.items()}
        asked = {**self.request.asked, "student": self.request.student.text}
        return {**asked, "settings": recipe, "imports": self.request.imports}

    def _answer(self, store: RowStore, image_size: tuple[int, int]) -> dict[str, Any]:
        """Evaluates the students, and returns the answer."""
        out = self.request.out
        student = self._evaluate(out, store)
        baseline = self._evaluate(self._labels_alone, store) if self.request.baseline else None
        described = self.request.described(self.settings, image_size)
        return {
            "teacher_accuracy": student.teacher_accuracy,
            "accuracy": student.accuracy,
            "num_errors": student.num_errors,
            "baseline_accuracy": None if baseline is None else baseline.accuracy,
            "baseline_num_errors": None if baseline is None else baseline.num_errors,
            "num_images": student.num_images,
            "run": str(out),
            "store": str(out / STORE),
            "report": None,
            "commands": commands_by_hand(described),
        }

    def _evaluate(self, run: Path, store: RowStore) -> EvaluationReport:
        """Returns the evaluation of a run beside the teacher."""
        request = self.request
        trust = request.trust or request.student.is_model  # in memory, its code has run already
        images, progress = request.parts.validation, request.progress
        return evaluate(run, images, store=store, trust=trust, progress=progress)


def _shown(value: Any) -> str:
    """Returns a setting as it is typed behind its flag."""
    if value is None or isinstance(value, bool):
        return {None: "none", True: "on", False: "off"}[value]
    if isinstance(value, tuple):
        return ("x" if isinstance(value[0], int) else " ").join(map(str, value))
    return str(value)

"""streamkd: knowledge distillation of image classifiers from directories of images.

    import streamkd as kd

    images = kd.scan("photos/train")
    teacher = kd.load_teacher("teacher.keras")
    store = kd.teach(images, teacher, "teacher.h5")
    stream = kd.join(images, store, image_size=(160, 160), batch_size=128, seed=1)
    distiller = kd.Distiller(student, optimizer="adamw", temperature=4.0, label_weight=0.1)
    history = distiller.fit(stream, epochs=30, validation=kd.scan("photos/val"), run="runs/first")
    report = kd.evaluate(distiller.student, kd.scan("photos/val"))
    kd.export(distiller.student, "student-final.keras")

A name is imported when it is first used, so that `import streamkd` takes no time.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # for editors and type checkers
    from streamkd.codes import StreamkdWarning as StreamkdWarning
    from streamkd.ensemble.clusters import Clusters as Clusters
    from streamkd.ensemble.clusters import cluster_classes as cluster_classes
    from streamkd.ensemble.clusters import read_clusters as read_clusters
    from streamkd.ensemble.compare_stores import compare_stores as compare_stores
    from streamkd.ensemble.ensemble_store import EnsembleStore as EnsembleStore
    from streamkd.ensemble.ensemble_store import combine_stores as combine_stores
    from streamkd.ensemble.member import Member as Member
    from streamkd.ensemble.specialist_images import SpecialistImages as SpecialistImages
    from streamkd.ensemble.specialist_images import specialist_images as specialist_images
    from streamkd.errors import StreamkdError as StreamkdError
    from streamkd.exports.export import export as export
    from streamkd.file_access import file_settings as file_settings
    from streamkd.image_options import ImageOptions as ImageOptions
    from streamkd.keys import Keys as Keys
    from streamkd.losses.batch_losses import dist_loss as dist_loss
    from streamkd.losses.batch_losses import mlkd_loss as mlkd_loss
    from streamkd.losses.distillation import distillation_loss as distillation_loss
    from streamkd.losses.distillation import label_loss as label_loss
    from streamkd.losses.independent_labels import (
        label_distillation_loss as label_distillation_loss,
    )
    from streamkd.losses.keras_fit import pack_targets as pack_targets
    from streamkd.losses.keras_fit import packed_accuracy as packed_accuracy
    from streamkd.losses.keras_fit import packed_loss as packed_loss
    from streamkd.losses.logit_losses import dkd_loss as dkd_loss
    from streamkd.losses.logit_losses import hard_loss as hard_loss
    from streamkd.losses.logit_losses import logit_mse_loss as logit_mse_loss
    from streamkd.losses.logit_losses import nkd_loss as nkd_loss
    from streamkd.losses.logit_losses import standardize_logits as standardize_logits
    from streamkd.losses.logit_losses import ttm_loss as ttm_loss
    from streamkd.losses.logit_losses import wttm_loss as wttm_loss
    from streamkd.manifest.manifest import Manifest as Manifest
    from streamkd.manifest.manifest import scan as scan
    from streamkd.results.class_bias import fit_class_bias as fit_class_bias
    from streamkd.results.class_bias import fold_class_bias as fold_class_bias
    from streamkd.results.evaluate import evaluate as evaluate
    from streamkd.store.collection import StoreCollection as StoreCollection
    from streamkd.store.collection import open_store as open_store
    from streamkd.store.judgement import judge_teacher as judge_teacher
    from streamkd.store.merge import merge as merge
    from streamkd.store.reader import LogitStore as LogitStore
    from streamkd.store.verify import verify as verify
    from streamkd.stream.join import join as join
    from streamkd.stream.order.worker_slice import WorkerSlice as WorkerSlice
    from streamkd.stream.stream import Stream as Stream
    from streamkd.sweeps.sweep import sweep as sweep
    from streamkd.teachers.import_logits import import_logits as import_logits
    from streamkd.teachers.load_teacher import load_teacher as load_teacher
    from streamkd.teachers.plan import plan as plan
    from streamkd.teachers.teach import teach as teach
    from streamkd.teachers.teacher import Teacher as Teacher
    from streamkd.teachers.write_store import ImageBatch as ImageBatch
    from streamkd.teachers.write_store import write_store as write_store
    from streamkd.training.distiller import Distiller as Distiller
    from streamkd.views.operation import ViewOperation as ViewOperation
    from streamkd.views.views import Views as Views
    from streamkd.whole_job.distill import distill as distill

__version__ = "0.1.0"

# Public names by the module that defines them.
_NAMES = {
    "streamkd.codes": "StreamkdWarning",
    "streamkd.ensemble.clusters": "Clusters cluster_classes read_clusters",
    "streamkd.ensemble.compare_stores": "compare_stores",
    "streamkd.ensemble.ensemble_store": "EnsembleStore combine_stores",
    "streamkd.ensemble.member": "Member",
    "streamkd.ensemble.specialist_images": "SpecialistImages specialist_images",
    "streamkd.errors": "StreamkdError",
    "streamkd.exports.export": "export",
    "streamkd.file_access": "file_settings",
    "streamkd.image_options": "ImageOptions",
    "streamkd.keys": "Keys",
    "streamkd.losses.batch_losses": "dist_loss mlkd_loss",
    "streamkd.losses.distillation": "distillation_loss label_loss",
    "streamkd.losses.independent_labels": "label_distillation_loss",
    "streamkd.losses.keras_fit": "pack_targets packed_accuracy packed_loss",
    "streamkd.losses.logit_losses": "dkd_loss hard_loss logit_mse_loss nkd_loss standardize_logits "
    "ttm_loss wttm_loss",
    "streamkd.manifest.manifest": "Manifest scan",
    "streamkd.results.class_bias": "fit_class_bias fold_class_bias",
    "streamkd.results.evaluate": "evaluate",
    "streamkd.store.collection": "StoreCollection open_store",
    "streamkd.store.judgement": "judge_teacher",
    "streamkd.store.merge": "merge",
    "streamkd.store.reader": "LogitStore",
    "streamkd.store.verify": "verify",
    "streamkd.stream.join": "join",
    "streamkd.stream.order.worker_slice": "WorkerSlice",
    "streamkd.stream.stream": "Stream",
    "streamkd.sweeps.sweep": "sweep",
    "streamkd.teachers.import_logits": "import_logits",
    "streamkd.teachers.load_teacher": "load_teacher",
    "streamkd.teachers.plan": "plan",
    "streamkd.teachers.teach": "teach",
    "streamkd.teachers.teacher": "Teacher",
    "streamkd.teachers.write_store": "ImageBatch write_store",
    "streamkd.training.distiller": "Distiller",
    "streamkd.views.operation": "ViewOperation",
    "streamkd.views.views": "Views",
    "streamkd.whole_job.distill": "distill",
}
_MODULES = {name: module for module, names in _NAMES.items() for name in names.split()}
# Names of earlier releases, which scripts may still use.
_FORMER = {"Share": "WorkerSlice"}

__all__ = sorted(_MODULES)


def __getattr__(name: str) -> Any:
    current = _FORMER.get(name, name)
    if current not in _MODULES:
        raise AttributeError(f"module 'streamkd' has no attribute {name!r}")
    importlib.import_module("streamkd.file_access").check_system()
    value = getattr(importlib.import_module(_MODULES[current]), current)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return ["__version__", *__all__]

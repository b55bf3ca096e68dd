"""The names of `streamkd`: imported late, known to editors, and the only ones that `dir` lists."""

import ast
import inspect
import pickle
import traceback
import typing
from pathlib import Path

import pytest

import streamkd

# Arguments by which scripts call, in their order; `*` before those that have no position.
PIXELS = "image_size color_mode interpolation crop_to_aspect_ratio pad_to_aspect_ratio"
ARGUMENTS = {
    "Distiller": "student * optimizer learning_rate schedule warm_up weight_decay clip_norm "
    "accumulate ema temperature label_weight label_smoothing student_preprocess model_output jit "
    "steps_per_call metrics on_nonfinite loss standardize",
    "Distiller.fit": "self stream * epochs validation run resume progress callbacks class_weight "
    "save_every stop arguments extend",
    "EnsembleStore": "members rule",
    "EnsembleStore.write": "self out * images codec progress",
    "Keys": "data offsets",
    "LogitStore": "path io",
    "Manifest": "root keys labels class_names weights passed_over multi_hot",
    "Member": "store weight dustbin oversampling",
    "Stream.batches": "self start stop share",
    "Stream.check_share": "self share",
    "Stream.dataset": "self start stop share",
    "Stream.indices": "self step share",
    "Stream.refuse": "self error steps share",
    "StreamkdError": "message * key",
    "Teacher": "answer * name output preprocess removed num_outputs image_size num_channels "
    "weights_digest drop_output",
    "ViewOperation": "name version function",
    "Views": "count * crop flip color erase mixup cutmix canonical_size operation seed",
    "WorkerSlice": "* worker num_workers num_replicas",
    "SpecialistImages": "images dustbin oversampling",
    "cluster_classes": "store num_specialists * temperature seed",
    "combine_stores": "stores weights rule",
    "compare_stores": "stores images * weights rule sample seed progress",
    "distill": "images teacher student out * validation validation_split baseline budget "
    "image_size class_names student_preprocess seed trust progress views crop flip color erase "
    "mixup cutmix canonical_size codec epochs batch_size learning_rate temperature label_weight "
    "cache loss optimizer",
    "distillation_loss": "teacher_logits student_logits * temperature",
    "evaluate": f"model images * store {PIXELS} decode exif background class_names "
    "teacher_class_map model_output batch_size max_pixels trust progress",
    "export": "model out * format precision images max_images image_size class_names model_output "
    "batch_size trust progress",
    "import_logits": "logits keys images out * output teacher logits_dataset keys_dataset "
    "class_names **options",
    "join": "images store * weights rule image_size batch_size seed shuffle color_mode "
    "interpolation crop_to_aspect_ratio pad_to_aspect_ratio decode exif background missing augment "
    "views operation balance views_per_decode on_bad max_pixels cache cache_directory cache_bytes "
    "classes teacher_class_map progress",
    "label_distillation_loss": "teacher_logits student_logits * temperature",
    "label_loss": "labels label_shares student_logits * smoothing",
    "load_teacher": "source * preprocess output drop_output model_output name trust **service",
    "merge": "paths out * images index progress",
    "open_store": "path io",
    "pack_targets": "images targets weights",
    "packed_accuracy": "packed student_logits",
    "packed_loss": "* temperature label_weight loss",
    "plan": "images * store teacher views codecs max_kl sample seed batch_size class_names "
    "progress clock **pixels",
    "read_clusters": "path",
    "scan": "directory * labels class_names class_map follow_links validation_split subset seed "
    "stratify progress root",
    "specialist_images": "images classes * others seed dustbin",
    "sweep": "images store student out * temperature label_weight loss learning_rate seed "
    "validation validation_split epochs batch_size image_size missing on_bad cache "
    "views_per_decode balance optimizer schedule warm_up weight_decay clip_norm accumulate ema "
    "label_smoothing standardize student_preprocess jit on_nonfinite at_once resume trust "
    "progress",
    "teach": f"images teacher out * {PIXELS} decode exif background batch_size codec class_names "
    "views shard on_bad max_pixels cache cache_directory cache_bytes progress",
    "verify": "path * images sample seed progress",
    "write_store": f"images out answer * teacher {PIXELS} decode exif background class_names "
    "batch_size codec progress",
}


@pytest.mark.parametrize("name", ARGUMENTS)
def test_arguments_keep_their_names_and_their_order(name):
    value = streamkd
    for part in name.split("."):
        value = getattr(value, part)
    words = []
    for argument in inspect.signature(value).parameters.values():
        if argument.kind is argument.KEYWORD_ONLY and "*" not in words:
            words.append("*")
        words.append("**" * (argument.kind is argument.VAR_KEYWORD) + argument.name)
    assert " ".join(words) == ARGUMENTS[name]


def test_editors_find_each_name_where_it_is_imported_from():
    tree = ast.parse(Path(streamkd.__file__).read_text())
    (block,) = (
        node
        for node in tree.body
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
    )
    typed = {alias.asname: node.module for node in block.body for alias in node.names}
    assert typed == streamkd._MODULES
    assert all(alias.name == alias.asname for node in block.body for alias in node.names)


def test_dir_lists_public_names_only():
    assert set(dir(streamkd)) == {"__version__", *streamkd.__all__}
    assert not {"Any", "importlib", "annotations", "Share"} & set(dir(streamkd))


def test_type_hints_of_public_classes_are_read_in_their_own_modules():
    hints = {name: typing.get_type_hints(getattr(streamkd, name)) for name in streamkd.__all__}
    assert hints["Views"]["operation"] == streamkd.ViewOperation | None
    assert hints["ImageBatch"]["keys"] == list[bytes]
    assert hints["WorkerSlice"]["num_workers"] is int


def public_classes():
    values = {name: getattr(streamkd, name) for name in streamkd.__all__}
    return {name: value for name, value in values.items() if isinstance(value, type)}


def test_the_source_of_a_public_class_is_found():
    classes = public_classes()
    del classes["StreamkdWarning"]  # see the next test
    for name, value in classes.items():
        source, first = inspect.getsourcelines(value)
        assert any(line.startswith(f"class {name}") for line in source)
        lines = Path(inspect.getsourcefile(value)).read_text().splitlines(keepends=True)
        assert lines[first - 1 : first - 1 + len(source)] == source
        assert inspect.getmodule(value).__file__ == inspect.getsourcefile(value)


def test_pytest_xdist_can_send_the_module_of_a_warning():
    """It sends the built-in types alone, to the process that prints the warnings of a test."""
    assert type(streamkd.StreamkdWarning.__module__) is str


def test_a_public_class_is_shown_as_it_is_imported():
    for name, value in public_classes().items():
        assert repr(value) == f"<class 'streamkd.{name}'>"
        assert value.__module__ == "streamkd" == str(value.__module__)
        assert type(str(value.__module__)) is str
    error = streamkd.StreamkdError("no")
    assert traceback.format_exception_only(error) == ["streamkd.StreamkdError: no\n"]


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_pickle_names_what_is_imported_and_nothing_of_ours(protocol):
    for value in public_classes().values():
        for pickled in (pickle.dumps(value, protocol), pickle._dumps(value, protocol)):
            assert pickle.loads(pickled) is value
            assert b"streamkd." not in pickled
            assert b"_Module" not in pickled
    assert pickle.loads(pickle.dumps(streamkd.Views(2), protocol)) == streamkd.Views(2)

"""A model file is data until the user trusts it: what may act when it is loaded is refused.

Each attack names the published report that it follows. A canary file shows that nothing ran.
"""

import errno
import io
import json
import os
import struct
import zipfile

import h5py
import helpers
import keras
import numpy as np
import pytest
import tensorflow as tf
import tf_keras
from attack_helpers import model_parts

from streamkd.codes import StreamkdWarning
from streamkd.errors import StudentError, TeacherError
from streamkd.models import allowed_objects
from streamkd.models.families import load_model

FAMILIES = {"tf_keras": tf_keras, "keras": keras}


@pytest.fixture(scope="module")
def parts_of(tmp_path_factory):
    """Gives the parts of a small functional model's file, by the name of its family."""
    parts = {
        name: model_parts(family, tmp_path_factory.mktemp(name))
        for name, family in FAMILIES.items()
    }
    return lambda family: dict(parts[family])


@pytest.fixture(params=FAMILIES)
def family(request):
    return request.param


def write(path, parts, *, before=b"", after=b""):
    """Writes a model file of parts."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as file:
        for name, data in parts.items():
            file.writestr(name, data)
    path.write_bytes(before + packed.getvalue() + after)
    return path


def with_layer(parts, layer):
    """Returns the parts with one more layer in the configuration."""
    config = json.loads(parts["config.json"])
    config["config"]["layers"].append(layer)
    return {**parts, "config.json": json.dumps(config)}


def with_weights(parts, change):
    """Returns the parts after `change` was called on the HDF5 file of the weights.

    `change` changes the file, or returns the bytes of another.
    """
    weights = io.BytesIO(parts["model.weights.h5"])
    with h5py.File(weights, "r+") as file:
        changed = change(file)
    return {**parts, "model.weights.h5": changed or weights.getvalue()}


def first_dataset(file):
    """Returns the name of the kernel."""
    names = []

    def look(name, part):
        if isinstance(part, h5py.Dataset) and part.shape == (3, 2):
            names.append(name)

    file.visititems(look)
    return names[0]


def layer(class_name, config, module="keras.layers", inbound=(), **more):
    return {
        "module": module,
        "class_name": class_name,
        "config": {"name": "added", **config},
        "registered_name": None,
        "name": "added",
        "inbound_nodes": list(inbound),
        **more,
    }


def function(name, module="builtins"):
    return {"module": module, "class_name": "function", "config": name, "registered_name": name}


# The layer that an attack adds, and the words of the refusal.
ATTACKS = {
    "CVE-2024-3660: bytecode of a lambda": (
        layer("Lambda", {"function": {"class_name": "__lambda__", "config": {"code": "4wAA"}}}),
        "the layer Lambda runs code from the file",
    ),
    "a Lambda that names a function of any module": (
        layer("Lambda", {"function": function("system", "os")}),
        "the layer Lambda runs code from the file",
    ),
    "CVE-2025-1550: a function of any module in a layer of Keras": (
        layer("Activation", {"activation": function("system", "os")}),
        "it calls the function 'system' of the module 'os'",
    ),
    "CVE-2025-1550: a class of any module": (
        layer("Popen", {"args": ["touch"]}, module="subprocess"),
        "'Popen' is of the module 'subprocess', which is not Keras' own",
    ),
    "CVE-2025-8747: Keras' own download function": (
        layer("Activation", {"activation": function("get_file", "keras.utils")}),
        "it calls the function 'get_file' of the module 'keras.utils'",
    ),
    "CVE-2025-9906: safe mode switched off from within": (
        layer(
            "Activation",
            {"activation": function("enable_unsafe_deserialization", "keras.config")},
        ),
        "it calls the function 'enable_unsafe_deserialization'",
    ),
    "CVE-2025-12058: a vocabulary read from a path": (
        layer("StringLookup", {"vocabulary": "/etc/passwd"}),
        "the layer StringLookup reads a vocabulary",
    ),
    "the same by another layer": (
        layer("TextVectorization", {"vocabulary": "http://example.invalid/words"}),
        "the layer TextVectorization reads a vocabulary",
    ),
    "the same by integers": (
        layer("IntegerLookup", {"vocabulary": "/etc/passwd"}),
        "the layer IntegerLookup reads a vocabulary",
    ),
    "CVE-2025-49655: a pickled PyTorch module": (
        layer("TorchModuleWrapper", {"module": "gASV"}, module="keras.layers"),
        "the layer TorchModuleWrapper unpickles",
    ),
    "CVE-2026-1462: another model from a path": (
        layer("TFSMLayer", {"filepath": "/tmp/model"}),
        "the layer TFSMLayer loads another model",
    ),
    "any operation of TensorFlow, by its definition": (
        layer("TensorFlowOpLayer", {"node_def": {"op": "WriteFile"}}),
        "'TensorFlowOpLayer' is not on the list",
    ),
    "an allowed class whose second name is another class of the module": (
        layer(
            "RMSNormalization",
            {},
            module="tf_keras.src.layers.core.lambda_layer",
            registered_name="Lambda",
        ),
        "'RMSNormalization' has the second name 'Lambda'",
    ),
    "an allowed function whose second name is another function": (
        layer(
            "Activation",
            {
                "activation": {
                    **function("relu", "keras.activations"),
                    "registered_name": "deserialize",
                }
            },
        ),
        "'relu' has the second name 'deserialize'",
    ),
    "a class without a module beside a name that tf_keras registers": (
        {
            "class_name": "StringLookup",
            "registered_name": "Custom>Adam",
            "config": {"vocabulary": "/etc/passwd"},
        },
        "the layer StringLookup reads a vocabulary",
    ),
    "the same with a module": (
        layer("Lambda", {}, registered_name="Custom>Adam"),
        "the layer Lambda runs code from the file",
    ),
    "an operation that writes files": (
        layer("TFOpLambda", {"function": "io.write_file"}),
        "an operation layer calls TensorFlow's function 'io.write_file'",
    ),
    "an operation that reads files": (
        layer("SlicingOpLambda", {"function": "io.read_file"}),
        "an operation layer calls TensorFlow's function 'io.read_file'",
    ),
    "an operation that calls Python": (
        layer("TFOpLambda", {"function": "numpy_function"}),
        "an operation layer calls TensorFlow's function 'numpy_function'",
    ),
    "an operation that calls a function": (
        layer("Map", {}, module="keras.src.ops.core"),
        "it calls the operation 'Map'",
    ),
    "a module within Keras that is no layer": (
        layer("Dense", {}, module="keras.src.utils.file_utils"),
        "'Dense' is of the module 'keras.src.utils.file_utils'",
    ),
    "a module that only looks like Keras": (
        layer("Dense", {}, module="keras_evil.layers"),
        "'Dense' is of the module 'keras_evil.layers'",
    ),
    "a type that is imported": (
        layer("Dense", {"units": {"class_name": "__typespec__", "module": "os", "config": []}}),
        "'__typespec__' is of the module 'os'",
    ),
    "a nested initializer": (
        layer("Dense", {"kernel_initializer": layer("system", {}, module="os")}),
        "'system' is of the module 'os'",
    ),
    "an initializer within the arguments of a call": (
        layer("Add", {}, inbound=[{"args": [function("load", "keras.saving")], "kwargs": {}}]),
        "it calls the function 'load' of the module 'keras.saving'",
    ),
    "a class that nobody registered": (
        layer("Mine", {}, module=None, registered_name="pack>Mine"),
        "'Mine' is not on the list of Keras' layers that only compute",
    ),
    "a class name that is no text": (
        layer(["Dense"], {}),
        "it has a class name that is no text",
    ),
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_what_a_file_could_do_when_it_is_loaded_is_refused(
    family, attack, parts_of, tmp_path, monkeypatch
):
    monkeypatch.delattr(FAMILIES[family].models, "load_model")  # Keras must not see the file
    added, words = ATTACKS[attack]
    path = write(tmp_path / "evil.keras", with_layer(parts_of(family), added))
    with pytest.raises(TeacherError) as refused:
        load_model(path)
    assert words in str(refused.value)
    assert "add `--trust` if the file is your own" in str(refused.value)


def test_nothing_runs_before_the_refusal(family, parts_of, tmp_path):
    canary = tmp_path / "ran"
    evil = layer(
        "Lambda",
        {"function": function("system", "os")},
        inbound=[["_CONSTANT_VALUE", -1, f"touch {canary}", {}]],
    )
    path = write(tmp_path / "evil.keras", with_layer(parts_of(family), evil))
    with pytest.raises(StudentError):
        load_model(path, refusal=StudentError)
    assert not canary.exists()


def external(file, secret):
    name = first_dataset(file)
    del file[name]
    file.create_dataset(name, shape=(3, 2), dtype="f4", external=[(secret, 0, 24)])


def virtual(file, secret):
    name = first_dataset(file)
    del file[name]
    layout = h5py.VirtualLayout((3, 2), "f4")
    layout[:] = h5py.VirtualSource(secret, "x", shape=(3, 2))
    file.create_virtual_dataset(name, layout)


def linked(file, secret):
    name = first_dataset(file)
    del file[name]
    file[name] = h5py.ExternalLink(secret, "x")


def softly_linked(file, secret):
    name = first_dataset(file)
    file[f"{name}_"] = h5py.SoftLink(f"/{name}")


def compressed(file, secret):
    name = first_dataset(file)
    del file[name]
    file.create_dataset(name, data=np.zeros((3, 2), np.float32), chunks=(1, 2), compression="gzip")


def without_bytes(file, secret):
    file.create_dataset("huge", shape=(1 << 40,), dtype="f4")


def twice(file, secret):
    file["again"] = file[first_dataset(file)]


def in_a_circle(file, secret):
    file["circle"] = file["/"]


def over_each_other(file, secret):
    """Lets a small array lie over a large one, and be as large: more than the file has bytes."""
    large = file.create_dataset("large", data=np.zeros(270_000, "f4"))
    small = file.create_dataset("small", data=np.zeros(77_777, "f4"))
    begins = large.id.get_offset(), small.id.get_offset()
    file.flush()
    image = file.id.get_file_image()
    for old, new in ((77_777, 270_000), (77_777 * 4, 270_000 * 4), (begins[1], begins[0])):
        image = image.replace(struct.pack("<Q", old), struct.pack("<Q", new))
    return image


def pickled(file, secret):
    name = first_dataset(file)
    del file[name]
    file.create_dataset(name, data=np.void(b"a pickle"))


def text(file, secret):
    file.create_dataset("text", data=["a", "b"])


WEIGHTS = {
    "CVE-2026-1669: external storage": (external, "are read from another file"),
    "a virtual dataset": (virtual, "are read from another file|compressed or in chunks"),
    "an external link": (linked, "are a link, not an array"),
    "a soft link": (softly_linked, "are a link, not an array"),
    "compression": (compressed, "are compressed or in chunks"),
    "CVE-2026-0897: an array without bytes": (without_bytes, "of which the file holds 0 bytes"),
    "an array under two names": (twice, "stand under two names"),
    "groups in a circle": (in_a_circle, "stand under two names"),
    "an array that lies over another": (over_each_other, "lie over each other"),
    "text": (text, "are not numbers"),
    "bytes of no meaning": (pickled, "are not numbers"),
}


@pytest.mark.parametrize("attack", WEIGHTS)
def test_weights_are_plain_arrays_within_the_file(family, attack, parts_of, tmp_path):
    change, words = WEIGHTS[attack]
    secret = tmp_path / "secret"
    np.arange(6, dtype="f4").tofile(secret)
    parts = with_weights(parts_of(family), lambda file: change(file, str(secret)))
    with pytest.raises(TeacherError, match=words):
        load_model(write(tmp_path / "evil.keras", parts))


def test_a_file_is_one_zip_from_its_first_byte_to_its_last(family, parts_of, tmp_path):
    parts = parts_of(family)
    for before, after, words in (
        (b"\x89HDF\r\n\x1a\n" + bytes(504), b"", "it does not begin as a zip"),
        (b"", b"\x89HDF\r\n\x1a\n" + bytes(504), "something stands behind it"),
        (b"PK\x03\x04" + bytes(500), b"", "something stands in front of its zip"),
    ):
        with pytest.raises(TeacherError, match=words):
            load_model(write(tmp_path / "two.keras", parts, before=before, after=after))


def test_the_name_and_the_bytes_of_a_file_agree(family, parts_of, tmp_path):
    with pytest.raises(TeacherError, match="its name does not end in"):
        load_model(write(tmp_path / "model.h5", parts_of(family)))


def test_a_part_that_stands_twice_or_is_unknown_is_refused(family, parts_of, tmp_path):
    parts = parts_of(family)
    path = write(tmp_path / "twice.keras", parts)
    with (
        pytest.warns(UserWarning, match="Duplicate name"),
        zipfile.ZipFile(path, "a") as file,
    ):
        file.writestr("config.json", "{}")
    with pytest.raises(TeacherError, match="it has 2 parts named config"):
        load_model(path)
    del parts["model.weights.h5"]
    with pytest.raises(TeacherError, match=r"it has 0 parts named model\.weights\.h5"):
        load_model(write(tmp_path / "none.keras", parts))
    more = {**parts_of(family), "assets/vocabulary": "a"}
    with pytest.raises(TeacherError, match="it has a part 'assets/vocabulary'"):
        load_model(write(tmp_path / "more.keras", more))


@pytest.mark.parametrize("part", ["config.json", "metadata.json"])
@pytest.mark.parametrize("data", ["[" * 200_000, "{", "[]", "7", '"x"', "null", "{}"])
def test_odd_json_is_refused(family, part, data, parts_of, tmp_path):
    with pytest.raises(TeacherError, match=r"could not be loaded|is not a `\.keras` file"):
        load_model(write(tmp_path / "odd.keras", {**parts_of(family), part: data}))


def test_a_configuration_that_is_nested_deeply_is_refused(family, parts_of, tmp_path):
    deep = 0
    for _ in range(300):
        deep = [deep]
    parts = with_layer(parts_of(family), layer("Dense", {"units": deep}))
    with pytest.raises(TeacherError, match="is nested more than 200 levels deep"):
        load_model(write(tmp_path / "deep.keras", parts))


def inputs_of(family, layer_name, call=0):
    """Returns a call that takes the output of a layer, in the form of the family."""
    if family == "tf_keras":
        return [[layer_name, call, 0, {}]]
    tensor = {"shape": [None, 8, 8, 3], "dtype": "float32", "keras_history": [layer_name, call, 0]}
    return {"args": [{"class_name": "__keras_tensor__", "config": tensor}], "kwargs": {}}


def first_layer(parts):
    return json.loads(parts["config.json"])["config"]["layers"][0]["name"]


@pytest.mark.parametrize("source", ["added", "nobody", "the first layer, called again"])
def test_a_layer_that_waits_for_ever_is_refused(family, source, parts_of, tmp_path):
    parts = parts_of(family)
    call = inputs_of(family, source)
    if source.startswith("the first"):
        call = inputs_of(family, first_layer(parts), call=7)
    path = write(tmp_path / "x.keras", with_layer(parts, layer("Flatten", {}, inbound=[call])))
    words = {
        "tf_keras": "the layer 'added' waits for a layer that is never called",
        "keras": "Invalid Functional model configuration|Unknown layer",
    }
    with pytest.raises(TeacherError, match=words[family]):
        load_model(path)


def test_a_layer_that_waits_in_the_form_of_keras_3_is_refused(parts_of, tmp_path):
    call = {"args": [["added", 0, 0, {}]], "kwargs": {}}
    path = write(
        tmp_path / "x.keras", with_layer(parts_of("tf_keras"), layer("Add", {}, inbound=[call]))
    )
    with pytest.raises(TeacherError, match="the layer 'added' waits"):
        load_model(path)


def test_an_output_that_a_layer_does_not_have_is_refused(parts_of, tmp_path):
    parts = parts_of("tf_keras")
    name = first_layer(parts)
    call = [name, 0, 0, {"y": [name, 0, 8]}]
    added = layer("TFOpLambda", {"function": "__operators__.add"}, inbound=[call])
    with pytest.raises(TeacherError, match=f"takes a second output of '{name}', which has one"):
        load_model(write(tmp_path / "x.keras", with_layer(parts, added)))


def test_a_layer_of_several_outputs_is_loaded(tmp_path):
    image = tf_keras.Input((4, 3))
    states = tf_keras.layers.SimpleRNN(2, return_state=True, unroll=True)(image)
    first, second, third = tf.unstack(image, axis=2)
    sums = tf_keras.layers.Concatenate()([*states, first + third, second])
    tf_keras.Model(image, sums).save(tmp_path / "m.keras")
    assert load_model(tmp_path / "m.keras").output_shape == (None, 12)


def test_a_layer_that_computes_from_constants_alone_is_refused(family, parts_of, tmp_path):
    call = {
        "tf_keras": ["_CONSTANT_VALUE", -1, [1.0], {"multiples": [4_000_000_000]}],
        "keras": {"args": [[1.0]], "kwargs": {}},
    }
    added = {
        "tf_keras": layer("TFOpLambda", {"function": "tile"}, inbound=[call["tf_keras"]]),
        "keras": layer(
            "Repeat",
            {"repeats": 4_000_000_000},
            module="keras.src.ops.numpy",
            inbound=[call["keras"]],
        ),
    }
    path = write(tmp_path / "x.keras", with_layer(parts_of(family), added[family]))
    with pytest.raises(TeacherError, match="the layer 'added' computes from constants alone"):
        load_model(path)


def test_two_layers_of_one_name_are_refused(family, parts_of, tmp_path):
    parts = parts_of(family)
    added = json.loads(parts["config.json"])["config"]["layers"][-1]
    with pytest.raises(TeacherError, match="two layers have the name"):
        load_model(write(tmp_path / "x.keras", with_layer(parts, added)))


LARGE = {
    "a kernel": {"class_name": "Conv2D", "filters": 1, "kernel_size": [40_000, 40_000]},
    "a kernel of many groups": {
        "class_name": "DepthwiseConv2D",
        "depth_multiplier": 10**9,
        "kernel_size": [3, 3],
    },
    "slopes": {"class_name": "PReLU", "shared_axes": None},
}


@pytest.mark.parametrize("what", LARGE)
def test_weights_beyond_those_of_the_file_are_refused(family, what, parts_of, tmp_path):
    parts = parts_of(family)
    config = dict(LARGE[what])
    name = config.pop("class_name")
    if "kernel_size" in config:
        config["padding"] = "same"
    image = json.loads(parts["config.json"])["config"]["layers"][0]
    if name == "PReLU":
        shape = [None, 60_000, 60_000, 3]
        parts["config.json"] = parts["config.json"].replace(
            b"[null, 8, 8, 3]", json.dumps(shape).encode()
        )
    added = layer(name, config, inbound=[inputs_of(family, image["name"])])
    words = r"a layer makes weights of the shape \[.*\], and the file holds 8 weights"
    with pytest.raises(TeacherError, match=words):
        load_model(write(tmp_path / "x.keras", with_layer(parts, added)))


REPEATED = {
    "pictures that are enlarged": ("UpSampling3D", {"size": [2, 2, 10**9]}, "size=1000000000"),
    "in two directions": ("UpSampling2D", {"size": [1025, 1]}, "size=1025"),
    "in one": ("UpSampling1D", {"size": 10**12}, "size=1000000000000"),
    "random operations": ("RandAugment", {"num_ops": 10**9}, "num_ops=1000000000"),
    "chains of them": ("AugMix", {"num_chains": 101}, "num_chains=101"),
    "the length of a chain": ("AugMix", {"chain_depth": 10**9}, "chain_depth=1000000000"),
    "a norm": ("SpectralNormalization", {"power_iterations": 10**9}, "power_iterations="),
}


@pytest.mark.parametrize("what", REPEATED)
def test_a_step_that_is_repeated_without_end_is_refused(family, what, parts_of, tmp_path):
    name, config, words = REPEATED[what]
    path = write(tmp_path / "x.keras", with_layer(parts_of(family), layer(name, config)))
    with pytest.raises(TeacherError, match=f"the layer {name} has {words}.*, and .* is the most"):
        load_model(path)


@pytest.mark.parametrize("pattern", ["(a|a)*b", "(a+)+", ".*.*.*.*", "a{9}{9}", "[ab]*"])
def test_a_pattern_that_matches_without_end_is_refused(pattern, parts_of, tmp_path):
    policies = {"default_policy": None, "policy_map": {pattern: None}}
    policy = {"module": "keras", "class_name": "DTypePolicyMap", "config": policies}
    added = layer("Dense", {"units": 1, "dtype": policy})
    with pytest.raises(TeacherError, match="its dtype policies are for layers of the pattern"):
        load_model(write(tmp_path / "x.keras", with_layer(parts_of("keras"), added)))


NO_MODELS = {
    "a layer": {"module": "keras.layers", "class_name": "Flatten", "config": {"name": "x"}},
    "an initializer": {"module": "keras.initializers", "class_name": "Zeros", "config": {}},
    "a function": {**function("relu"), "registered_name": "function"},
    "a tensor": {"class_name": "__tensor__", "config": {"value": [1.0], "dtype": "float32"}},
    "nothing": {"class_name": "Functional"},
}


@pytest.mark.parametrize("what", NO_MODELS)
def test_what_is_no_model_is_refused(family, what, parts_of, tmp_path):
    parts = {**parts_of(family), "config.json": json.dumps(NO_MODELS[what])}
    with pytest.raises(TeacherError, match="could not be loaded as a Keras model: ") as refused:
        load_model(write(tmp_path / "x.keras", parts))
    if family == "tf_keras":
        assert "which is no model" in str(refused.value)


def test_damaged_files_are_refused_or_loaded_and_nothing_else(family, parts_of, tmp_path):
    whole = write(tmp_path / "whole.keras", parts_of(family)).read_bytes()
    rng = np.random.default_rng(20261127)
    for _ in range(40):
        data = bytearray(whole)
        for place in rng.integers(0, len(data), rng.integers(1, 5)):
            data[place] = rng.integers(256)
        (tmp_path / "x.keras").write_bytes(data[: rng.integers(1, 2 * len(data))])
        try:
            assert load_model(tmp_path / "x.keras").output_shape == (None, 2)
        except TeacherError as error:
            assert str(error).startswith(str(tmp_path / "x.keras"))  # noqa: PT017


def test_a_zip_with_a_long_list_of_names_is_refused(family, parts_of, tmp_path):
    folders = {f"{number:0200d}/": b"" for number in range(4500)}
    path = write(tmp_path / "x.keras", {**parts_of(family), **folders})
    with pytest.raises(TeacherError, match="its zip lists over 1 MiB of names"):
        load_model(path)


def test_a_configuration_of_too_many_layers_is_refused(family, parts_of, tmp_path, monkeypatch):
    from streamkd.models import model_file

    monkeypatch.setattr(model_file, "MAX_OBJECTS", 3)
    with pytest.raises(TeacherError, match="has over 3 layers and their parts"):
        load_model(write(tmp_path / "x.keras", parts_of(family)))


def test_a_full_temporary_directory_is_named(family, parts_of, tmp_path, monkeypatch):
    from streamkd.models import model_file

    def full(**options):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(model_file.tempfile, "TemporaryDirectory", full)
    with pytest.raises(TeacherError) as refused:
        load_model(write(tmp_path / "x.keras", parts_of(family)))
    assert "cannot be read or copied: No space left on device" in str(refused.value)
    assert "look at the room in the temporary directory" in str(refused.value)


def test_a_layer_larger_than_the_weights_of_the_file_is_refused(family, parts_of, tmp_path):
    parts = parts_of(family)
    config = json.loads(parts["config.json"])
    config["config"]["layers"][-1]["config"]["units"] = 10**12
    with pytest.raises(TeacherError, match=r"the layer Dense has units=1000000000000, and"):
        load_model(write(tmp_path / "x.keras", {**parts, "config.json": json.dumps(config)}))


def test_a_pipe_in_place_of_a_file_is_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "pipe.keras")
    with pytest.raises(TeacherError, match="it is no ordinary file"):
        load_model(tmp_path / "pipe.keras")


def test_trust_loads_the_file_and_says_what_would_have_been_refused(family, tmp_path):
    module = FAMILIES[family]
    layers = [module.Input((3,)), module.layers.Lambda(lambda x: 2 * x)]
    module.Sequential(layers).save(tmp_path / "own.keras")
    with pytest.warns(
        StreamkdWarning, match="would be refused without --trust: the layer Lambda"
    ) as w:
        model = load_model(tmp_path / "own.keras", trust=True)
    assert w[0].message.code == "model_trusted"
    assert np.asarray(model(np.ones((1, 3), np.float32))).tolist() == [[2, 2, 2]]


def test_a_class_that_the_user_s_program_registered_is_loaded(family, tmp_path):
    module = FAMILIES[family]

    @module.saving.register_keras_serializable(package="tests")
    class Doubled(module.layers.Layer):
        def call(self, inputs):
            return 2 * inputs

    model = module.Sequential([module.Input((3,)), Doubled()])
    model.save(tmp_path / "own.keras")
    loaded = load_model(tmp_path / "own.keras")
    assert np.asarray(loaded(np.ones((1, 3), np.float32))).tolist() == [[2, 2, 2]]


def ordinary(module):
    """Returns a model with what people put into theirs."""
    layers = module.layers
    image = module.Input((16, 16, 3))
    x = layers.Rescaling(1 / 127.5, offset=-1)(image)
    x = layers.RandomFlip("horizontal")(layers.RandomRotation(0.1)(x))
    x = x[:, 2:14] / 2.0 - 0.5 + 1.0 * x[:, 2:14]
    x = layers.SeparableConv2D(4, 3, activation=module.activations.relu, padding="same")(x)
    x = layers.BatchNormalization()(x)
    x = layers.Conv2D(4, 1, kernel_regularizer="l2", kernel_constraint="max_norm")(x)
    x = layers.Concatenate()([layers.ReLU(6.0)(x), layers.LeakyReLU()(x)])
    inner = module.Sequential([module.Input((12, 16, 8)), layers.GlobalAveragePooling2D()])
    inner.compile("adam", "mse")
    x = layers.Dropout(0.1)(inner(x))
    x = layers.Dense(3, kernel_initializer=module.initializers.HeNormal(), dtype="float32")(x)
    model = module.Model(image, layers.Activation("softmax")(x))
    model.compile(module.optimizers.Adam(1e-3), "categorical_crossentropy", metrics=["accuracy"])
    return model


def preprocessed(module):
    """Returns a model with an application's preprocessing, and a body as MobileNetV2 has."""
    layers = module.layers
    image = module.Input((8, 8, 3))
    body = module.Sequential([module.Input((8, 8, 3)), layers.ZeroPadding2D(((0, 1), (0, 1)))])
    body.add(layers.DepthwiseConv2D(3, strides=2, use_bias=False))
    body.add(layers.BatchNormalization(epsilon=1e-3, momentum=0.999))
    body.add(layers.ReLU(6.0))
    body.add(layers.GlobalAveragePooling2D())
    x = module.applications.mobilenet_v2.preprocess_input(image)
    return module.Model(image, layers.Dense(3)(body(x)))


def application(module):
    image = module.Input((32, 32, 3))
    body = module.applications.MobileNetV2(
        weights=None, include_top=False, input_shape=(32, 32, 3), alpha=0.35, pooling="avg"
    )
    return module.Model(image, module.layers.Dense(3)(body(image)))


def nested(module):
    """Returns a model of models that are called several times."""
    layers = module.layers
    image = module.Input((8, 8, 3))
    first = module.Sequential([module.Input((8, 8, 3)), layers.Conv2D(3, 3, padding="same")])
    second = module.Model(image, layers.ReLU()(first(first(image))))
    outer = module.Input((8, 8, 3))
    both = layers.Concatenate()([second(outer), second(layers.Dense(3)(outer))])
    return module.Model(outer, layers.Dense(2)(layers.Flatten()(both)))


def recurrent(module):
    layers = module.layers
    parts = [layers.Reshape((2, 24)), layers.Bidirectional(layers.SimpleRNN(2, unroll=True))]
    return module.Sequential([module.Input((4, 4, 3)), *parts, layers.Dense(2)])


SLOW = pytest.param(application, marks=pytest.mark.slow)


@pytest.mark.parametrize("build", [ordinary, preprocessed, nested, recurrent, SLOW])
def test_models_as_people_save_them_are_loaded_without_trust(family, build, tmp_path):
    model = build(FAMILIES[family])
    model.save(tmp_path / "model.keras")
    loaded = load_model(tmp_path / "model.keras")
    images = np.random.default_rng(0).uniform(0, 255, (2, *model.input_shape[1:])).astype("f4")
    np.testing.assert_array_equal(model(images, training=False), loaded(images, training=False))


def test_a_mixed_precision_model_is_loaded_without_trust(family, tmp_path):
    module = FAMILIES[family]
    layers = module.layers
    image = module.Input((8,))
    module.Model(image, layers.Dense(3, dtype="mixed_float16")(image)).save(tmp_path / "m.keras")
    assert load_model(tmp_path / "m.keras").output_shape == (None, 3)


def test_policies_for_the_layers_of_a_model_are_loaded_without_trust(tmp_path):
    policies = keras.dtype_policies.DTypePolicyMap()
    policies["m/.*"] = policies["m/query"] = keras.dtype_policies.DTypePolicy("mixed_float16")
    image = keras.Input((4, 8))
    attention = keras.layers.MultiHeadAttention(2, 2, name="m", dtype=policies)
    keras.Model(image, attention(image, image)).save(tmp_path / "m.keras")
    loaded = load_model(tmp_path / "m.keras").layers[-1].dtype_policy
    assert set(loaded) == {"m/.*", "m/query"}


@pytest.mark.parametrize("mode", ["int8", "int4", "float8"])
def test_a_quantized_model_is_loaded_without_trust(mode, tmp_path):
    model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(4)])
    model.layers[-1].quantize(mode)
    model.save(tmp_path / "m.keras")
    assert load_model(tmp_path / "m.keras").layers[-1].dtype_policy.quantization_mode == mode


def test_every_layer_of_both_families_is_allowed_or_refused_by_name():
    for module in FAMILIES.values():
        kind = module.layers.Layer
        names = {
            name
            for name, value in vars(module.layers).items()
            if isinstance(value, type) and issubclass(value, kind)
        }
        known = allowed_objects.ALLOWED_LAYERS | set(allowed_objects.REFUSED_LAYERS)
        assert names - known == set()
    assert not allowed_objects.ALLOWED_LAYERS & set(allowed_objects.REFUSED_LAYERS)


def test_the_file_is_read_once_and_the_checked_bytes_are_loaded(family, tmp_path, monkeypatch):
    from streamkd.models import model_file

    model = helpers.small_model(family)
    path = tmp_path / "model.keras"
    model.save(path)
    check = model_file.check_weights

    def check_and_replace(*arguments):
        path.write_bytes(b"replaced by somebody else")
        return check(*arguments)

    monkeypatch.setattr(model_file, "check_weights", check_and_replace)
    loaded = load_model(path)
    for own, read in zip(model.get_weights(), loaded.get_weights(), strict=True):
        np.testing.assert_array_equal(own, read)

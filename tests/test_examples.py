"""The examples run; `own_view.py` is run beside its subject, in test_operation.py."""

from __future__ import annotations

import importlib.util
import sys

import numpy as np
import pytest
from helpers import draw_directory
from process_helpers import ROOT, finished

import streamkd as kd

EXAMPLES = ROOT / "examples"


# Runs a script as on a machine where some modules are not installed.
WITHOUT_MODULES = """
import runpy, sys
for name in sys.argv[1].split(","):
    sys.modules[name] = None
sys.argv = sys.argv[2:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


class TestPytorchStyleStore:
    EXAMPLE = EXAMPLES / "pytorch_style_store.py"

    def test_a_store_is_written_without_tensorflow_and_again_from_where_it_is(
        self, directory, tmp_path
    ):
        path = tmp_path / "teacher.h5"
        for _ in range(2):  # the second time it is finished
            out, _ = finished("-c", WITHOUT_MODULES, "tensorflow", self.EXAMPLE, directory, path)
            assert out == f"{path}: 30 images, 3 classes\n"
            assert kd.verify(path, images=kd.scan(directory), progress=False).sound

    def test_without_any_digest_it_says_what_to_install(self, directory, tmp_path):
        path, missing = tmp_path / "teacher.h5", "tensorflow,farmhash"
        line = ("-c", WITHOUT_MODULES, missing, self.EXAMPLE, directory, path)
        _, errors = finished(*line, code=1)
        assert "MissingExtraError: The digest of a file's content needs pyfarmhash" in errors
        assert "`pip install pyfarmhash`" in errors and not path.exists()


def example(name):
    """Returns the module of an example, as imported."""
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def hinton():
    """The module examples/mnist_hinton.py."""
    return example("mnist_hinton")


def test_hintons_flags_have_the_settings_that_were_measured(hinton, capsys):
    args = hinton.parse_args(["--data", "mnist", "--seed", "4"])
    assert (str(args.data), args.seed, args.temperature) == ("mnist", 4, 20.0)
    assert (args.teacher_epochs, args.student_epochs) == (120, 24)
    with pytest.raises(SystemExit):
        hinton.parse_args([])
    assert "the following arguments are required: --data" in capsys.readouterr().err


def test_hintons_networks_are_those_of_the_paper(hinton):
    teacher = hinton.build_teacher(hinton.parse_args(["--data", "mnist"]))
    student = hinton.build_student()
    assert teacher.count_params() == 785 * 1200 + 1201 * 1200 + 1201 * 10
    assert student.count_params() == 785 * 800 + 801 * 800 + 801 * 10


def test_jitter_shifts_each_image_by_whole_pixels_and_only_in_training(hinton):
    images = np.zeros((64, 9, 9, 1), np.float32)
    images[:, 4, 4] = 1
    jitter = hinton.Jitter()
    assert np.array_equal(jitter(images), images)
    shifted = np.asarray(jitter(images, training=True))
    assert np.array_equal(np.sort(shifted.reshape(64, -1)), np.sort(images.reshape(64, -1)))
    rows, columns = np.argwhere(shifted[..., 0])[:, 1:].T - 4
    assert set(rows) == set(columns) == {-2, -1, 0, 1, 2}


@pytest.mark.parametrize("name", ["five_teachers", "partial_teachers"])
def test_teachers_and_students_have_images_of_their_own(name, shared):
    module = example(name)
    args = module.parse_args(["--data", "cifar10", "--seeds", "1", "2"])
    num_teachers = len(module.CLASSES) if name == "partial_teachers" else module.NUM_TEACHERS
    assert num_teachers * args.teacher_images + args.transfer_images <= 5000  # of each class
    assert args.seeds == [1, 2]
    images = kd.scan(shared[0])
    parts = [module.images_of_each_class(images, start, start + 3) for start in (0, 3)]
    assert [part.class_counts for part in parts] == [[3, 3, 3], [3, 3, 3]]
    assert not set(parts[0].keys) & set(parts[1].keys)


def test_classes_of_the_partial_teachers_overlap_and_cover_all_ten():
    classes = example("partial_teachers").CLASSES
    assert [len(names) for names in classes.values()] == [6, 5, 4]
    six, five, four = map(set, classes.values())
    assert six & five and five & four and len(six | five | four) == 10


def test_simple_rules_take_each_class_from_the_teachers_that_know_it():
    class Answers:
        num_views = 2

        def __init__(self, names, probabilities):
            self.class_names, self.probabilities = names, np.array(probabilities)

        def images_of_keys(self, keys):
            return np.arange(len(keys))

        def gather(self, rows):
            return np.log(self.probabilities[np.asarray(rows) // 2]) + 3

    keys = kd.Keys.from_list([b"1.png", b"2.png"])
    images = kd.Manifest(b"/nowhere", keys, [0, 2], ["ant", "bee", "cat"])
    first = Answers(["bee", "ant"], [[0.2, 0.8], [0.6, 0.4]])
    second = Answers(["cat", "bee"], [[0.1, 0.9], [0.75, 0.25]])
    rules = example("partial_teachers").simple_rules([first, second], images)
    largest, mean, mean_of_logs = rules.values()
    assert largest == pytest.approx(np.array([[0.8, 0.9, 0.1], [0.4, 0.6, 0.75]]))
    assert mean == pytest.approx(np.array([[0.8, 0.55, 0.1], [0.4, 0.425, 0.75]]))
    expected = np.array([[0.8, np.sqrt(0.18), 0.1], [0.4, np.sqrt(0.15), 0.75]])
    assert mean_of_logs == pytest.approx(np.log(expected))


@pytest.fixture
def omitted(monkeypatch):
    """The module examples/omitted_digits.py."""
    monkeypatch.syspath_prepend(EXAMPLES)
    path = EXAMPLES / "omitted_digits.py"
    spec = importlib.util.spec_from_file_location("omitted_digits", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    sys.modules.pop("mnist_hinton")  # another import of it is the fixture `hinton`


def test_the_omitted_digits_have_the_settings_that_were_measured(omitted):
    args = omitted.parse_args(["--data", "mnist", "--seeds", "4", "5"])
    assert (str(args.data), args.seeds, args.temperature) == ("mnist", [4, 5], 20.0)
    assert omitted.build_teacher(args).count_params() == 785 * 1200 + 1201 * 1200 + 1201 * 10
    assert [kept for kept, _, _ in omitted.EXPERIMENTS.values()] == [
        (0, 1, 2, 4, 5, 6, 7, 8, 9),
        (7, 8),
    ]


@pytest.mark.slow
def test_the_table_of_omitted_digits_is_printed(omitted, tmp_path, monkeypatch, capsys):
    for part, count in (("train", 60), ("test", 5)):
        digits = {str(digit): count for digit in range(10)}
        draw_directory(tmp_path / part, digits, size=(28, 28))
    monkeypatch.setattr(omitted, "EXPERIMENTS", {"no 3s": ((0, 1, 7, 8), 1, ("206", "109"))})
    words = ["--data", tmp_path, "--out", tmp_path / "runs", "--teacher-epochs", "3"]
    monkeypatch.setattr("sys.argv", ["omitted_digits.py", *map(str, words)])
    omitted.main()
    out = capsys.readouterr().out
    assert "no 3s, before" in out and "no 3s, after" in out and "minutes" in out
    assert len(list(tmp_path.glob("runs/*/repaired.keras"))) == 1

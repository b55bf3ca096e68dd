"""The examples run; `own_view.py` is run beside its subject, in test_operation.py."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest
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


@pytest.fixture(scope="module")
def hinton():
    """The module examples/mnist_hinton.py."""
    spec = importlib.util.spec_from_file_location("mnist_hinton", EXAMPLES / "mnist_hinton.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


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

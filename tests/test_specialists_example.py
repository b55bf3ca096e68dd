"""The example of a generalist and its specialists, without its training."""

from __future__ import annotations

import importlib.util

import pytest
from process_helpers import ROOT

import streamkd as kd


@pytest.fixture(scope="module")
def specialists():
    """The module examples/specialists.py."""
    path = ROOT / "examples" / "specialists.py"
    spec = importlib.util.spec_from_file_location("specialists", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_flags_have_the_settings_that_were_measured(specialists, capsys):
    args = specialists.parse_args(["--data", "cifar10", "--seeds", "1", "2"])
    assert (str(args.data), args.seeds, args.specialists, args.views) == ("cifar10", [1, 2], 3, 8)
    assert (args.generalist_images, args.specialist_images, args.transfer_images) == (
        600,
        1500,
        400,
    )
    assert specialists.build_network(4, flips=True).output_shape == (None, 4)
    with pytest.raises(SystemExit):
        specialists.parse_args([])
    assert "the following arguments are required: --data" in capsys.readouterr().err


def test_the_transfer_set_has_images_that_no_teacher_saw(specialists, directory):
    images = kd.scan(directory)
    first, last = (specialists.images_of_each_class(images, *part) for part in ((0, 2), (2, 5)))
    assert first.class_counts == [2] * 3
    assert not set(first.keys) & set(last.keys)
    assert specialists.without_labels(last).class_names is None

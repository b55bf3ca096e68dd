"""Image options: what is accepted, what is refused, and the way to JSON and back."""

import json
import math

import pytest

from streamkd.checks import check_choice, check_fraction, check_positive
from streamkd.errors import OptionError
from streamkd.image_options import INTERPOLATIONS, ImageOptions, parse_image_size


@pytest.mark.parametrize(
    ("color_mode", "num_channels"), [("grayscale", 1), ("rgb", 3), ("rgba", 4)]
)
def test_the_shape_follows_the_colour_mode(color_mode, num_channels):
    options = ImageOptions(image_size=(4, 6), color_mode=color_mode)
    assert options.num_channels == num_channels and options.shape == (4, 6, num_channels)


@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
def test_options_survive_json(interpolation):
    options = ImageOptions(image_size=[4, 6], interpolation=interpolation, pad_to_aspect_ratio=True)
    assert ImageOptions.from_dict(json.loads(json.dumps(options.to_dict()))) == options
    assert options.image_size == (4, 6)


def test_a_field_of_a_later_version_is_refused_by_name():
    saved = ImageOptions(image_size=(4, 6)).to_dict()
    with pytest.raises(
        OptionError, match=r"unknown field, 'antialias', of a newer streamkd\.\nUpgr"
    ):
        ImageOptions.from_dict({**saved, "antialias": True, "zoom": 2})


def test_the_limit_of_pixels_is_neither_saved_nor_compared_nor_taken_from_a_store():
    options = ImageOptions(image_size=(4, 6), max_pixels=100)
    assert options == ImageOptions(image_size=(4, 6))
    assert "max_pixels" not in options.to_dict()
    with pytest.raises(OptionError, match=r"'max_pixels'.*newer streamkd"):
        ImageOptions.from_dict({**options.to_dict(), "max_pixels": 10**12})
    with pytest.raises(OptionError, match="max_pixels is 0; it must be a positive whole number"):
        ImageOptions(image_size=(4, 6), max_pixels=0)


@pytest.mark.parametrize("size", [160, (160,), (0, 4), (4, -1), (4.0, 4), "4x4", None, (1, 2, 3)])
def test_an_image_size_that_is_no_pair_of_pixels_is_refused(size):
    with pytest.raises(OptionError, match=r"image_size is .*; it must be \(height, width\)"):
        ImageOptions(image_size=size)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"color_mode": "bgr"}, "color_mode is 'bgr'; choose one of grayscale, rgb, rgba"),
        ({"interpolation": "cubic"}, "interpolation is 'cubic'; choose one of bilinear, nearest"),
        ({"crop_to_aspect_ratio": True, "pad_to_aspect_ratio": True}, "exclude each other"),
    ],
    ids=["colour", "interpolation", "both"],
)
def test_values_that_are_no_options_are_refused(arguments, words):
    with pytest.raises(OptionError, match=words):
        ImageOptions(image_size=(4, 4), **arguments)


def test_image_sizes_are_parsed():
    assert parse_image_size("160x120") == (160, 120)
    assert parse_image_size("8X9") == (8, 9)


@pytest.mark.parametrize("text", ["160", "x", "160x", "x160", "-1x2", "1x2x3", "1.5x2", "²x3", ""])
def test_an_image_size_that_cannot_be_parsed_is_refused(text):
    with pytest.raises(OptionError, match=r"write it as HEIGHTxWIDTH, for example 160x160"):
        parse_image_size(text)


@pytest.mark.parametrize("value", [0, -1, math.inf, math.nan])
def test_a_number_that_is_not_positive_is_refused(value):
    with pytest.raises(OptionError, match=r"temperature is .*; it must be a positive number"):
        check_positive("temperature", value)


@pytest.mark.parametrize("value", [-0.1, 1.1, math.nan])
def test_a_fraction_outside_0_to_1_is_refused(value):
    with pytest.raises(OptionError, match=r"label_weight is .*; it must lie between 0 and 1"):
        check_fraction("label_weight", value)


def test_values_that_fit_pass():
    check_positive("temperature", 0.1)
    check_fraction("label_weight", 0)
    check_fraction("label_weight", 1)
    check_choice("missing", "drop", ("raise", "drop"))

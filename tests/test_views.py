"""Views: their parameters, what the parameters depend on, and their distributions."""

import numpy as np
import pytest
from replay_helpers import HASHES

from streamkd.errors import OptionError
from streamkd.views.views import Views

EVERYTHING = Views(3, crop=(0.35, 1.0), flip=True, color=0.4, erase=0.25, mixup=0.8, cutmix=1.0)


def mixing(views, hashes=HASHES):
    """Returns partners, and the parameters of their mixing."""
    partners = views.match(hashes)
    own = np.repeat(hashes[:, None], views.num_views, axis=1)
    return partners, views.draw_mixing(own, np.where(partners < 0, own, hashes[partners]))


def test_the_specification_comes_back_from_a_store():
    for views in (Views(0), Views(2), EVERYTHING, Views(0, canonical_size=(64, 48))):
        assert Views.from_dict(views.to_dict()) == views
    assert Views(0).to_dict() == {"kind": "plain", "count": 1}
    assert EVERYTHING.to_dict()["count"] == EVERYTHING.num_views == 4
    with pytest.raises(OptionError, match=r"'rotate'.*newer streamkd"):
        Views.from_dict({**EVERYTHING.to_dict(), "rotate": 3})


def test_parameters_have_the_shapes_and_types_that_are_stored():
    drawn = {**EVERYTHING.draw(HASHES[:5]), "view_partner": EVERYTHING.match(HASHES[:5])}
    drawn |= mixing(EVERYTHING, HASHES[:5])[1]
    assert set(drawn) == set(EVERYTHING.datasets())
    for name, (dtype, shape) in EVERYTHING.datasets().items():
        assert drawn[name].shape == (5, 4, *shape), name
        assert drawn[name].dtype == dtype, name
    assert Views(2).datasets() == {} == Views(2).draw(HASHES)


def test_view_0_is_the_plain_image():
    drawn = EVERYTHING.draw(HASHES)
    partners, mixed = mixing(EVERYTHING)
    assert np.all(drawn["view_crop"][:, 0] == [0, 0, 1, 1])
    assert not drawn["view_flip"][:, 0].any() and not drawn["view_erase"][:, 0].any()
    assert np.all(drawn["view_color"][:, 0] == 1) and np.all(partners[:, 0] == -1)
    assert np.all(mixed["view_share"][:, 0] == 1) and not mixed["view_paste"][:, 0].any()


def test_draws_depend_on_seed_key_and_view_and_on_nothing_else():
    drawn = EVERYTHING.draw(HASHES)
    subset = np.array([17, 3, 400])
    for name, values in EVERYTHING.draw(HASHES[subset]).items():
        assert np.array_equal(values, drawn[name][subset]), name
    more = Views(7, crop=(0.35, 1.0), flip=True, color=0.4, erase=0.25).draw(HASHES)
    other = Views(3, crop=(0.35, 1.0), seed=1).draw(HASHES)
    assert np.array_equal(more["view_crop"][:, :4], drawn["view_crop"])
    assert not np.isclose(other["view_crop"][:, 1], drawn["view_crop"][:, 1]).all(axis=1).any()
    assert not np.isclose(drawn["view_crop"][:, 1], drawn["view_crop"][:, 2]).all(axis=1).any()


def test_crops_lie_inside_and_keep_the_asked_fraction_of_the_area():
    boxes = Views(4, crop=(0.2, 0.6)).draw(HASHES)["view_crop"][:, 1:].astype(np.float64)
    height, width = boxes[..., 2] - boxes[..., 0], boxes[..., 3] - boxes[..., 1]
    assert boxes.min() >= 0 and boxes.max() <= 1 + 1e-6
    area = height * width
    assert abs(area.min() - 0.2) < 1e-3 and abs(area.max() - 0.6) < 1e-3
    assert abs(area.mean() - 0.4) < 0.005
    ratio = width / height
    assert ratio.min() > 0.749 and ratio.max() < 1.335
    # As often to the left as to the right, and as often above as below.
    room = np.stack([1 - height, 1 - width], axis=-1)
    assert abs((boxes[..., :2] / room).mean() - 0.5) < 0.01


def test_flips_erasures_and_colours_are_as_often_as_they_should_be():
    drawn = EVERYTHING.draw(HASHES)
    assert abs(drawn["view_flip"][:, 1:].mean() - 0.5) < 0.02
    erased = drawn["view_erase"][:, 1:].any(axis=-1)
    assert abs(erased.mean() - 0.25) < 0.02
    boxes = drawn["view_erase"][:, 1:][erased].astype(np.float64)
    area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    assert area.min() > 0.019 and area.max() < 0.334
    colors = drawn["view_color"][:, 1:].reshape(-1, 3)
    assert colors.min() > 0.6 - 1e-6 and colors.max() < 1.4
    assert np.all(np.abs(np.corrcoef(colors.T) - np.eye(3)) < 0.05)


@pytest.mark.parametrize("num_images", [1, 2, 7, 4001])
def test_partners_are_each_others_and_one_of_an_odd_number_is_alone(num_images):
    partners = EVERYTHING.match(HASHES[:num_images])[:, 1:]
    for view in range(3):
        mixed = np.flatnonzero(partners[:, view] >= 0)
        assert len(mixed) == num_images // 2 * 2
        assert np.array_equal(partners[partners[mixed, view], view], mixed)
        assert not np.any(partners[mixed, view] == mixed)
    if num_images > 100:
        assert np.mean(partners[:, 0] == partners[:, 1]) < 0.01
        # Neighbours in the directory become partners as rarely as any other images.
        assert np.mean(np.abs(partners[:, 0] - np.arange(num_images)) < 50) < 0.05


@pytest.mark.parametrize("parameter", [0.2, 0.8, 1.0, 4.0])
def test_mixup_fractions_follow_the_beta_distribution(parameter):
    partners, mixed = mixing(Views(2, mixup=parameter))
    share = mixed["view_share"][:, 1:][partners[:, 1:] >= 0].astype(np.float64)
    expected = np.random.default_rng(0).beta(parameter, parameter, 100_000)
    for limit in np.linspace(0.02, 0.98, 25):
        assert abs(np.mean(share < limit) - np.mean(expected < limit)) < 0.03


def test_partners_draw_the_same_fraction_and_box():
    partners, mixed = mixing(EVERYTHING)
    for view in (1, 2, 3):
        first = np.flatnonzero(partners[:, view] >= 0)
        second = partners[first, view]
        for name in ("view_share", "view_paste"):
            assert np.array_equal(mixed[name][first, view], mixed[name][second, view])


def test_the_fraction_of_a_cutmix_is_the_area_that_is_left():
    partners, mixed = mixing(EVERYTHING)
    boxes, share = mixed["view_paste"][:, 1:].astype(np.float64), mixed["view_share"][:, 1:]
    area = (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])
    cut = area > 0
    assert np.allclose(share[cut], 1 - area[cut], atol=1e-5)
    assert abs(cut[partners[:, 1:] >= 0].mean() - 0.5) < 0.03
    assert boxes.min() >= 0 and boxes.max() <= 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"count": -1}, "--views is -1"),
        (
            {"count": 2, "crop": (0, 1)},
            r"--crop is 0 1; give the smallest and the largest fraction",
        ),
        ({"count": 2, "crop": (0.8, 0.3)}, r"--crop is 0\.8 0\.3"),
        ({"count": 2, "color": 1.5}, r"--color is 1\.5; it must lie in 0 to 1"),
        ({"count": 2, "erase": -0.1}, r"--erase is -0\.1; it must lie in 0 to 1"),
        ({"count": 2, "mixup": -1}, "--mixup is -1"),
        ({"count": 2, "cutmix": 100}, "--cutmix is 100; it must lie in 0 to 100"),
        ({"count": 2, "seed": -1}, "the seed of the views is -1; it must be 0 to 4294967295"),
        ({"count": 0, "flip": True}, r"no views to crop, change or mix\.\nAdd `--views 8`"),
    ],
)
def test_values_out_of_range_are_refused(arguments, words):
    with pytest.raises(OptionError, match=words):
        Views(**arguments)

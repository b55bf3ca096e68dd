"""Generated images are decoded as Pillow shows them, and as TensorFlow does where it is right.

Each image is decoded at its own size ('exact') and at another ('scaled'), to the channels asked
for. What differs by more than the tolerance of its kind is refused by name. `scan --check` and a
pass refuse the same files.
"""

import collections

import differential_helpers
import numpy as np
import pytest
import tensorflow as tf
from differential_helpers import ALL_KINDS, COLOR_MODES, REFUSED, damaged, drawn, expected, resized

import streamkd as kd
from streamkd.image_options import MAX_PIXELS, ImageOptions
from streamkd.pixels.bad_images import why_undecodable
from streamkd.pixels.check_images import check_images
from streamkd.pixels.decode import decode
from streamkd.pixels.file_batch import read_files
from streamkd.pixels.who_decodes import needs_pillow
from streamkd.tf_support.native_lines import listening

NUM_IMAGES, NUM_DAMAGED = 3000, 900
# Largest differences from Pillow in levels of 255.
#   A JPEG that TensorFlow decodes: its decoder takes a faster and less exact transform.
JPEG_TOLERANCE = 12
#   Grey of colours: libpng cuts the sum off where Pillow rounds it.
GREY_TOLERANCE = 1
#   16 bits: TensorFlow cuts 16 bits to 8, and the levels are not rounded.
DEEP_TOLERANCE = 1
#   All others, at their own size: none. At another size: float32.
RESIZING_TOLERANCE = 0.005


def tolerance(image):
    """Returns the largest difference that an image of this kind may have from Pillow's pixels."""
    file_format, mode = image.kind
    if file_format == "JPEG" and not needs_pillow(image.data, image.num_channels, MAX_PIXELS):
        return JPEG_TOLERANCE
    if "16" in mode:
        return DEEP_TOLERANCE
    has_colours = mode not in ("1", "L", "LA", "L+")
    return GREY_TOLERANCE if image.num_channels == 1 and has_colours else 0


def options_of(image, size, decode="exact"):
    return ImageOptions(
        image_size=size,
        color_mode=COLOR_MODES[image.num_channels],
        exif=image.exif,
        decode=decode,
    )


def read(path, options):
    """Returns the bytes for TensorFlow as a pass reads them, and why they are refused, or None."""
    reasons = []
    files = read_files(
        [bytes(path)], report_bad=lambda _, reason: reasons.append(reason), **options.for_files()
    )
    data = files.file_bytes[0]
    return data, reasons[0] if reasons else why_undecodable(data, options)


def difference(pixels, image):
    assert pixels.shape == image.shape
    return float(np.abs(pixels - image).max())


def compare(image, path, seed):
    """Returns 'refused', 'equal' or 'within' for one image; fails if it is shown otherwise."""
    path.write_bytes(image.data)
    data, reason = read(path, options_of(image, (8, 8)))
    if reason is not None:
        assert image.kind in REFUSED, (seed, image.kind, reason)
        assert "does not say which number is white" in reason
        return "refused"
    original = expected(image)
    size = original.shape[:2]
    shown = decode(tf.constant(data), options_of(image, size)).numpy()
    exact = difference(shown, original)
    assert exact <= tolerance(image), (seed, image.kind, image.num_channels, exact)
    if image.exif == "ignore" and data == image.data:
        raw = tf.io.decode_image(data, image.num_channels, expand_animations=False).numpy()
        np.testing.assert_array_equal(shown, raw)
    other_size = tuple(
        int(side) for side in np.random.default_rng(seed).integers(1, size, endpoint=True)
    )
    shown = decode(tf.constant(data), options_of(image, other_size, "scaled")).numpy()
    scaled = difference(shown, resized(original, other_size))
    assert scaled <= tolerance(image) + RESIZING_TOLERANCE, (seed, image.kind, scaled)
    return "equal" if exact == 0 else "within"


def checked_and_taught(folder, color_mode, images):
    """Returns the keys that the check and that a pass call bad; `images` by name of file."""
    (folder / "a").mkdir(parents=True)
    taught = {decode: set() for decode in ("exact", "scaled")}
    for name, image in images.items():
        path = folder / "a" / name
        path.write_bytes(image.data)
        with listening():  # as in a command: the tests turn the warnings of Pillow into errors
            for decode_name, bad in taught.items():
                if read(path, options_of(image, (7, 5), decode_name))[1] is not None:
                    bad.add(f"a/{name}")
    report = check_images(kd.scan(folder), color_mode=color_mode, progress=False)
    return {entry["key"] for entry in report.bad}, taught


def assert_agreement(folder, images):
    """Returns the number of bad files, after the check and both kinds of passes named the same."""
    num_bad = 0
    for num_channels, color_mode in COLOR_MODES.items():
        own = {name: image for name, image in images.items() if image.num_channels == num_channels}
        checked, taught = checked_and_taught(folder / color_mode, color_mode, own)
        assert taught == {"exact": checked, "scaled": checked}
        num_bad += len(checked)
    return num_bad


def drawn_files(seeds, *, damage):
    """Returns images by name of file, damaged on request."""
    images = {}
    for seed in seeds:
        image = drawn(seed)
        if damage:
            image = image._replace(data=damaged(image.data, np.random.default_rng(seed)))
        images[f"{seed}.{image.kind[0].lower().replace('jpeg2000', 'jpg')}"] = image
    return images


@pytest.mark.parametrize("seed", range(len(ALL_KINDS)))
def test_an_image_of_each_kind_is_shown_as_pillow_and_tensorflow_show_it(seed, tmp_path):
    compare(drawn(seed), tmp_path / "image", seed)


def test_the_check_and_a_pass_name_the_same_bad_files(tmp_path):
    num_bad = assert_agreement(tmp_path, drawn_files(range(60), damage=True))
    assert 10 < num_bad < 60


def test_grey_of_a_png_with_a_gamma_is_weighed_by_libpng(tmp_path):
    # libpng weighs the light, not the levels: its own answer, which Keras shows too.
    image = drawn(0, [("PNG", "RGB")])._replace(num_channels=1, exif="ignore")
    gamma = differential_helpers._chunk(b"gAMA", (45455).to_bytes(4, "big"))
    image = image._replace(data=image.data[:33] + gamma + image.data[33:])
    (tmp_path / "image").write_bytes(image.data)
    data, reason = read(tmp_path / "image", options_of(image, expected(image).shape[:2]))
    assert data == image.data and reason is None
    shown = decode(tf.constant(data), options_of(image, expected(image).shape[:2])).numpy()
    assert 1 < difference(shown, expected(image)) < 60


@pytest.mark.slow
def test_three_thousand_images_are_shown_as_pillow_and_tensorflow_show_them(tmp_path):
    counts = collections.Counter(
        compare(drawn(seed), tmp_path / "image", seed) for seed in range(NUM_IMAGES)
    )
    print(dict(counts))
    assert counts.total() == NUM_IMAGES and counts["refused"] == pytest.approx(150, abs=30)


@pytest.mark.slow
@pytest.mark.parametrize("damage", [False, True], ids=["whole", "damaged"])
def test_the_check_and_a_pass_agree_on_every_image(tmp_path, damage):
    number = NUM_DAMAGED if damage else NUM_IMAGES
    num_bad = assert_agreement(tmp_path, drawn_files(range(number), damage=damage))
    print(f"{num_bad} of {number} are bad")

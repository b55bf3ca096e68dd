"""Turned photographs and backgrounds in stores, streams, runs and on the command line.

The same images, saved upright and opaque, are the oracle: teacher and student see them alike.
"""

import json
import warnings

import helpers
import numpy as np
import pytest
from PIL import Image, ImageOps
from run_helpers import command, dense_student, exact_teacher

import streamkd as kd
from streamkd.errors import OptionError, StoreError
from streamkd.image_options import ImageOptions
from streamkd.pixels.cache.pixel_cache import PixelCache
from streamkd.pixels.check_images import check_images
from streamkd.views.views import Views

# What the teacher of this file answers is right by chance alone.
pytestmark = pytest.mark.filterwarnings("ignore:The teacher")
GROUND = (200, 100, 0)
APPLY = {"exif": "apply", "background": GROUND}


def corners(pixels):
    """A teacher whose logits are the colours near all four corners."""
    pixels = np.asarray(pixels, np.float32)
    return pixels[:, [1, 1, -2, -2], [1, -2, 1, -2]].reshape(len(pixels), 12)


def answer(images, path, **options):
    teacher = kd.load_teacher(corners, name="corners", output="logits")
    names = ["ant", "bee", "cat", *"012345678"]
    options = {"image_size": (8, 8), "class_names": names, "codec": "float32", **options}
    return kd.teach(images, teacher, path, batch_size=6, progress=False, **options)


def draw(root, *, turned):
    """Writes twelve images, the orientations 1 to 8 among them, half of them transparent."""
    y, x = np.mgrid[0:10, 0:14]
    for number in range(12):
        channels = [25 * y, 18 * x, np.full_like(x, 20 * number), np.minimum(24 * x, 255)]
        own = Image.fromarray(np.stack(channels, -1).astype(np.uint8))
        own = own if number % 2 else own.convert("RGB")
        exif = own.getexif()
        exif[0x0112] = number % 8 + 1
        folder = root / ("ant", "bee", "cat")[number // 4]
        folder.mkdir(parents=True, exist_ok=True)
        if turned:
            own.save(folder / f"{number}.png", exif=exif)
        else:
            upright = ImageOps.exif_transpose(own).convert("RGBA")
            ground = Image.new("RGBA", upright.size, (*GROUND, 255))
            shown = Image.alpha_composite(ground, upright).convert("RGB")
            shown.save(folder / f"{number}.png")
    return root


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    root = tmp_path_factory.mktemp("work")
    for name in ("turned", "upright"):
        draw(root / name, turned=name == "turned")
    exact_teacher().save(root / "teacher.keras")
    dense_student().save(root / "student.keras")
    helpers.draw_directory(root / "plain", {"ant": 3, "bee": 2, "cat": 3})
    answer(kd.scan(root / "turned"), root / "turned.h5", **APPLY)
    answer(kd.scan(root / "upright"), root / "upright.h5")
    return root


def batches_of(stream):
    return [(images.numpy(), targets) for images, targets, _ in stream.batches(0, 1)]


def test_teacher_and_student_see_the_upright_images(here):
    stores = [kd.open_store(f"{name}.h5") for name in ("turned", "upright")]
    logits = [store.gather(np.arange(12)) for store in stores]
    np.testing.assert_array_equal(*logits)
    streams = [
        kd.join(name, store, batch_size=6, seed=3, progress=False)
        for name, store in zip(("turned", "upright"), stores, strict=True)
    ]
    assert streams[0].options.exif == "apply" and streams[0].options.background == GROUND
    for (now, _), (expected, _) in zip(*map(batches_of, streams), strict=True):
        np.testing.assert_array_equal(now, expected)


@pytest.mark.slow
def test_views_are_drawn_from_the_upright_images(here, tmp_path):
    views = Views(3, crop=(0.3, 1.0), flip=True, color=0.3, cutmix=1.0, canonical_size=(9, 9))
    stores = [
        answer(kd.scan(name), tmp_path / f"{name}.h5", views=views, **options)
        for name, options in (("turned", APPLY), ("upright", {}))
    ]
    np.testing.assert_array_equal(*(store.gather(np.arange(48)) for store in stores))
    streams = [
        kd.join(name, store, batch_size=6, cache="memory", progress=False)
        for name, store in zip(("turned", "upright"), stores, strict=True)
    ]
    for (now, _), (expected, _) in zip(*map(batches_of, streams), strict=True):
        np.testing.assert_array_equal(now, expected)


def test_the_header_has_the_choice_only_where_it_is_made(here):
    images = kd.open_store("turned.h5").header.images
    assert (images["exif"], images["background"]) == ("apply", list(GROUND))
    assert not {"exif", "background"} & set(kd.open_store("upright.h5").header.images)


@pytest.mark.parametrize(
    ("store", "given", "words"),
    [
        ("turned.h5", {"exif": "ignore"}, "exif is 'ignore', .* with 'apply' (store turned.h5)"),
        ("upright.h5", {"exif": "apply"}, "exif is 'apply', .* with 'ignore' (store upright.h5)"),
        ("turned.h5", {"background": (1, 2, 3)}, r"is (1, 2, 3), .* with (200, 100, 0) (store "),
        ("upright.h5", {"background": [1, 2, 3]}, "is (1, 2, 3), .* with none (store upright.h5)"),
    ],
)
def test_a_stream_repeats_what_the_teacher_saw(here, store, given, words):
    images = kd.scan(store.removesuffix(".h5"))
    pattern = words.replace("(", r"\(").replace(")", r"\)")
    with pytest.raises(OptionError, match=pattern):
        kd.join(images, store, **given)
    same = {"exif": "apply", "background": list(GROUND)} if store == "turned.h5" else {}
    assert kd.join(images, store, batch_size=6, **same).options.exif == (
        "apply" if same else "ignore"
    )


@pytest.mark.filterwarnings("ignore:turned_by_exif")
@pytest.mark.parametrize("given", [{}, {"exif": "apply"}, {"background": GROUND}])
def test_a_store_is_not_continued_in_another_way(here, given):
    with pytest.raises(StoreError, match="another image specification") as refusal:
        answer(kd.scan("turned"), "turned.h5", **{"exif": "ignore", **given})
    assert "turned.h5" in str(refusal.value)
    assert "apply" in str(refusal.value) or "200" in str(refusal.value)


def test_caches_are_told_apart(here, tmp_path):
    images = kd.scan("turned")
    paths = {
        PixelCache.on_disk(images, ImageOptions(image_size=(8, 8), **options), tmp_path).path
        for options in ({}, {"exif": "apply"}, {"background": (0, 0, 0)}, APPLY)
    }
    assert len(paths) == 4


def test_scan_check_counts_them_and_the_flags_take_the_notes_away(here, capsys):
    code, found, _ = command(capsys, "scan", "turned", "--check")
    assert code == 0
    notes = {note["code"]: note for note in found["notes"]}
    assert notes["turned_by_exif"]["count"] == 10
    assert notes["turned_by_exif"]["examples"][0] == "ant/1.png"
    assert "`--exif apply` shows them upright" in notes["turned_by_exif"]["advice"]
    assert notes["hidden_colors"]["count"] == 6
    assert "`--background 255,255,255` lays" in notes["hidden_colors"]["advice"]
    flags = ["--exif", "apply", "--background", "0,0,0"]
    assert command(capsys, "scan", "turned", "--check", *flags)[1]["notes"] == []
    code, found, _ = command(capsys, "scan", "turned", *flags)
    assert code == 2 and "--exif and --background say how" in found["error"]["message"]
    assert "Add `--check`" in found["error"]["message"]


def test_teach_warns_of_turned_photographs_before_the_pass(here, tmp_path):
    with pytest.warns(kd.StreamkdWarning, match="turned_by_exif: 10 .*`--exif apply`") as caught:
        answer(kd.scan("turned"), tmp_path / "s.h5")
    assert caught[0].message.code == "odd_images"


def test_photographs_that_are_ignored_on_purpose_are_not_warned_of(here, tmp_path):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        answer(kd.scan("turned"), tmp_path / "s.h5", exif="ignore")
    assert "odd_images" not in [getattr(each.message, "code", None) for each in caught]
    assert "exif" not in kd.open_store(tmp_path / "s.h5").header.images  # as by default


def test_every_command_that_decodes_takes_the_flags(here, capsys, tmp_path):
    flags = ["--exif", "apply", "--background", "9,9,9"]
    teacher = ["--teacher", "teacher.keras"]
    code, found, _ = command(
        capsys, "teach", "plain", *teacher, *flags, "--out", str(tmp_path / "s.h5")
    )
    assert code == 0 and kd.open_store(tmp_path / "s.h5").header.images["exif"] == "apply"
    code, found, _ = command(capsys, "plan", "plain", *teacher, *flags)
    assert code == 0, found
    code, found, _ = command(capsys, "verify", str(tmp_path / "s.h5"), "--images", "plain")
    assert code == 0 and found["sound"]
    np.save(tmp_path / "logits.npy", 9 * np.eye(8, 3, dtype=np.float32))
    keys = [json.dumps(key.decode()) for key in kd.scan("plain").keys]
    (tmp_path / "keys.jsonl").write_text("\n".join(keys))
    names = [str(tmp_path / name) for name in ("logits.npy", "keys.jsonl", "i.h5")]
    words = ["import", names[0], "--keys", names[1], "--images", "plain", "--out", names[2]]
    code, found, _ = command(capsys, *words, "--image-size", "8x8", *flags)
    assert code == 0, found
    assert kd.open_store(names[2]).header.images["background"] == [9, 9, 9]
    train = ["train", "plain", "--store", str(tmp_path / "s.h5"), "--student", "student.keras"]
    code, found, _ = command(capsys, *train, "--exif", "ignore", "--out", str(tmp_path / "run"))
    assert code == 2
    assert (
        "exif is 'ignore', and the teacher saw images made with 'apply'"
        in (found["error"]["message"])
    )
    evaluate = ["evaluate", "teacher.keras", "plain", "--store", str(tmp_path / "s.h5")]
    code, found, _ = command(capsys, *evaluate, "--background", "1,1,1")
    assert code == 2 and "(1, 1, 1), and the teacher saw" in found["error"]["message"]
    assert command(capsys, *evaluate, *flags)[0] == 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--exif", "turn"], "Argument --exif: invalid choice: 'turn'"),
        (["--background", "white"], "write it as R,G,B, three whole numbers from 0 to 255"),
        (["--background", "1,2,3", "--color-mode", "rgba"], "which keeps the transparency"),
    ],
)
def test_flags_that_cannot_be_are_refused(here, capsys, words, message):
    teach = ["teach", "plain", "--teacher", "teacher.keras", "--image-size", "8x8"]
    code, found, _ = command(capsys, *teach, "--out", "n.h5", *words)
    assert code == 2 and message in found["error"]["message"]


def deep(path, top, mode="L", dark=0):
    levels = np.linspace(dark, top, 96).astype(np.uint16).reshape(8, 12)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(levels).save(path)


def test_images_of_16_bits_that_use_few_are_counted(tmp_path):
    """12 and 14 bits, and levels of 8 bits; a full ramp and a black image are not odd."""
    for name, top in (("eight", 255), ("twelve", 4095), ("fourteen", 16_383), ("full", 65_535)):
        deep(tmp_path / f"a/{name}.png", top)
        deep(tmp_path / f"a/{name}.tif", top)
    deep(tmp_path / "a/black.png", 0)
    deep(tmp_path / "a/dark_corner.png", 20_000)
    Image.fromarray(np.full((8, 8), 9, np.uint8)).save(tmp_path / "a/of_8_bits.png")
    [note] = check_images(kd.scan(tmp_path), progress=False).notes
    assert (note.code, note.count) == ("few_bits_of_16", 6)
    assert "16-bit images use at most 14 bits, so they are shown nearly black" in note.advice
    assert "a/eight.png" in note.examples


def logo(path, hidden, file_format="PNG", **options):
    """Writes an image whose transparent pixels hide a colour, or noise."""
    pixels = np.full((8, 8, 4), 255, np.uint8)
    pixels[:4, :, 3] = 0
    pixels[:4, :, :3] = hidden
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, file_format, **options)


class TestHiddenColors:
    def notes(self, root, **options):
        return check_images(kd.scan(root), progress=False, **options).notes

    def test_one_colour_behind_all_images_is_not_odd(self, tmp_path):
        for number in range(3):
            logo(tmp_path / f"a/{number}.png", 0)
        assert self.notes(tmp_path) == []

    def test_another_colour_in_one_image_is_odd(self, tmp_path):
        logo(tmp_path / "a/0.png", 0)
        logo(tmp_path / "a/1.png", 255)
        logo(tmp_path / "a/2.webp", 0, "WEBP", lossless=True, exact=True)
        [note] = self.notes(tmp_path)
        assert (note.code, note.count) == ("hidden_colors", 3)
        assert note.examples == ["a/0.png", "a/1.png", "a/2.webp"]
        assert self.notes(tmp_path, background=(0, 0, 0)) == []
        assert self.notes(tmp_path, color_mode="rgba") == []

    @pytest.mark.parametrize("file_format", ["PNG", "WEBP", "TIFF"])
    def test_several_colours_in_one_image_are_odd(self, tmp_path, file_format):
        noise = np.random.default_rng(0).integers(0, 256, (4, 8, 3))
        options = {"lossless": True, "exact": True} if file_format == "WEBP" else {}
        logo(tmp_path / f"a/0.{file_format.lower()}", noise, file_format, **options)
        [note] = self.notes(tmp_path)
        assert (note.code, note.count) == ("hidden_colors", 1)

    def test_transparent_gif_files_are_shown_black(self, tmp_path):
        (tmp_path / "a").mkdir()
        image = Image.fromarray(np.uint8([[0, 1, 2, 1]] * 4), "P")
        image.putpalette([10, 20, 30, 200, 0, 0, 255, 255, 255])
        image.save(tmp_path / "a/0.gif", transparency=2)
        image.save(tmp_path / "a/1.gif", transparency=0)
        image.save(tmp_path / "a/opaque.gif")
        image.save(tmp_path / "a/unused.gif", transparency=3)
        [note] = self.notes(tmp_path)
        assert (note.code, note.count) == ("transparent_gif", 2)
        assert note.examples == ["a/0.gif", "a/1.gif"]
        assert "are shown black, whatever colour the files have there" in note.advice
        assert "`--background 255,255,255` lays the images on white" in note.advice
        assert self.notes(tmp_path, background=(0, 0, 0)) == []
        assert self.notes(tmp_path, color_mode="rgba") == []
        [note] = self.notes(tmp_path, color_mode="grayscale")  # Pillow shows the palette's colours
        assert (note.code, note.count) == ("hidden_colors", 2)

    def test_gif_files_of_a_small_first_frame_show_the_hidden_colour(self, tmp_path):
        (tmp_path / "a").mkdir()
        image = Image.fromarray(np.uint8([[0, 1, 2, 1]] * 4), "P")
        image.putpalette([10, 20, 30, 200, 0, 0, 255, 255, 255])
        image.save(tmp_path / "a/0.gif", transparency=2)
        data = bytearray((tmp_path / "a/0.gif").read_bytes())
        data[6:8] = (6).to_bytes(2, "little")  # the screen is wider than the frame
        (tmp_path / "a/0.gif").write_bytes(data)
        image.save(tmp_path / "a/1.gif", transparency=2)
        notes = {note.code: note for note in self.notes(tmp_path)}
        assert notes["transparent_gif"].examples == ["a/1.gif"]

    def test_opaque_alpha_hides_nothing(self, tmp_path):
        (tmp_path / "a").mkdir()
        Image.new("RGBA", (8, 8), (1, 2, 3, 255)).save(tmp_path / "a/0.png")
        assert self.notes(tmp_path) == []


@pytest.mark.slow
def test_a_run_is_evaluated_as_it_was_trained(here, capsys, tmp_path):
    run = str(tmp_path / "run")
    words = ["train", "turned", "--student", "student.keras", "--label-weight", "1"]
    words += ["--image-size", "8x8", "--epochs", "1", "--batch-size", "6", "--out", run]
    flags = ["--exif", "apply", "--background", "200,100,0"]
    code, found, _ = command(capsys, *words, *flags)
    assert code == 0, found
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["image_options"]["background"] == list(GROUND)
    now = command(capsys, "evaluate", run, "turned")[1]
    upright = command(capsys, "evaluate", run, "upright", "--exif", "ignore")[1]
    assert now["nll"] == upright["nll"]
    code, found, _ = command(capsys, *words, "--exif", "ignore")
    assert code == 2 and "image_options" in found["error"]["message"]
    assert '"apply"' in found["error"]["message"]

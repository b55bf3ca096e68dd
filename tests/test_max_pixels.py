"""The limit of pixels: one number that every command and function checks in the header."""

import io
import struct
import warnings
from pathlib import Path

import helpers
import numpy as np
import pytest
import zoo
from PIL import Image
from run_helpers import command, dense_student, exact_teacher

import streamkd as kd
from streamkd.errors import BadImageError
from streamkd.pixels import pillow_fallback
from streamkd.pixels.bad_images import why_bad_bytes
from streamkd.pixels.check_images import check_images
from streamkd.pixels.header import dimensions
from streamkd.pixels.pillow_fallback import UndecodableError, decodable
from streamkd.teachers.teach import refused_images
from streamkd.views.views import Views

LIMIT = 100
LARGE = b"bee/00005.png"
REASON = r"it has 30 x 20 pixels, and at most 100 are decoded \(--max-pixels\)"
WORDS = rf"The image 'bee/00005\.png' cannot be decoded: {REASON}\.\n  file: "


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """15 images of 64 pixels but for one of 600, a student, a teacher, and a store of them."""
    root = tmp_path_factory.mktemp("work")
    helpers.draw_directory(root / "images", {"ant": 5, "bee": 4, "cat": 6})
    helpers.draw_image(root / "images" / LARGE.decode(), 5, 1, (20, 30))
    exact_teacher().save(root / "teacher.keras")
    dense_student().save(root / "student.keras")
    teach(kd.scan(root / "images"), root / "s.h5")
    return root


@pytest.fixture
def images(here):
    return kd.scan("images")


def teach(images, path, **arguments):
    teacher = helpers.EncodingTeacher()
    values = {"image_size": (8, 8), "batch_size": 6, "progress": False, **arguments}
    return kd.teach(images, teacher, path, **values)


class TestReading:
    def test_a_larger_image_is_refused_and_a_higher_limit_lets_it_through(self):
        data = zoo.saved("PNG")  # 48 x 32
        for limit in (1535, 1):
            with pytest.raises(UndecodableError, match=rf"48 x 32 pixels, and at most {limit:,} "):
                decodable(data, limit)
        assert decodable(data, 1536) is data
        huge, _ = zoo.bad_files()[b"huge.png"]
        assert "at most 89,478,485" in why_bad_bytes(huge)
        assert "at most" not in why_bad_bytes(huge, max_pixels=10**10)

    def test_files_for_pillow_have_the_same_limit(self):
        data = zoo.saved("TIFF")
        with pytest.raises(UndecodableError, match=r"48 x 32 pixels, and at most 1,535 are"):
            decodable(data, 1535)
        assert decodable(data, 1536).startswith(b"\x89PNG")
        bomb, _ = zoo.bad_files()[b"bomb.tif"]  # 400 million in its header, nothing behind it
        with pytest.raises(UndecodableError, match=r"400,000,000 pixels, and at most 89,478,485 a"):
            decodable(bomb)
        with pytest.raises(UndecodableError, match=r"Pillow cannot decode it"):
            decodable(bomb, 400_000_000)

    def test_pillows_own_limit_is_raised_for_one_file_only(self, monkeypatch):
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 700)  # it refuses from twice that on
        monkeypatch.setattr(pillow_fallback, "MAX_PIXELS", 700)
        with pytest.raises(UndecodableError, match=r"1,536 pixels, and at most 700 are decoded"):
            decodable(zoo.saved("TIFF"), 700)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert decodable(zoo.saved("TIFF"), 1536).startswith(b"\x89PNG")
        assert Image.MAX_IMAGE_PIXELS == 700


def saved(file_format, width=50, height=30, **options):
    data = io.BytesIO()
    Image.new("RGB", (width, height), (9, 99, 199)).save(data, file_format, **options)
    return data.getvalue()


class TestSizesInBoxes:
    """An AVIF or JPEG 2000 whose box lies: the codes give the size of which memory is taken."""

    @pytest.mark.parametrize(
        ("file_format", "options"),
        [
            *(("AVIF", {}), ("AVIF", {"quality": 100}), ("AVIF", {"subsampling": "4:4:4"})),
            *(("JPEG2000", {}), ("JPEG2000", {"no_jp2": True})),
            ("JPEG2000", {"tile_size": (16, 16)}),
            ("AVIF", {"save_all": True, "append_images": [Image.new("RGB", (50, 30))]}),
        ],
        # An image's own text has its address, which differs from process to process.
        ids=lambda value: "frames" if "append_images" in value else str(value),
    )
    def test_the_size_is_that_of_the_codes(self, file_format, options):
        data = saved(file_format, **options)
        assert dimensions(data) == (50, 30)
        assert decodable(data, 1500).startswith(b"\x89PNG")
        with pytest.raises(UndecodableError, match="it has 50 x 30 pixels, and at most 1,499 are"):
            decodable(data, 1499)
        for length in range(0, len(data), 9):
            dimensions(data[:length])  # never raises

    @pytest.mark.parametrize(("width", "height"), [(1, 1), (300, 65), (1000, 17)])
    def test_sizes_of_any_number_of_bits_are_read(self, width, height):
        assert dimensions(saved("AVIF", width, height)) == (width, height)
        assert dimensions(saved("JPEG2000", width, height)) == (width, height)

    def test_a_box_that_lies_is_not_believed(self):
        honest = saved("AVIF")
        lie = honest.replace(struct.pack(">II", 50, 30), struct.pack(">II", 5, 3))
        with Image.open(io.BytesIO(lie)) as image:
            assert image.size == (5, 3)
        with pytest.raises(UndecodableError, match="it has 50 x 30 pixels, and at most 100 are"):
            decodable(lie, 100)
        honest = saved("JPEG2000")
        lie = honest.replace(struct.pack(">II", 30, 50), struct.pack(">II", 3, 5), 1)
        assert lie != honest
        with pytest.raises(UndecodableError, match="it has 50 x 30 pixels, and at most 100 are"):
            decodable(lie, 100)


GIF = saved("GIF")
FRAME = GIF.index(b",")
MANY = 200_000


@pytest.mark.parametrize(
    "data",
    [
        GIF[:FRAME] + b"!\xfe" + b"\x01x" * MANY + b"\0" + GIF[FRAME:],
        GIF[:FRAME] + b"!\xfe\x01x\0" * MANY + GIF[FRAME:],
        saved("AVIF")[:32] + struct.pack(">I4s", 8, b"free") * MANY,
        saved("AVIF")[:32]
        + struct.pack(">I4sII", MANY * 4 + 16, b"stco", 0, MANY)
        + bytes(MANY * 4),
        b"\xff\xd8" + b"\xff\xfe\0\2" * MANY + saved("JPEG")[2:],
        b"\xff\xd8\xff\xd0" + b"\xff\xd0" * MANY + saved("JPEG")[2:],
    ],
    ids=["blocks of a GIF", "extensions", "boxes", "places", "segments", "restarts"],
)
def test_a_file_of_very_many_parts_is_refused_by_name(data):
    assert why_bad_bytes(data) == "it has more parts than an image of its size needs"


class TestPython:
    def test_check_lists_it(self, images):
        assert check_images(images, progress=False).bad == []
        (bad,) = check_images(images, max_pixels=LIMIT, progress=False).bad
        assert bad["key"] == LARGE.decode() and bad["reason"].startswith("it has 30 x 20")

    @pytest.mark.parametrize("views", [None, Views(1, mixup=1.0)], ids=["plain", "mixed"])
    def test_a_pass_ends_or_skips_it(self, images, views):
        with pytest.raises(BadImageError, match=WORDS) as refusal:
            teach(images, "n.h5", max_pixels=LIMIT, views=views)
        assert refusal.value.key == LARGE
        with pytest.warns(UserWarning, match="1 of 15 images cannot be decoded"):
            store = teach(images, "n.h5", max_pixels=LIMIT, on_bad="skip", views=views)
        assert images.keys.take(refused_images(images, store)).tolist() == [LARGE]

    def test_a_stream_ends_or_skips_it(self, images):
        stream = kd.join(images, "s.h5", batch_size=5, max_pixels=LIMIT)
        with pytest.raises(BadImageError, match=WORDS):
            list(stream.batches(0, 3))
        stream = kd.join(images, "s.h5", batch_size=5, max_pixels=LIMIT, on_bad="skip")
        weights = [weight.numpy() for _, _, weight in stream.batches(0, 3)]
        assert np.concatenate(weights).sum() == 14
        assert {images.keys[index] for index in stream.skipped} == {LARGE}
        plain = kd.join(images, None, image_size=(8, 8), batch_size=5, max_pixels=LIMIT)
        with pytest.raises(BadImageError, match=WORDS):
            list(plain.batches(0, 3))

    def test_a_pass_resumes_with_another_limit(self, images):
        before = Path("s.h5").read_bytes()
        teach(images, "s.h5", max_pixels=601)
        assert Path("s.h5").read_bytes() == before

    def test_evaluation_and_validation_refuse_it(self, images):
        with pytest.raises(BadImageError, match=WORDS):
            kd.evaluate("student.keras", images, max_pixels=LIMIT, progress=False)
        small = images.select(np.flatnonzero([key != LARGE for key in images.keys]))
        stream = kd.join(small, "s.h5", batch_size=7, max_pixels=LIMIT)
        distiller = kd.Distiller(dense_student())
        with pytest.raises(BadImageError, match=WORDS):
            distiller.fit(stream, epochs=1, validation=images, progress=False)


TEACH = ["teach", "images", "--teacher", "teacher.keras", "--out", "n.h5"]
TRAIN = ["train", "images", "--store", "s.h5", "--student", "student.keras", "--out", "run"]
TRAIN += ["--epochs", "1", "--batch-size", "5", "--optimizer", "sgd", "--jit", "off"]


class TestCommands:
    @pytest.mark.parametrize(
        "words",
        [
            TEACH,
            TRAIN,
            ["evaluate", "student.keras", "images"],
            ["plan", "images", "--teacher", "teacher.keras"],
        ],
        ids=["teach", "train", "evaluate", "plan"],
    )
    def test_the_flag_refuses_it_by_name(self, here, capsys, words):
        code, answer, _ = command(capsys, *words, "--max-pixels", LIMIT)
        assert code == 2 and answer["error"]["key"] == LARGE.decode()
        assert "30 x 20 pixels, and at most 100 are decoded (--max-pixels)" in str(answer["error"])

    def test_scan_check_says_no(self, here, capsys):
        words = ["scan", "images", "--check", "--max-pixels"]
        code, answer, _ = command(capsys, *words, LIMIT)
        assert code == 1 and answer["num_bad"] == 1 and "at most 100" in answer["bad"][0]["reason"]
        assert command(capsys, *words, 600)[0] == 0

    @pytest.mark.filterwarnings("ignore:.*cannot be decoded and have no logits")
    def test_a_skipped_one_is_listed_with_the_reason(self, here, capsys):
        words = [*TEACH, "--max-pixels", LIMIT, "--on-bad", "skip"]
        code, answer, _ = command(capsys, *words)
        assert code == 0 and answer["num_refused"] == 1
        assert "at most 100 are decoded" in answer["refused"][0]["reason"]
        words = [*TRAIN, "--max-pixels", LIMIT, "--on-bad", "skip"]
        code, answer, _ = command(capsys, *words)
        assert code == 0 and answer["num_skipped"] == 1

    @pytest.mark.parametrize(
        ("words", "message"),
        [
            (["scan", "images", "--max-pixels", "9"], "scan decodes nothing.\nAdd `--check`"),
            ([*TEACH, "--max-pixels", "0"], "Argument --max-pixels: '0'; give a whole number fro"),
            ([*TRAIN, "--max-pixels", "1e8"], "'1e8'; give a whole number from 1"),
        ],
    )
    def test_limits_that_do_not_fit_are_refused(self, here, capsys, words, message):
        code, answer, _ = command(capsys, *words)
        assert code == 2 and message in answer["error"]["message"]

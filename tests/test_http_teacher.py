"""A teacher behind an address: TensorFlow Serving's REST predict, with all that can go wrong."""

import gzip
import json

import numpy as np
import pytest
from helpers import EncodingTeacher
from predict_helpers import predict_server

import streamkd as kd
from streamkd.cli.main import main
from streamkd.errors import OptionError, QueryBudgetError, TeacherError
from streamkd.teachers import http_requests
from streamkd.teachers.http_teacher import HEADER_VARIABLE, rows_of

pytest.importorskip("urllib3")
SMALL = {"image_size": (8, 8), "batch_size": 8, "progress": False}


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch):
    monkeypatch.setattr(http_requests, "_pause", lambda seconds, is_ended: None)


def logits(images):
    return EncodingTeacher()(np.asarray(images, np.float32)).tolist()


def teacher(server, **options):
    return kd.load_teacher(server.address, **{"name": "net", "retries": 3, **options})


def test_a_store_of_a_served_model_is_that_of_the_model_itself(images, tmp_path):
    with predict_server(logits, drop_every=3) as server:
        served = kd.teach(images, teacher(server, concurrency=3), tmp_path / "a.h5", **SMALL)
        assert server.num_dropped > 1
    local = kd.load_teacher(lambda pixels: np.float32(logits(pixels)), name="net")
    own = kd.teach(images, local, tmp_path / "b.h5", **SMALL)
    rows = np.arange(len(images))
    np.testing.assert_allclose(served.gather(rows), own.gather(rows), rtol=1e-3, atol=1e-3)
    assert served.describe()["teacher_accuracy"] == own.describe()["teacher_accuracy"]


def test_a_query_budget_ends_the_pass_and_no_image_is_asked_twice(
    directory, tmp_path, capsys, monkeypatch
):
    monkeypatch.setenv(HEADER_VARIABLE, "X-Key: hush-hush")
    with predict_server(logits, dtype="DT_UINT8") as server:
        words = ["teach", str(directory), "--teacher", server.address, "--json", "--quiet"]
        words += ["--out", str(tmp_path / "s.h5"), "--batch-size", "4", "--max-queries", "13"]
        answered = []
        for _ in range(2):
            assert main(words) == 2
            error = json.loads(capsys.readouterr().out)["error"]
            assert error["code"] == "query_budget"
            answered.append(error["message"])
        assert main(words) == 0
        told = json.loads(capsys.readouterr().out)
    assert "12 of 30 images are answered" in answered[0] and "24 of 30" in answered[1]
    assert "Give the same command again" in answered[0]
    assert sum(map(len, server.asked)) == 30
    assert all(part.dtype.kind == "i" for part in server.asked)
    assert server.headers_seen["X-Key"] == "hush-hush"
    assert told["num_images"] == 30
    assert kd.open_store(tmp_path / "s.h5").header.teacher["weights"] == "version 1"
    assert b"hush-hush" not in (tmp_path / "s.h5").read_bytes()


def test_another_version_does_not_go_on_with_a_store(images, tmp_path):
    with predict_server(logits, dtype="DT_FLOAT") as server:
        with pytest.raises(QueryBudgetError):
            kd.teach(images, teacher(server, max_queries=8), tmp_path / "s.h5", **SMALL)
        server.version = "2"
        with pytest.raises(kd.StreamkdError, match=r"(?s)another teacher.*version 2.*version 1"):
            kd.teach(images, teacher(server), tmp_path / "s.h5", **SMALL)


def test_a_budget_below_one_block_says_which_would_do(images, tmp_path):
    with (
        predict_server(logits) as server,
        pytest.raises(QueryBudgetError, match="Give --max-queries 8 or more, or a smaller"),
    ):
        kd.teach(images, teacher(server, max_queries=5), tmp_path / "s.h5", **SMALL)
    assert not server.asked and not (tmp_path / "s.h5").exists()


@pytest.mark.parametrize(
    "failure",
    ["drop", (503, {"error": "warming up"}, {}), (429, b"slow", {"Retry-After": "1"})],
    ids=["drop", "503", "429"],
)
def test_a_lost_request_is_sent_again(failure):
    with predict_server(logits) as server:
        server.failures = [failure] * 3
        answers = teacher(server, concurrency=1)(np.ones((2, 8, 8, 3), np.float32))
        assert server.num_requests == 4
    np.testing.assert_allclose(answers, logits(np.ones((2, 8, 8, 3))), rtol=1e-6)


@pytest.mark.parametrize(
    ("failure", "words"),
    [
        ((400, {"error": "input must be 9 x 9"}, {}), r"refuses the request \(400\): input must"),
        ((401, b"key k-1234 is no key", {}), r"key \*\*\* is no key.\nGive the server's key: `--h"),
        ((302, b"", {"Location": "http://other.example/x?key=1"}), "on to http://other.example/x,"),
        ((200, b"<html>hello</html>", {}), "something else than JSON: '<html>hello</html>'"),
        ((200, {"answers": [1]}, {}), "without 'predictions' or 'outputs'"),
        ((413, b"too large", {}), r"refuses .*\(413\).*\nSend fewer images .* `--batch-size`\."),
        ((200, b"no gzip", {"Content-Encoding": "gzip"}), "is packed by gzip, and it is not"),
        ((200, {"predictions": ["cat", "dog"]}, {}), "answers with texts: 'cat'.\nGive a function"),
        ((200, {"predictions": [[1.0, 2.0]]}, {}), "asked about 2 images and answers with 1 rows"),
        ((200, b'{"predictions": [[1, 2], [1, NaN]]}', {}), "Row 1 .* that is not finite"),
        ((200, {"predictions": [[1.0, 2.0], [1.0]]}, {}), "Row 1 .* and no row of numbers as long"),
        ((200, {"predictions": [[1.0, 2.0], None]}, {}), "Row 1 of the server's answer is None"),
    ],
    ids=[
        *(
            "400",
            "401",
            "redirect",
            "page",
            "other",
            "413",
            "gzip",
            "texts",
            "few",
            "nan",
            "ragged",
            "null",
        ),
    ],
)
def test_an_answer_that_does_not_fit_is_refused_by_name(failure, words):
    with predict_server(logits) as server:
        server.failures = [failure]
        asked = teacher(server, concurrency=1, headers={"Authorization": "Bearer k-1234"})
        with pytest.raises(TeacherError, match=words):
            asked(np.ones((2, 8, 8, 3), np.float32))
        assert server.num_requests == 1


def test_a_server_that_stays_away_is_named():
    with predict_server(logits) as server:
        server.failures = ["drop"] * 9
        asked = teacher(server, retries=2)
        with pytest.raises(TeacherError, match=r"the connection is lost .*\nIt was tried 3 times"):
            asked(np.ones((1, 8, 8, 3), np.float32))
        assert server.num_requests == 3


def test_one_of_several_outputs_is_chosen():
    rows = {"predictions": [{"a": [1.0, 2.0], "b": [3.0, 4.0]}] * 2}
    np.testing.assert_array_equal(rows_of(rows, 2, "b"), [[3, 4], [3, 4]])
    np.testing.assert_array_equal(rows_of(rows, 2, "0"), [[1, 2], [1, 2]])
    np.testing.assert_array_equal(rows_of({"outputs": {"a": [[1, 2]]}}, 1), [[1, 2]])
    with pytest.raises(TeacherError, match=r"2 outputs: 0 a, 1 b.\nChoose one .*`--output NAME`"):
        rows_of(rows, 2)
    with pytest.raises(TeacherError, match="2 outputs, and --output is c"):
        rows_of(rows, 2, "c")


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("ftp://host/model", "begins with ftp://, .* by http or https"),
        ("http://user:secret@host/model", "holds a user name"),
        ("http://host:x/model", "cannot be read"),
    ],
)
def test_an_address_that_cannot_be_is_refused(address, words):
    with pytest.raises(OptionError, match=words) as refusal:
        kd.load_teacher(address)
    assert "secret" not in str(refusal.value)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"dtype": "DT_STRING"}, "takes DT_STRING, and streamkd sends the numbers of pixels"),
        ({"dtype": "DT_UINT8", "preprocess": "scale"}, "--preprocess is scale, .* whole numbers"),
    ],
)
def test_a_served_model_that_takes_no_pixels_is_refused(options, words):
    own = {name: value for name, value in options.items() if name != "dtype"}
    with (
        predict_server(logits, dtype=options["dtype"]) as server,
        pytest.raises(TeacherError, match=words),
    ):
        teacher(server, **own)


def test_the_size_of_a_served_model_is_known():
    with predict_server(logits, dtype="DT_UINT8", size=(6, 9)) as server:
        asked = teacher(server)
    assert (asked.image_size, asked.num_channels) == ((6, 9), 3)


def test_flags_of_an_address_are_refused_for_another_teacher():
    with pytest.raises(OptionError, match="--max-queries is for a teacher behind an address"):
        kd.load_teacher(lambda pixels: pixels, max_queries=5)


def test_a_pace_holds_over_all_requests(monkeypatch):
    monkeypatch.setattr(http_requests.time, "monotonic", lambda: 100.0)
    pauses = []
    pace = http_requests.Pace(4)
    for _ in range(3):
        pace.wait(2, pauses.append)
    assert pauses == [0.5, 1.0]


def test_an_answer_that_was_packed_unasked_is_unpacked():
    images = np.ones((2, 8, 8, 3), np.float32)
    packed = gzip.compress(json.dumps({"predictions": logits(images)}).encode())
    with predict_server(logits) as server:
        server.failures.append((200, packed, {"Content-Encoding": "gzip"}))
        np.testing.assert_allclose(teacher(server, concurrency=1)(images), logits(images))


def test_a_packed_answer_is_bounded_as_it_is_unpacked(monkeypatch):
    monkeypatch.setattr(http_requests, "MAX_BODY_BYTES", 1 << 20)
    bomb = gzip.compress(b" " * (2 << 20))
    with predict_server(logits) as server:
        server.failures.append((200, bomb, {"Content-Encoding": "gzip"}))
        with pytest.raises(TeacherError, match="answers with more than 1 MB"):
            teacher(server, concurrency=1)(np.ones((2, 8, 8, 3), np.float32))

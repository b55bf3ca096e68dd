"""JSON that would be read as something else than it says is refused, by every reader."""

import json
import math

import pytest

from streamkd import json_text, small_files
from streamkd.errors import ImagesNotFoundError, OptionError
from streamkd.manifest.labels import read_class_map, read_labels
from streamkd.manifest.manifest import scan

REFUSED = [
    ('{"a": 1, "a": 1}', "it names 'a' twice"),
    ('[{"b": {"a": 1, "c": 2, "a": 3}}]', "it names 'a' twice"),
    ("[NaN]", "it holds NaN, which is no number"),
    ('{"a": -Infinity}', "it holds -Infinity, which is no number"),
    ("[1e999]", "it holds the number 1e999, which is too large"),
    ("[-1e400]", "it holds the number -1e400, which is too large"),
    ("9" * 309, "it holds the number 99999999999999999999…, which is too large"),
    ("[" + "9" * 5000 + "]", "it holds the number 99999999999999999999…, which is too large"),
    ("[" * 200_000, "it is nested too deep"),
    ("[" * 101 + "]" * 101, "it is nested too deep"),
    ('{"a": ' * 101 + "1" + "}" * 101, "it is nested too deep"),
    ("", "Expecting value"),
    ("{'a': 1}", "Expecting property name"),
    ("[1] [2]", "Extra data"),
]


@pytest.mark.parametrize(("text", "words"), REFUSED, ids=lambda value: value[:16])
def test_what_json_is_not_is_refused(text, words):
    for given in (text, text.encode()):
        with pytest.raises(ValueError) as caught:
            json_text.load(given)
        assert words in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        *("[" * 100 + "]" * 100, '{"a": {"a": 1}}', '["' + "9" * 400 + '"]', "9" * 308),
        *("[1e308, -0.0, 5e-324, true, null]", '"[[[[[[["' + " " * 400, json.dumps(["["] * 500)),
    ],
)
def test_what_is_json_is_read_as_python_reads_it(text):
    assert json_text.load(text) == json.loads(text)
    assert json_text.load(b"\xef\xbb\xbf" + text.encode()) == json.loads(text)


def test_what_we_wrote_may_hold_numbers_that_are_not_finite(tmp_path):
    (tmp_path / "x.json").write_text('{"loss": NaN, "best": Infinity}')
    values = small_files.read_object(tmp_path / "x.json")
    assert math.isnan(values["loss"]) and math.isinf(values["best"])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"file_name": "a.png", "weight": NaN}', "it holds NaN"),
        ('{"file_name": "a.png", "label": 1, "label": 0}', "it names 'label' twice"),
        ('{"file_name": "a.png", "weight": 1e999}', "which is too large"),
        ('{"file_name": "a.png", "label": ' + "1" * 400 + "}", "which is too large"),
        ('{"file_name": "a.png", "x": ' + "[" * 150 + "]" * 150 + "}", "nested too deep"),
    ],
)
def test_tables_labels_and_maps_refuse_it(tmp_path, text, words):
    path = tmp_path / "t.jsonl"
    path.write_text(text)
    with pytest.raises(ImagesNotFoundError, match=words):
        scan(path)
    with pytest.raises(OptionError, match=words):
        read_class_map(path)
    path.write_text(f"[{text}]")
    with pytest.raises(OptionError, match=words):
        read_labels(path)


HEAD = {"format": "streamkd manifest", "version": 1, "root": "/d", "num_images": 1}


@pytest.mark.parametrize(
    ("names", "label", "words"),
    [
        (["a"], "1" * 30, "it has a label 111111111111111111111111111111, and 1 classes"),
        (["a"], "0.0", "a label 0.0, which is no whole number"),
        (["a"], "true", "a label True, which is no whole number"),
        (["a"], '"0"', "a label '0', which is no whole number"),
        (["a"], "1", "a label 1, and 1 classes"),
        (["a", "a"], "0", "its class_names are no list of different names"),
        ([1, 2], "0", "its class_names are no list of different names"),
        ("ab", "0", "its class_names are no list of different names"),
        ({"a": 0}, "0", "its class_names are no list of different names"),
    ],
)
def test_labels_and_classes_that_no_manifest_has_are_refused(tmp_path, names, label, words):
    head = json.dumps({**HEAD, "class_names": names})
    (tmp_path / "m.jsonl").write_text(f'{head}\n{{"file_name": "a.png", "label": {label}}}\n')
    with pytest.raises(ImagesNotFoundError, match=words):
        scan(tmp_path / "m.jsonl")

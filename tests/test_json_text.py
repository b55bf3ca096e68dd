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


def test_a_label_beyond_every_class_in_a_manifest_is_refused(tmp_path):
    head = {"format": "streamkd manifest", "version": 1, "root": "/d", "class_names": ["a"]}
    entry = '{"file_name": "a.png", "label": %s}\n' % ("1" * 30)
    (tmp_path / "m.jsonl").write_text(json.dumps({**head, "num_images": 1}) + "\n" + entry)
    with pytest.raises(ImagesNotFoundError, match="its lines are not those of a manifest"):
        scan(tmp_path / "m.jsonl")

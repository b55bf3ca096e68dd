"""Names that look the same are told by their code points, wherever names are compared."""

import pytest
from helpers import draw_noise, teach_small
from run_helpers import dense_student

import streamkd as kd
from streamkd.errors import ClassNamesError
from streamkd.manifest.class_names import class_numbers
from streamkd.manifest.labels import collected, map_folders
from streamkd.manifest.look_alikes import difference, pairs, shown
from streamkd.manifest.manifest import scan
from streamkd.manifest.notes import notes_of

NFD, NFC = "cafe\u0301", "caf\u00e9"
ALIKE = [
    (NFD, NFC, r"'cafe\u0301' and 'caf\xe9' differ only in Unicode form"),
    ("\u1112\u1161\u11ab", "\ud55c", r"differ only in Unicode form"),
    ("cat ", "cat", "'cat ' and 'cat' differ only in blanks or characters that are not seen"),
    ("cat\u00a0", "cat", r"'cat\xa0' and 'cat' differ only in blanks"),
    ("c\u200bat", "cat", r"'c\u200bat' and 'cat' differ only in blanks"),
    ("\ufeffcat", "cat", r"'\ufeffcat' and 'cat' differ only in blanks"),
    ("\ufb01sh", "fish", r"'\ufb01sh' and 'fish' differ only in"),
    ("Cat", "cat", "'Cat' and 'cat' differ only in capitals"),
    ("c\u0430t", "cat", r"'c\u0430t' and 'cat' have letters that look alike"),
    ("d\u03bfg", "dog", r"'d\u03bfg' and 'dog' have letters that look alike"),
]
DIFFERENT = [("dog", "cat"), ("sch\u00f6n", "schon"), ("\u043a\u043e\u0442", "cat"), ("a", "")]


@pytest.mark.parametrize(("name", "other", "words"), ALIKE)
def test_a_difference_that_is_not_seen_is_told(name, other, words):
    assert words in difference(name, ["emu", other])
    assert pairs(["emu", other, name]) == [f"{other!a} and {name!a}"]


@pytest.mark.parametrize(("name", "other"), DIFFERENT)
def test_other_names_do_not_look_alike(name, other):
    assert difference(name, ["emu", other]) == "" and pairs([other, name, "emu"]) == []


def test_a_name_is_shown_with_its_code_points():
    assert shown("cat") == "'cat'"
    assert shown(NFC) == r"'café' ('caf\xe9')"


@pytest.mark.parametrize(("name", "other", "words"), ALIKE[:3])
@pytest.mark.parametrize("side", ["store", "class map", "class_names of a map", "labels"])
def test_every_comparison_of_names_tells_it(name, other, words, side):
    calls = {
        "store": lambda: class_numbers([name, "dog"], [other, "dog"], "the store"),
        "class map": lambda: map_folders([name], {other: "x"}, None),
        "class_names of a map": lambda: map_folders([], {"x": other}, [name]),
        "labels": lambda: collected([name]).numbered([other]),
    }
    with pytest.raises(ClassNamesError) as caught:
        calls[side]()
    assert words in str(caught.value)


def draw(root, *names):
    for seed, name in enumerate(names):
        (root / name).mkdir(parents=True)
        draw_noise(root / name / "0.png", (8, 8), seed)
    return root


@pytest.mark.parametrize(("name", "other", "words"), [ALIKE[0], ALIKE[2], ALIKE[4]])
def test_folders_and_class_names_that_look_alike_are_told(tmp_path, name, other, words):
    root = draw(tmp_path, name, "dog")
    with pytest.raises(ClassNamesError) as caught:
        scan(root, class_names=[other, "dog"])
    assert f"{other!a} and {name!a} differ only in" in str(caught.value)
    draw(tmp_path / "both", name, other)
    (note,) = notes_of(scan(tmp_path / "both"))
    assert (note.code, note.count) == ("names_look_equal", 1)


@pytest.mark.filterwarnings("ignore:The teacher")
def test_files_whose_names_have_another_form_are_found_by_their_bytes(tmp_path):
    for root, form in (("linux", NFC), ("mac", NFD)):
        for seed, name in enumerate(("cat", "dog")):
            (tmp_path / root / name).mkdir(parents=True)
            draw_noise(tmp_path / root / name / f"{form}.png", (8, 8), seed)
    function = dense_student(num_classes=2)
    store = teach_small(
        scan(tmp_path / "linux"),
        lambda pixels: function.predict(pixels, verbose=0),
        tmp_path / "s.h5",
    )
    stream = kd.join(tmp_path / "mac", store, batch_size=2, progress=False)
    assert len(stream.images) == 2

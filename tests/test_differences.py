"""Both sides of a difference, as refusals show them."""

import pytest

from streamkd.differences import MAX_CHARACTERS, another, both_sides


@pytest.mark.parametrize(
    ("now", "stored", "lines"),
    [
        (7, 64, ["  now:   7", "  store: 64"]),
        (None, "area", ["  now:   null", '  store: "area"']),
        (["cat", "ant"], [], ['  now:   ["cat", "ant"]', "  store: []"]),
        ({"a": 1, "b": 2}, {"a": 1, "b": 3}, ['  now:   {"b": 2}', '  store: {"b": 3}']),
        ({"a": 1}, {"b": 1}, ['  now:   {"a": 1, "b": null}', '  store: {"a": null, "b": 1}']),
        (
            {"a": {"b": 1, "c": 2}, "d": 0},
            {"a": {"b": 1, "c": 3}, "d": 0},
            ['  now:   {"a": {"c": 2}}', '  store: {"a": {"c": 3}}'],
        ),
        ({"a": 1}, None, ['  now:   {"a": 1}', "  store: null"]),
    ],
    ids=["numbers", "none", "lists", "dicts", "other names", "nested", "dict and none"],
)
def test_entries_that_differ_stand_in_two_lines(now, stored, lines):
    assert both_sides({"now": now, "store": stored}).splitlines() == lines


def test_a_long_value_is_cut():
    first, second = both_sides({"now": "x" * 1000, "store": "y"}).splitlines()
    assert first == '  now:   "' + "x" * (MAX_CHARACTERS - 1) and second == '  store: "y"'


def test_long_lists_are_shown_from_their_first_difference():
    names = [f"class {number}" for number in range(1000)]
    other = [*names[:700], "dog", *names[701:]]
    first, second = both_sides({"now": names, "store": other}).splitlines()
    assert first.startswith('  now:   1,000 entries; from number 700, ["class 700", "class 701"')
    assert second.startswith('  store: 1,000 entries; from number 700, ["dog", "class 701"')
    first, second = both_sides({"now": names, "store": names[:999]}).splitlines()
    assert first == '  now:   1,000 entries; from number 999, ["class 999"]'
    assert second == "  store: 999 entries; from number 999, []"


def test_values_that_json_does_not_know_are_shown_as_text():
    assert both_sides({"now": {1}, "store": 1}) == '  now:   "{1}"\n  store: 1\n'


def test_a_setting_is_named_in_its_number():
    names = ["seed", "metrics", "class_weights", "loss", "--class-names", "image specification"]
    assert list(map(another, names)) == [
        *("another seed", "other metrics", "other class_weights", "another loss"),
        *("other --class-names", "another image specification"),
    ]

"""Reports are dicts, whose keys are also read as attributes."""

import copy
import json
import pickle

import pytest

from streamkd.reports import Report
from streamkd.store.row_store import StoreDescription


class Measured(Report):
    """A report of two fields."""

    accuracy: float | None
    num_images: int


def test_a_report_is_read_as_attributes_as_keys_and_as_a_dict():
    report = Measured(accuracy=0.5, num_images=4)
    assert (report.accuracy, report["accuracy"], report.get("num_images")) == (0.5, 0.5, 4)
    assert report.to_dict() == dict(report) == {**report} == {"accuracy": 0.5, "num_images": 4}
    assert type(report.to_dict()) is dict and {"accuracy", "num_images"} < set(dir(report))


def test_a_report_does_whatever_a_dict_does():
    report = Measured(accuracy=0.5, num_images=4)
    plain = {"accuracy": 0.5, "num_images": 4}
    assert isinstance(report, dict) and report == plain and repr(report) == repr(plain)
    assert json.dumps(report) == json.dumps(plain) and list(report.items()) == list(plain.items())
    assert report | {"run": "a"} == {**plain, "run": "a"} and report.copy() == plain
    report["run"] = "first"
    report |= {"accuracy": 1.0}
    assert report.run == "first" and report.accuracy == 1.0 and report.pop("run") == "first"
    assert Measured(report.items()) == report  # as tf.nest makes a mapping of the same kind


@pytest.mark.parametrize(
    "copied",
    [copy.copy, copy.deepcopy, lambda report: pickle.loads(pickle.dumps(report))],
    ids=["copy", "deepcopy", "pickle"],
)
def test_a_copy_of_a_report_is_a_report(copied):
    report = StoreDescription(num_images=4, teacher=None)
    assert copied(report) == report and type(copied(report)) is StoreDescription


def test_what_is_no_field_is_no_key_and_fields_are_set_as_keys():
    report = Measured(accuracy=None, num_images=0)
    with pytest.raises(KeyError, match="to_dict"):
        report["to_dict"]
    with pytest.raises(AttributeError, match="Measured has no field 'loss'"):
        report.loss  # noqa: B018
    with pytest.raises(AttributeError, match=r"report\['num_images'\] = 3"):
        report.num_images = 3
    assert "accuracy" in report and len(report) == 2 and not hasattr(report, "loss")

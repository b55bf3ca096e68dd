"""Reports are read as attributes, as keys, and as a dict."""

import dataclasses
import json

import pytest

from streamkd.reports import Report


@dataclasses.dataclass(frozen=True, kw_only=True)
class Measured(Report):
    """A report of two fields."""

    accuracy: float | None
    num_images: int


def test_a_report_is_read_as_attributes_as_keys_and_as_a_dict():
    report = Measured(accuracy=0.5, num_images=4)
    assert (report.accuracy, report["accuracy"], report.get("num_images")) == (0.5, 0.5, 4)
    assert report.to_dict() == dict(report) == {"accuracy": 0.5, "num_images": 4}
    assert json.dumps(report.to_dict()) == '{"accuracy": 0.5, "num_images": 4}'


def test_only_fields_are_keys():
    report = Measured(accuracy=None, num_images=0)
    with pytest.raises(KeyError, match="to_dict"):
        report["to_dict"]
    with pytest.raises(dataclasses.FrozenInstanceError):
        report.num_images = 3
    assert "accuracy" in report and len(report) == 2

"""A progress line: images done, images per second, time left."""

import io
import sys

from streamkd.progress import image_progress


def test_a_line_carries_images_per_second_and_the_time_left(monkeypatch):
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    with image_progress(100, 40, "teaching") as bar:
        bar.update(20)
        # As it is 10 seconds later: 20 images were done, and 40 are left.
        line = bar.format_meter(**{**bar.format_dict, "elapsed": 10.0, "ncols": 79, "rate": None})
    assert line.startswith("teaching:  60%|") and "60.0/100" in line
    assert "[00:10<00:20, 2.00 images/s]" in line


def test_a_log_file_gets_the_first_line_and_one_that_is_quiet_gets_none(monkeypatch):
    for shown in (True, False):
        stream = io.StringIO()
        monkeypatch.setattr(sys, "stderr", stream)
        with image_progress(100, 0, "teaching", shown) as bar:
            bar.update(50)
        assert ("teaching:   0%|" in stream.getvalue()) is shown
        assert shown or stream.getvalue() == ""

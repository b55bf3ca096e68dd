"""Lines of C libraries are caught, sorted and counted; those of other parties are passed on."""

import ctypes
import io
import logging
import os
import subprocess
import threading
import warnings

import numpy as np
import pytest
from PIL import Image
from process_helpers import finished, process

import streamkd as kd
from streamkd.cli import collect_warnings
from streamkd.cli.answer import Answer
from streamkd.codes import StreamkdWarning
from streamkd.pixels.check_images import check_images
from streamkd.tf_support import native_lines
from streamkd.tf_support.native_lines import listening, take

JUNK = "Corrupt JPEG data: 9 extraneous bytes before marker 0xd9"
# Writes a line as a C library does.
PRINT = """
import ctypes, os, sys
from streamkd.tf_support import native_lines
libc = ctypes.CDLL(None)
libc.fputs.argtypes = [ctypes.c_char_p, ctypes.c_void_p]
def c_line(text):
    libc.fputs(text, ctypes.c_void_p.in_dll(libc, "stderr"))
"""


def c_line(text):
    """Writes a line as a C library does: through the variable `stderr` of glibc."""
    libc = ctypes.CDLL(None)
    libc.fputs(f"{text}\n".encode(), ctypes.c_void_p.in_dll(libc, "stderr"))


def c_stderr():
    return ctypes.c_void_p.in_dll(ctypes.CDLL(None), "stderr").value


@pytest.fixture(autouse=True)
def _nothing_heard():
    take()


@pytest.mark.parametrize(
    "line",
    [
        JUNK,
        "Premature end of JPEG file",
        "Warning: unknown JFIF revision number 5.05",
        "libpng warning: iCCP: profile 'x': 'RGB ': RGB color space not permitted",
        "TIFFReadDirectory: Warning, Unknown field with tag 50000 (0xc350) encountered.",
        "tempfile.tif: Using code not yet in table.",
        '_TIFFVSetField: tempfile.tif: Bad value 9 for "PlanarConfiguration" tag.',
        "Improper call to JPEG library in state 201",
        "Invalid component ID 207 in SOS",
        "LZWDecode: Not enough data at scanline 0 (short 9 bytes).",
        "W0000 00:00:1795792545.788202   25481 png_io.cc:96] PNG warning: iCCP: too short",
    ],
)
def test_a_complaint_about_an_image_is_kept_and_not_shown(line, capfd):
    with listening():
        c_line(line)
    count, lines = take()
    assert count == 1 and line.endswith(lines[0])
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(
    "line",
    [
        "terminate called after throwing an instance of 'std::bad_alloc'",
        "OMP: Error #15: Initializing libiomp5.so",
        "F0000 00:00:1795792545.788202   25481 tensor.cc:96] Check failed: x",
        "  an indented line of some other library",
    ],
)
def test_a_line_of_another_party_is_passed_on(line, capfd):
    with listening():
        c_line(line)
        c_line(JUNK)
        os.write(2, b"a progress bar\n")
    assert capfd.readouterr().err == f"a progress bar\n{line}\n"
    assert take()[0] == 1


@pytest.mark.parametrize(
    ("level", "shown"), [("0", True), ("2", True), ("3", False), (None, False)]
)
def test_a_line_of_tensorflow_is_shown_from_the_user_s_level_on(level, shown, capfd, monkeypatch):
    monkeypatch.delenv("TF_CPP_MIN_LOG_LEVEL", raising=False)
    if level is not None:
        monkeypatch.setenv("TF_CPP_MIN_LOG_LEVEL", level)
    with listening():
        c_line("E0000 00:00:1795792545.752055   25481 cuda_platform.cc:52] failed call to cuInit:")
        c_line("  its second row")
    assert ("cuInit" in capfd.readouterr().err) is shown


def test_the_last_of_several_listeners_gives_standard_error_back(capfd):
    own = c_stderr()
    first, second = listening(), listening()
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert c_stderr() != own
    second.__exit__(None, None, None)
    assert c_stderr() == own
    c_line("shown at once")
    assert capfd.readouterr().err == "shown at once\n"


def test_standard_error_is_given_back_after_an_error():
    own, show = c_stderr(), warnings.showwarning
    with pytest.raises(KeyboardInterrupt), listening():
        raise KeyboardInterrupt
    assert (c_stderr(), warnings.showwarning) == (own, show)


def test_no_line_is_lost_among_threads(capfd):
    def write(number):
        for line in range(200):
            c_line(f"thread {number} line {line}")
            native_lines.num_bytes()

    threads = [threading.Thread(target=write, args=(number,)) for number in range(4)]
    with listening():
        for thread in threads:
            thread.start()
        for thread in threads:
            native_lines._sort_lines()
            thread.join()
    lines = capfd.readouterr().err.splitlines()
    assert sorted(lines) == sorted(f"thread {n} line {i}" for n in range(4) for i in range(200))


def test_a_child_that_was_forked_leaves_the_lines_of_its_parent_alone():
    program = f"""{PRINT}
native_lines.hold()
c_line(b"of the parent\\n")
if not os.fork():
    c_line(b"of the child\\n")
    libc.exit(0)
os.wait()
"""
    _, errors = finished("-c", program)
    assert sorted(errors.splitlines()) == ["of the child", "of the parent"]


def test_the_last_line_before_an_abort_is_written():
    with process("-c", f"{PRINT}\nnative_lines.hold()\nc_line(b'why\\n')\nos.abort()") as child:
        assert "why" in child.communicate(timeout=60)[1]


@pytest.mark.parametrize("before", ["os.close(2)", "os.close(2); sys.stderr = None"])
def test_a_closed_standard_error_is_no_fault(before):
    program = f"{PRINT}\n{before}\nnative_lines.hold()\nc_line(b'x\\n')\nprint('done')"
    assert finished("-c", program)[0] == "done\n"


def test_a_full_pipe_that_nobody_reads_stops_no_complaint():
    program = f"""{PRINT}
native_lines.hold()
for _ in range(5000):
    c_line(b"{JUNK}\\n")
print(native_lines.take()[0], flush=True)
"""
    with process("-c", program, stderr=subprocess.PIPE) as child:
        assert child.stdout.readline() == "5000\n"
        assert child.communicate(timeout=60)[1] == ""


def test_warnings_and_log_of_pillow_are_kept_each_time_and_others_are_shown():
    with warnings.catch_warnings(record=True, action="always") as shown, listening():
        for _ in range(2):
            warnings.warn_explicit(
                "Truncated", UserWarning, f"x{os.sep}PIL{os.sep}y.py", 1, "PIL.y"
            )
            assert native_lines.take_own() == "Truncated"
        logging.getLogger("PIL.TiffImagePlugin").warning("More samples per pixel than %d", 4)
        warnings.warn("of the user", UserWarning, stacklevel=1)
    assert [str(warning.message) for warning in shown] == ["of the user"]
    assert take() == (3, ["Truncated", "Truncated", "More samples per pixel than 4"])


def jpeg():
    data = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 255, (24, 32, 3), np.uint8)
    Image.fromarray(pixels).save(data, "JPEG")
    return data.getvalue()


GOOD = jpeg()
SUSPICIOUS = {
    "junk_before_the_end.jpg": GOOD[:-2] + b"abc" * 9 + GOOD[-2:],
    "much_junk_before_the_end.jpg": GOOD[:-2] + bytes(range(1, 201)) + GOOD[-2:],
    "damaged_within.jpg": GOOD[:-300] + bytes(range(1, 21)) + GOOD[-280:],
    "odd_revision.jpg": GOOD[:11] + b"\5\5" + GOOD[13:],
    "junk_before_a_table.jpg": GOOD[:20] + b"junk" + GOOD[20:],
}


def test_a_check_lists_the_files_about_which_decoders_complain(tmp_path, capfd):
    files = {**SUSPICIOUS, **{f"good{number}.jpg": GOOD for number in range(20)}}
    (tmp_path / "a").mkdir()
    for name, data in files.items():
        (tmp_path / "a" / name).write_bytes(data)
    report = check_images(kd.scan(tmp_path), progress=False)
    assert report.bad == []
    (note,) = report.notes
    assert (note.code, note.count) == ("suspicious_images", len(SUSPICIOUS))
    assert [example.partition(":")[0] for example in note.examples] == [
        f"a/{name}" for name in sorted(SUSPICIOUS)
    ]
    assert note.examples[2].endswith("Corrupt JPEG data: 21 extraneous bytes before marker 0xd9")
    assert capfd.readouterr().err == ""


def test_a_check_of_good_files_has_no_note(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "0.jpg").write_bytes(GOOD)
    assert check_images(kd.scan(tmp_path), progress=False).notes == []


def test_a_command_warns_once_of_all_complaints(monkeypatch):
    monkeypatch.setattr(native_lines, "is_held", lambda: True)

    @collect_warnings.with_warnings
    def command(args):
        with listening():
            for _ in range(3):
                c_line(JUNK)
        return Answer({})

    with pytest.warns(StreamkdWarning, match="complained 3 times, and went on"):
        answer = command(None)
    (warning,) = answer.fields["warnings"]
    assert warning["code"] == "suspicious_images"
    assert "`streamkd scan IMAGES --check` names the files" in warning["message"]

"""The first signal sets a flag, the second ends at once, and the handlers are put back."""

from __future__ import annotations

import json
import os
import signal
import threading

import pytest

from streamkd.cli import commands
from streamkd.cli.main import main
from streamkd.cli.signals import StoppedError, StopSignals, TerminatedError, sigterm_raises

BOTH = [signal.SIGINT, signal.SIGTERM]
LINE = "streamkd: finishing this step and saving; press Ctrl-C again to stop immediately\n"


@pytest.fixture(autouse=True)
def same_handlers():
    """Every test leaves the handlers as it found them."""
    before = [signal.getsignal(number) for number in BOTH]
    yield
    assert [signal.getsignal(number) for number in BOTH] == before


@pytest.mark.parametrize("number", BOTH)
def test_the_first_signal_only_sets_the_flag_and_says_so_once(number, capfd):
    with StopSignals() as signals:
        assert not signals.arrived()
        os.kill(os.getpid(), number)
        assert signals.arrived() and signals.first == number
    assert signals.arrived()
    assert capfd.readouterr() == ("", LINE)


@pytest.mark.parametrize(
    ("number", "error"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, TerminatedError)]
)
def test_a_second_signal_raises_at_once(number, error, capfd):
    with pytest.raises(error), StopSignals() as signals:  # noqa: PT012  nothing else can raise it
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), number)
        raise AssertionError("went on")
    assert signals.first == signal.SIGTERM
    assert capfd.readouterr().err == LINE


def test_outside_of_the_main_thread_nothing_happens():
    states = []

    def work():
        with StopSignals() as signals, sigterm_raises():
            states.append((signals.arrived(), [signal.getsignal(number) for number in BOTH]))

    before = [signal.getsignal(number) for number in BOTH]
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert states == [(False, before)]


def test_a_signal_that_was_ignored_stays_ignored(capfd):
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with StopSignals() as signals:
            os.kill(os.getpid(), signal.SIGINT)
            assert not signals.arrived()
    finally:
        signal.signal(signal.SIGINT, before)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(
    ("number", "code", "word"),
    [(None, 130, "Interrupted"), (BOTH[0], 130, "Interrupted"), (BOTH[1], 143, "Terminated")],
)
def test_a_command_that_stopped_in_order_answers_130_or_143(
    number, code, word, monkeypatch, capsys
):
    def inspect(args):
        with StopSignals() as signals:
            if number is not None:
                os.kill(os.getpid(), number)
        raise signals.stopped_error("The run is saved at step 3 in r.")

    monkeypatch.setattr(commands, "inspect", inspect)
    assert main(["inspect", "s.h5", "--json"]) == code
    assert json.loads(capsys.readouterr().out) == {
        "error": {
            "code": "interrupted",
            "message": f"{word}. The run is saved at step 3 in r.",
            "key": None,
        }
    }


def test_the_error_that_ends_a_command_is_an_ordinary_exception_and_its_signal_is_not():
    assert issubclass(StoppedError, Exception)
    assert not issubclass(TerminatedError, Exception)

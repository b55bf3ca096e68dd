"""When a run saves, and how many steps a call takes, by a clock that the test sets."""

from __future__ import annotations

import pytest

from streamkd.training.pacing import CALL_SECS, SAVE_SECS, CallSizer, SaveSchedule


class Clock:
    """Shows the time that it is set to."""

    seconds = 1000.0

    def __call__(self):
        return self.seconds


def test_a_checkpoint_is_due_every_so_many_steps():
    schedule = SaveSchedule(3, Clock())
    assert [step for step in range(1, 10) if schedule.is_due(step)] == [3, 6, 9]
    assert [schedule.steps_to_go(step) for step in (0, 1, 2, 3)] == [3, 2, 1, 3]


@pytest.mark.parametrize("every_steps", [None, 10**9])
def test_a_checkpoint_is_due_after_ten_minutes_without_one(every_steps):
    clock = Clock()
    schedule = SaveSchedule(every_steps, clock)
    clock.seconds += SAVE_SECS
    assert not schedule.is_due(1)
    clock.seconds += 1
    assert schedule.is_due(1)
    schedule.restart()
    assert not schedule.is_due(2)
    clock.seconds += SAVE_SECS + 1
    assert schedule.is_due(3)


def test_without_a_number_of_steps_no_call_is_cut_short():
    assert SaveSchedule(None, Clock()).steps_to_go(7) > 10**9


def test_calls_double_as_long_as_they_stay_short():
    sizer = CallSizer(20)
    sizes = [sizer.num_steps]
    for _ in range(6):
        sizer.adapt(CALL_SECS / 1000)
        sizes.append(sizer.num_steps)
    assert sizes == [1, 2, 4, 8, 16, 20, 20]


def test_a_call_of_long_steps_takes_about_a_second():
    sizer = CallSizer(32)
    for _ in range(6):
        sizer.adapt(CALL_SECS / 1000)
    sizer.adapt(CALL_SECS / 5)
    assert sizer.num_steps == 5
    sizer.adapt(10 * CALL_SECS)
    assert sizer.num_steps == 1, "never less"


def test_a_callback_that_wants_every_batch_gets_one_step_a_call():
    sizer = CallSizer(1)
    sizer.adapt(CALL_SECS / 1000)
    assert sizer.num_steps == 1

"""Waiting for a condition. No test sleeps in place of waiting for something."""

import time

DEADLINE_S = 20.0
PAUSE_S = 0.01


def wait_for(condition, what, deadline_s=DEADLINE_S):
    """Return the first true value of condition(); fail with `what` after the deadline."""
    end = time.monotonic() + deadline_s
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > end:
            text = what() if callable(what) else what
            raise AssertionError(f"waited {deadline_s:.0f} s for {text}")
        time.sleep(PAUSE_S)


def pass_time(seconds):
    """Let time pass for its own sake: to hit a process at different instants of its life."""
    time.sleep(seconds)

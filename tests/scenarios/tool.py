"""The program under test, run inside a namespace."""

import contextlib
import os
import signal
import subprocess

import processes
from report import Report
from waiting import DEADLINE_S, wait_for

BINARY = os.path.join(os.path.dirname(os.path.abspath(__file__)), "../../target/release/conntracker")
READY = "conntracker: capturing"
WATCHDOG = "conntracker-dog"
NOBODY = 65534


class Tool:
    """One run of the tool. Its standard output and error go to files in `folder`, unless the caller gives something else."""

    _serial = 0

    def __init__(self, network, folder, *options, side="router", binary=None, wrapper=(), **popen):
        Tool._serial += 1
        self._network, self._side = network, side
        stem = os.path.join(folder, f".tool{Tool._serial}")
        self._paths = {name: f"{stem}.{name}" for name in ("stdout", "stderr")}
        self._files = [open(path, "wb") for path in self._paths.values()]
        popen.setdefault("stdout", self._files[0])
        popen.setdefault("stderr", self._files[1])
        popen.setdefault("stdin", subprocess.DEVNULL)
        popen.setdefault("cwd", folder)
        self.argv = [*wrapper, os.path.abspath(binary or BINARY), *options]
        with network.inside(side):
            self.process = processes.start(self.argv, **popen)
        for file in self._files:
            file.close()

    @property
    def pid(self):
        return self.process.pid

    def errors(self):
        with open(self._paths["stderr"], encoding="utf-8", errors="backslashreplace") as file:
            return file.read()

    @property
    def output_path(self):
        return self._paths["stdout"]

    def output(self):
        with open(self._paths["stdout"], encoding="utf-8", errors="backslashreplace") as file:
            return file.read()

    def summary(self):
        """The line that says whether the run was complete."""
        lines = [line for line in self.errors().splitlines() if line.startswith(("conntracker: complete", "conntracker: incomplete"))]
        return lines[-1] if lines else ""

    def report(self):
        return Report(self.output())

    def is_running(self):
        return self.process.poll() is None

    def wait_until_capturing(self):
        wait_for(lambda: READY in self.errors().splitlines() or not self.is_running(), lambda: f"{READY!r}, stderr: {self.errors()}")
        if not self.is_running():
            raise AssertionError(f"{' '.join(self.argv)}: exit {self.process.returncode} in place of capturing: {self.errors()}")
        return self

    def wait_for_error_line(self, text):
        wait_for(lambda: text in self.errors(), lambda: f"{text!r} on stderr, which has: {self.errors()}")

    def send(self, number):
        self.process.send_signal(number)

    def wait(self, deadline_s=DEADLINE_S):
        """The exit code of a tool that ends by itself or was told to."""
        try:
            return self.process.wait(deadline_s)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"{' '.join(self.argv)}: still runs after {deadline_s:.0f} s; stderr: {self.errors()}") from None

    def stop(self, number=signal.SIGTERM):
        self.send(number)
        return self.wait()

    def kill(self):
        processes.kill(self.process)

    def end(self):
        """With what runs beside it."""
        processes.end(self.process)
        with contextlib.suppress(AssertionError):
            wait_for(lambda: not self.watchdogs(), "the watchdog to end", deadline_s=5)
        for pid in self.watchdogs():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def watchdogs(self):
        """The processes that watch over a tool in the namespace of this one."""
        return [int(pid) for pid in self._network.processes(self._side) if name_of(pid) == WATCHDOG]


def name_of(pid):
    """As ps(1) shows it; None for a process that has ended."""
    try:
        with open(f"/proc/{pid}/comm", encoding="utf-8", errors="backslashreplace") as file:
            return file.read().strip()
    except (FileNotFoundError, ProcessLookupError):
        return None

"""The program under test in the background, with a /dev/log of its own to talk to."""

import contextlib
import os
import re
import signal
import socket

from tool import Tool
from waiting import DEADLINE_S, wait_for

# A /dev with what the program needs, and a log that is a socket in the folder of the test, if that is there.
OWN_DEV = """
log=$1 small=$2 size=$3
shift 3
[ -z "$small" ] || mount -t tmpfs -o size=$size tmpfs "$small"
mount -t tmpfs -o size=64k tmpfs /dev
mknod -m 666 /dev/null c 1 3
mknod -m 666 /dev/full c 1 7
mknod -m 666 /dev/urandom c 1 9
ln -s "$log" /dev/log
exec "$@"
"""
RFC_3164 = re.compile(
    r"<(?P<priority>\d+)>(?P<time>(Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec) [ 123]\d \d\d:\d\d:\d\d) "
    r"conntracker\[(?P<pid>\d+)\]: (?P<text>.*)"
)


class Syslogd:
    """A socket that log messages come to."""

    def __init__(self, path, backlog=None):
        self.path = path
        self.messages = []
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self.socket.bind(path)
        os.chmod(path, 0o666)

    def read(self):
        """All messages so far, as (priority, pid, text); one in another form fails."""
        with contextlib.suppress(BlockingIOError):
            while True:
                datagram = self.socket.recv(65536)
                match = RFC_3164.fullmatch(datagram.decode())
                assert match, datagram
                self.messages.append((int(match["priority"]), int(match["pid"]), match["text"]))
        return self.messages

    def texts(self):
        return [text for _, _, text in self.read()]

    def wait_for(self, text, count=1):
        wait_for(
            lambda: sum(text in each for each in self.texts()) >= count,
            lambda: f"{count} messages with {text!r}, have {self.texts()}",
        )

    def close(self):
        self.socket.close()
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.path)


class Daemon:
    """A run with -d. Ends with the scenario. `small` is a folder that it finds to be a small file system, and its size;
    `runner` is what runs it."""

    def __init__(self, scenario, *options, pidfile="pid", side="router", log=None, small=("", ""), runner=(), **popen):
        self.scenario = scenario
        self.pidfile = scenario.path(pidfile)
        log = log or scenario.path("log")
        wrapper = ["unshare", "--mount", "sh", "-ec", OWN_DEV, "sh", log, *small, *runner]
        self.caller = Tool(
            scenario.network, scenario.folder, "-d", "--pidfile", self.pidfile, *options, side=side, wrapper=wrapper, **popen
        )
        scenario.addCleanup(self.end)
        self.pid = None

    def wait_until_started(self):
        """The caller is gone, and all is in place."""
        status = self.caller.wait()
        self.scenario.assertEqual(status, 0, self.caller.errors())
        with open(self.pidfile, encoding="ascii") as file:
            self.pid = int(file.read())
        return self

    def wait_until_refused(self, status=1):
        """It did not start: one line says why."""
        self.scenario.assertEqual(self.caller.wait(), status, self.caller.errors())
        (line,) = self.caller.errors().splitlines()
        return line

    def is_running(self):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            with open(f"/proc/{self.pid}/stat", encoding="ascii", errors="replace") as file:
                return file.read().rpartition(")")[2].split()[0] not in "ZX"
        return False

    def send(self, number):
        os.kill(self.pid, number)

    def wait(self, deadline_s=DEADLINE_S):
        wait_for(lambda: not self.is_running(), f"process {self.pid} to end", deadline_s=deadline_s)

    def stop(self, number=signal.SIGTERM):
        self.send(number)
        self.wait()

    def end(self):
        pid = self.pid
        if pid is None:
            with contextlib.suppress(FileNotFoundError, ValueError):
                with open(self.pidfile, encoding="ascii") as file:
                    pid = int(file.read())
        if pid is not None and self.is_ours(pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            self.pid = pid
            self.wait()
        self.caller.end()

    def is_ours(self, pid):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            with open(f"/proc/{pid}/cmdline", "rb") as file:
                return self.pidfile.encode() in file.read().split(b"\0")
        return False

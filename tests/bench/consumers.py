"""What reads: conntracker, its peers, and the bare reader. Each says itself how much it read."""

import glob
import json
import os
import re
import signal
import subprocess
import time

import processes
import witness
from ground import CONSUMER_CPU, Failed, cpu_ns, waited_s
from waiting import wait_for

# What has not run for so long has nothing to do: the kernel halts a SCHED_FIFO process for 50 ms in each second.
STILL_S = 0.08
PATIENCE_S = 120


def number_in(pattern, text):
    found = re.search(pattern, text)
    if found is None:
        raise Failed(f"no {pattern!r} in {text!r}")
    return int(found[1])


class Consumer:
    """A process in the router that hears events, from its start to `stop`."""

    name = "?"
    _serial = 0

    def __init__(self, ground, argv, buffer=False):
        Consumer._serial += 1
        stem = ground.path(f"consumer{Consumer._serial}")
        self.output, self.error = f"{stem}.out", f"{stem}.err"
        environment = dict(os.environ, LC_ALL="C")
        if buffer:
            environment["LD_PRELOAD"] = ground.built.buffer
        with open(self.error, "wb") as error, open(self.out_path(), "wb") as out:
            self.process = ground.start(argv, "router", CONSUMER_CPU, stdout=out, stderr=error, env=environment)
        self.began = self.process.began
        self.usage = None

    def out_path(self):
        return self.output

    @property
    def pid(self):
        return self.process.pid

    def said(self):
        with open(self.error, encoding="utf-8", errors="replace") as file:
            return file.read()

    def sockets(self):
        return witness.netlink_sockets(self.pid)

    def ready(self):
        wait_for(lambda: self.process.poll() is not None or self.sockets(), f"{self.name} to listen")
        if self.process.poll() is not None:
            raise Failed(f"{self.name} ended: {self.said()}")
        return self.settled()

    def halt(self):
        self.process.send_signal(signal.SIGSTOP)
        wait_for(lambda: _state(self.pid) == "T", f"{self.name} to stop")

    def resume(self):
        self.process.send_signal(signal.SIGCONT)

    def settled(self):
        """Waits until nothing is queued and it does nothing; `self.still` is when that began."""
        last, since, end = None, 0.0, time.monotonic() + PATIENCE_S
        while True:
            now, cpu = time.monotonic(), cpu_ns(self.pid)
            if cpu != last or any(each["rmem"] for each in self.sockets()):
                last, since = cpu, now
            elif now - since > STILL_S:
                self.still = since
                return self
            if now > end:
                raise Failed(f"{self.name} does not come to rest: {self.sockets()}")
            time.sleep(0.001)

    def lost(self):
        return sum(each["drops"] for each in self.sockets())

    def stop(self):
        """Ends it; its memory and CPU are in `usage` afterwards. Returns how many it read."""
        self.process.send_signal(signal.SIGTERM)
        _, status, self.usage = os.wait4(self.pid, 0)
        self.process.returncode = os.waitstatus_to_exitcode(status)
        processes.end(self.process)
        return self.read()

    def read(self):
        raise NotImplementedError


class Conntracker(Consumer):
    name = "conntracker"

    def __init__(self, ground, *options, output="/dev/null"):
        self.report_path = output
        super().__init__(ground, [ground.built.binary, "-o", output, *options])

    def ready(self):
        wait_for(lambda: "conntracker: capturing" in self.said() or self.process.poll() is not None, "conntracker to capture", PATIENCE_S)
        return super().ready()

    def read(self):
        return number_in(r"complete: .*?(\d+) new", self.said())

    def flows(self):
        return number_in(r"complete: .*?(\d+) flows", self.said())

    def stats(self):
        with open(self.report_path, encoding="utf-8") as file:
            return json.loads(file.readlines()[-1])


class Conntrack(Consumer):
    name = "conntrack -E"

    def __init__(self, ground):
        super().__init__(ground, ["conntrack", "-E", "-e", "NEW"], buffer=True)

    def out_path(self):
        return "/dev/null"

    def read(self):
        return number_in(r"(\d+) flow events have been shown", self.said())


class Ulogd(Consumer):
    name = "ulogd2 JSON"

    def __init__(self, ground):
        (plugins,) = glob.glob("/usr/lib/*/ulogd") or ["/usr/lib/ulogd"]
        self.lines = ground.path("ulogd.json")
        configuration = ground.path("ulogd.conf")
        here = os.path.dirname(os.path.abspath(__file__))
        with open(os.path.join(here, "ulogd.conf"), encoding="ascii") as model, open(configuration, "w", encoding="ascii") as file:
            file.write(model.read().replace("@PLUGINS@", plugins).replace("@FOLDER@", ground.folder))
        super().__init__(ground, ["ulogd", "-c", configuration], buffer=True)

    def read(self):
        with open(self.lines, "rb") as file:
            count = sum(1 for _ in file)
        os.unlink(self.lines)
        return count


class Reader(Consumer):
    name = "bare reader"

    def __init__(self, ground, mode="events", rest_us=0, kept_len=0):
        super().__init__(ground, [ground.built.reader, mode, str(rest_us), str(kept_len)])

    def read(self):
        with open(self.output, encoding="ascii") as file:
            return int(file.read())


class NftMonitor(Consumer):
    name = "nft monitor trace"

    def __init__(self, ground):
        super().__init__(ground, ["nft", "monitor", "trace"], buffer=True)

    def read(self):
        """A line for each message but the end of a chain, and one for the packet where the message has one."""
        with open(self.output, encoding="utf-8", errors="replace") as file:
            return sum(1 for line in file if line.startswith("trace id") and " packet: " not in line)


def run_to_end(ground, argv):
    """Seconds that a command takes, without those that it waits for its CPU, and what it said (little: nobody reads it before)."""
    process = ground.start(argv, "router", CONSUMER_CPU, stdout=subprocess.DEVNULL if argv[0] == "conntrack" else subprocess.PIPE,
                           stderr=subprocess.PIPE, text=True)
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    took = time.monotonic() - process.began - waited_s(process.pid)
    out, error = process.communicate()
    processes.end(process)
    if process.returncode != 0:
        raise Failed(f"{' '.join(argv)}: exit {process.returncode}: {error}")
    return took, f"{out or ''}{error}"


def _state(pid):
    with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
        return file.read().rpartition(")")[2].split()[0]

"""Where it is measured: a network of namespaces (tests/scenarios/network.py draws it), the generator, and settings of
the whole machine that are raised meanwhile."""

import concurrent.futures
import contextlib
import mmap
import os
import shutil
import signal
import struct
import subprocess
import tempfile
import time

import network
import processes
import witness

CPUS = sorted(os.sched_getaffinity(0))
GENERATOR_CPU, CONSUMER_CPU = CPUS[0], CPUS[-1]
PRIORITY = 10
ROUTER_MAC = "02:77:01:00:00:01"

# Packets end at the server's door, so that what they cost is their way through the router.
SINK = "table netdev bench { chain sink { type filter hook ingress device s0 priority 0; policy accept; udp dport 9 drop; }; }"
TRACKING = "table inet tracking { chain forward { type filter hook forward priority 0; policy accept; ct state invalid counter; }; }"


class Failed(Exception):
    """Something could not be run, or did not do the work."""


class Settings:
    """Numbers of /proc/sys that are the whole machine's: only ever raised, and given back."""

    def __init__(self):
        self._before = []

    def raise_to(self, name, least):
        path = "/proc/sys/" + name.replace(".", "/")
        with open(path, encoding="ascii") as file:
            now = int(file.read())
        if now < least:
            self._write(path, least)
            self._before.append((path, now))

    def restore(self):
        while self._before:
            self._write(*self._before.pop())

    @staticmethod
    def _write(path, value):
        with open(path, "w", encoding="ascii") as file:
            file.write(str(value))


class Ground:
    def __init__(self, built):
        self.built = built
        self.settings = Settings()
        self.network = None
        self.folder = None
        self.is_fifo = subprocess.run(["chrt", "-f", str(PRIORITY), "true"], capture_output=True, check=False).returncode == 0
        self._first = 0

    @contextlib.contextmanager
    def standing(self):
        try:
            self.folder = tempfile.mkdtemp(prefix="conntracker-bench-", dir="/dev/shm")
            self.network = network.Network().up()
            self.network.run("router", "ip", "route", "add", "10.96.0.0/13", "via", "10.77.1.2")
            self.network.nft(SINK, "server")
            self.network.nft(TRACKING)
            yield self
        finally:
            before = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)}
            processes.end_all()
            network.remove_all()
            self.settings.restore()
            if self.folder:
                shutil.rmtree(self.folder)
            for number, handler in before.items():
                signal.signal(number, handler)

    def path(self, name):
        return os.path.join(self.folder, name)

    def start(self, argv, side, cpu, **options):
        """A process on a CPU of its own, ahead of everything else there; `began` is when it was about to be loaded."""
        began = mmap.mmap(-1, 8)

        def prepare():
            os.sched_setaffinity(0, {cpu})
            if self.is_fifo:
                os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(PRIORITY))
            began[:] = struct.pack("d", time.monotonic())

        with self.network.inside(side):
            process = processes.start(argv, stdin=subprocess.DEVNULL, preexec_fn=prepare, **options)
        (process.began,) = struct.unpack("d", began)
        return process

    def room_for(self, flows):
        """In conntrack: entries of before go, and the table may hold so many."""
        self.settings.raise_to("net.netfilter.nf_conntrack_max", flows + flows // 8)
        self.network.run("router", "conntrack", "-F")

    def send(self, kind, count, per_second=0, first=None):
        """Has the generator work to its end. Returns nanoseconds of CPU of a packet, its softirqs included."""
        if first is None:
            first, self._first = self._first, self._first + count
        argv = [self.built.generator, kind, "c0", ROUTER_MAC, str(count), str(per_second), str(first)]
        softirqs = softirq_ns(GENERATOR_CPU)
        process = self.start(argv, "client", GENERATOR_CPU, stdout=subprocess.PIPE, text=True)
        said, _ = process.communicate()
        processes.end(process)
        if process.returncode != 0 or int(said.split()[0]) != count:
            raise Failed(f"the generator: exit {process.returncode}, {said!r}")
        return (int(said.split()[2]) + softirq_ns(GENERATOR_CPU) - softirqs) / count

    @staticmethod
    def later(seconds, work):
        """Does it after a while, beside what goes on. The function that is returned waits for what it gave."""
        pool = concurrent.futures.ThreadPoolExecutor(1)
        future = pool.submit(lambda: (time.sleep(seconds), work())[1])
        pool.shutdown(wait=False)
        return future.result

    def new_flows(self, count, per_second=0):
        """Flows that were not there before, in an empty table; conntrack itself says that there are so many."""
        before = witness.flow_count(self.network)
        cost = self.send("flows", count, per_second)
        made = witness.flow_count(self.network) - before
        if made != count:
            raise Failed(f"{count} flows were sent, and conntrack has {made} more")
        return cost


def softirq_ns(cpu):
    """CPU time of the thread that does what softirqs leave over."""
    for name in os.listdir("/proc"):
        with contextlib.suppress(OSError):
            if name.isdigit() and _read(f"/proc/{name}/comm").strip() == f"ksoftirqd/{cpu}":
                return cpu_ns(name)
    return 0


def cpu_ns(pid):
    return int(_read(f"/proc/{pid}/schedstat").split()[0])


def waited_s(pid):
    """Seconds that it could have run and others did: of one that is ahead of them and never rests, Linux takes 50 ms each second."""
    return int(_read(f"/proc/{pid}/schedstat").split()[1]) / 1e9


def memory_kib(pid, name):
    (line,) = (line for line in _read(f"/proc/{pid}/status").splitlines() if line.startswith(name + ":"))
    return int(line.split()[1])


def _read(path):
    with open(path, encoding="utf-8", errors="replace") as file:
        return file.read()

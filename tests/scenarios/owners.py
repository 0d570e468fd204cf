"""What the scenarios of -b have in common: processes that the test starts itself, and reports compared with what these are."""

import json
import os
import pwd
import shutil
import subprocess
import sys

import processes
from scenario import Scenario
from waiting import wait_for

ACTOR = os.path.join(os.path.dirname(os.path.abspath(__file__)), "actor.py")
PYTHON = os.path.realpath(sys.executable)
RUNGS = ("cgroup", "procfs")
LOOPBACK = {4: "127.0.0.1", 6: "::1"}
ANY = {4: "0.0.0.0", 6: "::"}
NAMELESS = 54321  # no user of /etc/passwd


def user_name(uid):
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return None


class Who:
    """A process as the test knows it: some of it from the start, the rest from /proc while it runs."""

    def __init__(self, pid, comm, uid, argv=None, parent=None, executable=None):
        self.pid, self.comm, self.uid = pid, comm, uid
        self.argv, self.parent, self.executable = argv, parent or os.getpid(), executable
        self.cgroup = self.netns = None

    def look(self):
        """What only the kernel knows."""
        with open(f"/proc/{self.pid}/cgroup", encoding="ascii") as file:
            self.cgroup = [line.rstrip("\n")[3:] for line in file if line.startswith("0::")][0]
        self.netns = os.stat(f"/proc/{self.pid}/ns/net").st_ino
        self.executable = os.readlink(f"/proc/{self.pid}/exe")
        return self

    def in_text(self):
        user = user_name(self.uid)
        return f"{self.comm},pid:{self.pid},uid:{self.uid if user is None else user}"

    def short(self):
        return {"pid": self.pid, "comm": self.comm, "uid": self.uid}

    def full(self):
        """Every field of the JSON but how it is known."""
        told = {
            **self.short(), "ppid": self.parent, "user": user_name(self.uid), "command_line": " ".join(self.argv),
            "executable": self.executable, "cgroup": self.cgroup, "netns": self.netns,
        }
        return {name: value for name, value in told.items() if value is not None}

    def __repr__(self):
        return f"({self.in_text()})"


class Actor:
    """actor.py, running."""

    def __init__(self, network, side, name, uid=0):
        self.name, self.uid = name, uid
        self.argv = [PYTHON, "-IS", ACTOR, name]
        with network.inside(side):
            self.process = processes.start(self.argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def ready(self):
        line = self.process.stdout.readline()
        if not line:
            raise AssertionError(f"{self.name} did not start")
        assert json.loads(line) == self.process.pid
        if self.uid:
            self.do(["become", self.uid])
        return self

    @property
    def pid(self):
        return self.process.pid

    def do(self, *steps):
        """Returns what the last step returned."""
        self.begin(*steps)
        return self.finish()

    def begin(self, *steps):
        self.process.stdin.write(json.dumps(steps) + "\n")
        self.process.stdin.flush()

    def finish(self):
        line = self.process.stdout.readline()
        if not line:
            raise AssertionError(f"{self.name} has ended: {self.process.poll()}")
        reply = json.loads(line)
        if "error" in reply:
            raise AssertionError(f"{self.name}: {reply['error']}")
        return reply["is"]

    def who(self):
        return Who(self.pid, self.name, self.uid, self.argv)

    def child(self, pid):
        """A child that was forked and has executed nothing."""
        return Who(pid, self.name, self.uid, self.argv, parent=self.pid)

    def end(self):
        self.process.stdin.close()
        processes.end(self.process)
        self.process.stdout.close()


def tuple_of(here, there):
    """Both are (address, port)."""
    return (here[0], there[0], here[1], there[1])


class Owners(Scenario):
    def setUp(self):
        super().setUp()
        self.network.activate()

    def actor(self, name, side="router", uid=0):
        """A process that waits for what to do."""
        return self.actors((name, side, uid))[0]

    def actors(self, *wanted):
        """Several, each (name, side, uid) or less: they start at the same time."""
        made = []
        for each in wanted:
            actor = Actor(self.network, *_with_defaults(*([each] if isinstance(each, str) else each)))
            self.addCleanup(actor.end)
            made.append(actor)
        return [actor.ready() for actor in made]

    def run_program(self, *argv, side="router", comm=None, uid=0, **options):
        """A real program: its Popen and who it is."""
        if shutil.which(argv[0]) is None:
            self.skipTest(f"there is no {argv[0]}")
        user = {"user": uid, "group": uid, "extra_groups": []} if uid else {}
        options.setdefault("stdout", subprocess.DEVNULL)
        with self.network.inside(side):
            process = processes.start(argv, stderr=subprocess.DEVNULL, **user, **options)
        self.addCleanup(processes.end, process)
        return process, Who(process.pid, comm or os.path.basename(argv[0]), uid, list(argv))

    def attribute(self, rung, *options, **popen):
        """The tool with -b on this rung, capturing."""
        tool = self.capture_json("-b", "--owner", rung, *options, **popen)
        self.assertIn(f"conntracker: owners: {rung}", tool.errors())
        return tool

    def stop_attributed(self, tool):
        """End it: nothing of what the processes did was lost, and its numbers are those of its lines."""
        report = self.stop_complete(tool).report()
        self.check_numbers(report)
        return report

    def check_numbers(self, report):
        """The ends that it says it knows are those that it shows."""
        owners = report.stats["owners"]
        shown = sum(len(each.get("owner", {})) for each in report.objects)
        self.assertEqual(owners["known"], shown, owners)
        self.assertLessEqual(owners["known"], owners["ends"])
        self.assertEqual((owners["lost"], owners["unreadable"], owners["refused"]), (0, 0, 0), owners)

    def owner_of(self, report, protocol, tuple_):
        return report.by_original(protocol, tuple_).get("owner", {})

    def assert_owners(self, report, protocol, tuple_, original=None, reply=None):
        """Pid, name and user at both ends: a Who, or None for an end that is nobody's here."""
        owner = self.owner_of(report, protocol, tuple_)
        for side, who in (("original", original), ("reply", reply)):
            found = owner.get(side)
            if who is None:
                self.assertIsNone(found, f"{side} of {tuple_}")
            else:
                self.assertIsNotNone(found, f"nobody at {side} of {tuple_}, which is {who}: {owner}")
                self.assertEqual({name: found.get(name) for name in who.short()}, who.short(), f"{side} of {tuple_}")

    def assert_never_wrong(self, report, protocol, tuple_, original=None, reply=None):
        """As assert_owners, but it may not know."""
        owner = self.owner_of(report, protocol, tuple_)
        for side, who in (("original", original), ("reply", reply)):
            found = owner.get(side)
            if found is not None and found.get("pid") is not None:
                self.assertIsNotNone(who, f"{side} of {tuple_} is nobody's: {found}")
                self.assertEqual({name: found.get(name) for name in who.short()}, who.short(), f"{side} of {tuple_}")

    def line_of(self, text, tuple_):
        """The one line of the text report for one direction of a flow with ports."""
        source, destination, sport, dport = tuple_
        start = f"src = {source} (port={sport}) to dst = {destination} (port={dport})"
        found = [line for line in text.splitlines() if f" {start} " in line]
        self.assertEqual(len(found), 1, f"{start} in {text}")
        return found[0].partition(start + " ")[2]


def _with_defaults(name, side="router", uid=0):
    return side, name, uid


def turned(tuple_):
    source, destination, sport, dport = tuple_
    return (destination, source, dport, sport)


def wait_until_gone(pid):
    wait_for(lambda: not os.path.exists(f"/proc/{pid}"), f"process {pid} to be gone")


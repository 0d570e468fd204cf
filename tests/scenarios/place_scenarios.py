"""Where files are written: never where somebody else could have prepared something, whoever flips what however fast."""

import contextlib
import errno
import os
import re
import shutil
import signal
import socket
import stat
import struct
import subprocess
import sys

import processes
import tool as tool_module
import witness
from report import expected_text
from scenario import Scenario
from tool import NOBODY
from waiting import wait_for

RECORDING = os.path.join(os.path.dirname(os.path.abspath(__file__)), "../fixtures/plain.ctrecord")
SERVICE, USERS, USER = 110, 100, 1000  # groups, as they are numbered everywhere
ROUNDS = 1000

# The program is opened before, as it may lie below /tmp.
OWN_TMP = 'exec 9<"$1" && shift && mount --bind "$0" /tmp && exec /proc/self/fd/9 "$@"'

# A root like that of OpenWrt, with what programs here need.
ROUTER = """
exec 9<"$1" && shift && cd "$0" || exit
mkdir -m 755 proc dev sys etc usr lib lib64 bin sbin tmp/run tmp/log
for folder in proc dev sys etc usr lib lib64 bin sbin; do
    [ ! -e /$folder ] || mount --rbind /$folder $folder || exit
done
exec chroot . /proc/self/fd/9 "$@"
"""

# The interpreter may be root's alone, so this comes after its start.
BECOME_NOBODY = f"""
import contextlib, ctypes, itertools, os, sys
os.setgroups([])
os.setresgid({NOBODY}, {NOBODY}, {NOBODY})
os.setresuid({NOBODY}, {NOBODY}, {NOBODY})
"""

# Swaps two names as fast as it can: a way that leads where it should, and one that leads elsewhere.
FLIP = """
libc = ctypes.CDLL(None)
one, other = sys.argv[1].encode(), sys.argv[2].encode()
print("flipping", flush=True)
while True:
    libc.renameat2(-100, one, -100, other, 2)
"""

# Puts one thing after the other at a name, as often as it can.
PREPARE = """
target, victim, draft = sys.argv[1], sys.argv[2], sys.argv[1] + ".draft"
def folder():
    os.mkdir(draft)
def file():
    os.close(os.open(draft, os.O_CREAT | os.O_WRONLY, 0o666))
makers = (lambda: os.symlink(victim, draft), lambda: os.mkfifo(draft, 0o666), file, lambda: os.symlink(victim + ".new", draft), folder)
print("flipping", flush=True)
for make in itertools.cycle(makers):
    with contextlib.suppress(OSError):
        make()
        for remove in (os.rmdir, os.unlink):
            with contextlib.suppress(OSError):
                remove(target)
        os.rename(draft, target)
    for remove in (os.rmdir, os.unlink):
        with contextlib.suppress(OSError):
            remove(draft)
"""


def look(path):
    """Everything about a file that a stranger's write would change."""
    found = os.lstat(path)
    content = None
    if stat.S_ISREG(found.st_mode):
        with open(path, "rb") as file:
            content = file.read()
    elif stat.S_ISLNK(found.st_mode):
        content = os.readlink(path)
    return found.st_ino, found.st_mode, found.st_uid, found.st_gid, found.st_size, found.st_mtime_ns, content


def look_into(folder):
    return {name: look(os.path.join(folder, name)) for name in sorted(os.listdir(folder))}


class Place(Scenario):
    def setUp(self):
        super().setUp()
        self.network.activate()

    def folder_of(self, name, mode, user=0, group=0):
        path = self.path(name)
        os.mkdir(path)
        os.chown(path, user, group)
        os.chmod(path, mode)
        return path

    def write(self, path, text, mode=0o600, user=0):
        with open(path, "w", encoding="ascii") as file:
            file.write(text)
        os.chown(path, user, user)
        os.chmod(path, mode)
        return path

    def prepare(self, kind, path, victim):
        """What another user might put there."""
        if kind == "file":
            self.write(path, "prepared", 0o666)
        elif kind == "hard link":
            os.link(victim, path)
            return
        elif kind == "link":
            os.symlink(victim, path)
        elif kind == "dangling link":
            os.symlink(victim + ".new", path)
        elif kind == "pipe":
            os.mkfifo(path, 0o666)
        elif kind == "folder":
            os.mkdir(path)
        elif kind == "socket":
            with socket.socket(socket.AF_UNIX) as listener:
                listener.bind(path)
        os.lchown(path, NOBODY, NOBODY)

    def replay(self, path, **popen):
        recording = RECORDING
        if "user" in popen:  # who may not get to where this project lies
            recording, popen["binary"] = self.path(".tool-recording"), self.path(".tool-binary")
            shutil.copy(RECORDING, recording)
            shutil.copy(tool_module.BINARY, popen["binary"])
            os.chmod(recording, 0o644)
            os.chmod(popen["binary"], 0o755)
        tool = self.start("replay", recording, "-o", path, **popen)
        return tool, tool.wait()

    def assert_refused(self, tool, status, *words):
        self.assertEqual(status, 1, tool.errors())
        lines = [line for line in tool.errors().splitlines() if not line.startswith("conntracker: recorded on")]
        self.assertEqual(len(lines), 1, lines)
        for word in words:
            self.assertIn(word, lines[0])


REPLACED = ("file", "hard link")
REFUSED = {
    "link": "it is a symbolic link",
    "dangling link": "it is a symbolic link",
    "pipe": "it is neither a file nor a device",
    "folder": "it is a directory",
    "socket": "it is neither a file nor a device",
}
ALL = (*REPLACED, *REFUSED)


class HostileTmp(Place):
    """The default name, in a /tmp of the test's own."""

    def setUp(self):
        super().setUp()
        self.tmp = self.folder_of("tmp", 0o1777)
        self.target = os.path.join(self.tmp, "conntracker.log")
        self.victim = self.write(os.path.join(self.tmp, "victim"), "victim")
        self.victim_before = look(self.victim)

    def start_there(self, *options):
        return self.start(*options, wrapper=["unshare", "--mount", "sh", "-c", OWN_TMP, self.tmp])

    def prepare_there(self, kind):
        """Links lead where the tool sees the victim."""
        self.prepare(kind, self.target, self.victim if kind == "hard link" else "/tmp/victim")

    def clear(self):
        for name in os.listdir(self.tmp):
            path = os.path.join(self.tmp, name)
            if name != "victim":
                (os.rmdir if os.path.isdir(path) and not os.path.islink(path) else os.unlink)(path)

    def capture_there(self):
        return self.start_there().wait_until_capturing()

    def make_flow(self):
        self.traffic.udp(4)
        return expected_text(witness.flows_in_table(self.network))

    def assert_report(self, path, report):
        found = os.lstat(path)
        self.assertTrue(stat.S_ISREG(found.st_mode))
        self.assertEqual((found.st_uid, stat.S_IMODE(found.st_mode), found.st_nlink), (0, 0o600, 1))
        with open(path, encoding="ascii") as file:
            self.assertEqual(file.read(), report)

    def assert_untouched(self):
        self.assertEqual(look(self.victim), self.victim_before)

    def test_prepared_before(self):
        for options in ((), ("-o", "/tmp/conntracker.log"), ("--follow",)):
            for kind, why in REFUSED.items():
                with self.subTest(kind=kind, options=options):
                    self.prepare_there(kind)
                    before = look_into(self.tmp)
                    tool = self.start_there(*options)
                    self.assert_refused(tool, tool.wait(), "/tmp/conntracker.log", why, "-o -")
                    self.assertEqual(tool.output(), "")
                    self.assertEqual(look_into(self.tmp), before)
                    self.clear()

    def test_prepared_files_are_replaced(self):
        for kind in REPLACED:
            with self.subTest(kind=kind):
                self.prepare_there(kind)
                with open(self.target, "rb") as prepared:
                    before = prepared.read()
                    tool = self.capture_there()
                    report = self.make_flow()
                    self.stop_complete(tool)
                    prepared.seek(0)
                    self.assertEqual(prepared.read(), before)
                self.assert_report(self.target, report)
                self.assert_untouched()
                self.clear()

    def test_prepared_during_the_capture(self):
        for kind in ALL:
            with self.subTest(kind=kind):
                tool = self.capture_there()
                report = self.make_flow()
                self.prepare_there(kind)
                status = tool.stop(signal.SIGTERM)
                if kind == "folder":
                    self.assertEqual(status, 1, tool.errors())
                    self.assertEqual(os.listdir(self.target), [])
                    (name,) = set(os.listdir(self.tmp)) - {"victim", "conntracker.log"}
                    self.assertRegex(tool.errors(), rf"(?m)^conntracker: .*/tmp/conntracker.log: .*beside it, in {name}")
                    self.assert_report(os.path.join(self.tmp, name), report)
                else:
                    self.assertEqual(status, 0, tool.errors())
                    self.assert_report(self.target, report)
                    self.assertEqual(sorted(os.listdir(self.tmp)), ["conntracker.log", "victim"])
                self.assert_untouched()
                self.clear()

    def test_a_recording_overwrites_nothing(self):
        for kind in ALL:
            with self.subTest(kind=kind):
                self.prepare_there(kind)
                before = look_into(self.tmp)
                tool = self.start_there("-o", "-", "--record", "/tmp/conntracker.log")
                self.assert_refused(tool, tool.wait(), "creating the recording /tmp/conntracker.log", "File exists")
                self.assertEqual(look_into(self.tmp), before)
                self.clear()


class Folders(Place):
    FIT = ((0o755, 0, 0), (0o1777, 0, 0), (0o775, 0, SERVICE), (0o2775, 0, SERVICE), (0o1775, 0, USER))
    UNFIT = (
        (0o777, 0, 0, "can be written by everybody"),
        (0o775, 0, USER, f"can be written by group {USER}"),
        (0o2775, 0, USERS, f"can be written by group {USERS}"),
        (0o755, NOBODY, 0, f"belongs to user {NOBODY}, who could put something else in its place"),
        (0o1777, NOBODY, 0, f"belongs to user {NOBODY}"),
        (0o700, USER, USER, f"belongs to user {USER}"),
    )

    def record(self, path):
        tool = self.start("-o", "-", "--record", path, "--for", "0.05")
        return tool, tool.wait()

    def test_that_nobody_else_can_change(self):
        for at, (mode, user, group) in enumerate(self.FIT):
            with self.subTest(mode=oct(mode), group=group):
                folder = self.folder_of(f"folder{at}", mode, user, group)
                os.mkdir(os.path.join(folder, "inner"), 0o755)
                for path in (os.path.join(folder, "inner"), folder):
                    for run in (self.replay, self.record):
                        tool, status = run(os.path.join(path, "file"))
                        self.assertEqual(status, 0, tool.errors())
                        os.unlink(os.path.join(path, "file"))
                        self.assertEqual(os.listdir(path), ["inner"] if path == folder else [])

    def test_that_others_can_change(self):
        for at, (mode, user, group, why) in enumerate(self.UNFIT):
            with self.subTest(mode=oct(mode), user=user, group=group):
                folder = self.folder_of(f"folder{at}", mode, user, group)
                os.mkdir(os.path.join(folder, "inner"), 0o755)
                for path in (folder, os.path.join(folder, "inner")):
                    tool, status = self.replay(os.path.join(path, "file"))
                    self.assert_refused(tool, status, f"{folder} {why}", "name a file in a folder of root's, or use -o - and redirect")
                    tool, status = self.record(os.path.join(path, "file"))
                    self.assert_refused(tool, status, f"{folder} {why}", "name a file in a folder of root's")
                self.assertEqual(os.listdir(folder), ["inner"])
                self.assertEqual(os.listdir(os.path.join(folder, "inner")), [])

    def test_that_an_access_list_opens(self):
        """Its mask is what the group's bits show."""
        folder = self.folder_of("folder", 0o755)
        nobody = 0xFFFFFFFF
        entries = ((1, 7, nobody), (2, 7, USER), (4, 5, nobody), (16, 7, nobody), (32, 5, nobody))
        value = struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)
        try:
            os.setxattr(folder, "system.posix_acl_access", value)
        except OSError as error:
            if error.errno != errno.EOPNOTSUPP:
                raise
            self.skipTest("the file system has no access lists")
        self.assertEqual(stat.S_IMODE(os.stat(folder).st_mode), 0o775)
        tool, status = self.replay(os.path.join(folder, "file"))
        self.assert_refused(tool, status, f"{folder} can be written by those in its access list")
        self.assertEqual(os.listdir(folder), [])

    def test_links_on_the_way(self):
        folder = self.folder_of("folder", 0o755)
        shared = self.folder_of("shared", 0o1777)
        for where in (self.folder, shared):
            for user in (0, NOBODY):
                with self.subTest(where=where, user=user):
                    link = os.path.join(where, f"link{user}")
                    os.symlink(folder, link)
                    os.lchown(link, user, user)
                    tool, status = self.replay(os.path.join(link, "file"))
                    if user == 0:
                        self.assertEqual(status, 0, tool.errors())
                        os.unlink(os.path.join(folder, "file"))
                    else:
                        self.assert_refused(tool, status, f"{link} is a symbolic link of user {NOBODY}")
                    self.assertEqual(os.listdir(folder), [])

    def test_the_current_folder(self):
        folder = self.folder_of("folder", 0o755, NOBODY, NOBODY)
        tool, status = self.replay("file", cwd=folder)
        self.assert_refused(tool, status, f"opening file for the report: {folder} belongs to user {NOBODY}")
        inner = os.path.join(folder, "inner")
        os.mkdir(inner, 0o755)
        tool, status = self.replay("file", cwd=inner)
        self.assertEqual(status, 0, tool.errors())
        tool, status = self.replay("../file", cwd=inner)
        self.assert_refused(tool, status, f"belongs to user {NOBODY}")
        self.assertEqual(os.listdir(folder), ["inner"])

    def test_a_users_own(self):
        """Whoever is not root writes in folders of their own, with a group of their own."""
        folder = self.folder_of("folder", 0o775, USER, USER)
        tool, status = self.replay(os.path.join(folder, "file"), user=USER, group=USER, extra_groups=[])
        self.assertEqual(status, 0, tool.errors())
        self.assertEqual(os.listdir(folder), ["file"])

    def test_root_of_a_user_namespace(self):
        """The folders above seem to be nobody's there."""
        folder = self.folder_of("folder", 0o755, USER, USER)
        opened = 'exec 9<"$1" && shift && exec unshare --user --map-root-user /proc/self/fd/9 "$@"'
        tool, status = self.replay(os.path.join(folder, "file"), wrapper=["sh", "-c", opened, "sh"], user=USER, group=USER, extra_groups=[])
        self.assertEqual(status, 0, tool.errors())
        self.assertEqual(os.listdir(folder), ["file"])


class Router(Place):
    """There is no /run, and /var leads to /tmp, where everybody may write."""

    def setUp(self):
        super().setUp()
        self.root = self.folder_of("root", 0o755)
        self.tmp = self.folder_of("root/tmp", 0o1777)
        os.symlink("tmp", os.path.join(self.root, "var"))

    def start_there(self, *options):
        script = ROUTER if not os.listdir(self.tmp) else ROUTER.replace("mkdir", "true")
        return self.start(*options, wrapper=["unshare", "--mount", "sh", "-c", script, self.root])

    def test_has_its_lock_and_its_report(self):
        first = self.start_there("-o", "/var/log/report").wait_until_capturing()
        self.assertNotIn("no lock", first.errors())
        (lock,) = os.listdir(os.path.join(self.tmp, "run"))
        self.assertRegex(lock, r"^conntracker-\d+\.lock$")
        self.assertEqual(self.network.notes(), [])
        second = self.start_there("-o", "-")
        self.assert_refused(second, second.wait(), f"conntracker runs already, as process {first.pid}")
        self.traffic.udp(4)
        report = expected_text(witness.flows_in_table(self.network))
        self.stop_complete(first)
        with open(os.path.join(self.tmp, "log/report"), encoding="ascii") as file:
            self.assertEqual(file.read(), report)
        self.assertEqual(os.listdir(os.path.join(self.tmp, "run")), [])


class Racing(Place):
    """A stranger who is faster than any look."""

    def setUp(self):
        super().setUp()
        self.shared = self.folder_of("shared", 0o1777)
        self.precious = self.folder_of("precious", 0o755)
        self.victim = self.write(os.path.join(self.precious, "report"), "victim")
        self.before = look_into(self.precious)

    def stranger(self, script, *arguments):
        attacker = processes.start([sys.executable, "-c", BECOME_NOBODY + script, *arguments], stdout=subprocess.PIPE)
        self.addCleanup(attacker.stdout.close)
        self.addCleanup(processes.kill, attacker)
        self.assertEqual(attacker.stdout.readline(), b"flipping\n")
        return attacker

    def run_quietly(self, path):
        done = subprocess.run([os.path.abspath(tool_module.BINARY), "replay", RECORDING, "-o", path], capture_output=True, text=True, timeout=60)
        return done.returncode, done.stderr.splitlines()[-1]

    def test_a_folder_that_becomes_a_link(self):
        way, other = os.path.join(self.shared, "way"), os.path.join(self.shared, "other")
        os.mkdir(way)
        os.chown(way, NOBODY, NOBODY)
        os.symlink(self.precious, other)
        os.lchown(other, NOBODY, NOBODY)
        attacker = self.stranger(FLIP, way, other)
        said = set()
        for _ in range(ROUNDS):
            status, line = self.run_quietly(os.path.join(way, "report"))
            self.assertEqual(status, 1, line)
            said.update(re.findall(r"belongs to user|is a symbolic link of user", line))
        self.assertIsNone(attacker.poll())
        self.assertEqual(look_into(self.precious), self.before)
        self.assertEqual(said, {"belongs to user", "is a symbolic link of user"})

    def test_a_file_that_becomes_anything(self):
        target = os.path.join(self.shared, "report")
        attacker = self.stranger(PREPARE, target, self.victim)
        outcomes = {0: 0, 1: 0}
        for _ in range(ROUNDS):
            status, line = self.run_quietly(target)
            outcomes[status] += 1
            if status == 1:
                self.assertRegex(line, "symbolic link|directory|neither a file|No such file|beside it")
            # Root's file is nobody's to move in a sticky folder: the test makes room for the next round.
            for name in os.listdir(self.shared):
                path = os.path.join(self.shared, name)
                with contextlib.suppress(OSError):
                    if os.lstat(path).st_uid == 0:
                        os.unlink(path)
        self.assertIsNone(attacker.poll())
        self.assertEqual(look_into(self.precious), self.before)
        self.assertTrue(outcomes[0] and outcomes[1], outcomes)
        wait_for(lambda: set(os.listdir(self.shared)) <= {"report", "report.draft"}, lambda: f"nothing left behind: {os.listdir(self.shared)}")

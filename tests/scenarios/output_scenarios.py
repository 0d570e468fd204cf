"""Where the report goes: files, pipes, a full disk, a terminal; and what else is said, and where."""

import fcntl
import os
import pty
import re
import signal
import stat
import struct
import termios

import witness
from report import Report, expected_text, follow_line
from scenario import Scenario
from traffic import different_ports
from waiting import wait_for

SEED_LINES = """Starting to capture conntrack events
Foreground mode...<Ctrl-C> or or SIG_TERM to end it.
Dumping internal data into: {target}
Finished capturing conntrack/ulog events
"""
OWN_TABLE = "table inet conntracker"


class WithFlows(Scenario):
    def setUp(self):
        super().setUp()
        self.network.activate()

    def make_many(self, count):
        self.traffic.discard()
        return self.traffic.many_udp(different_ports(count))


class File(WithFlows):
    def read(self, name):
        with open(self.path(name), encoding="utf-8") as file:
            return file.read()

    def test_holds_the_report_for_its_owner_only(self):
        tool = self.start("-o", self.path("report"), umask=0).wait_until_capturing()
        flow = self.traffic.udp(4)
        self.stop_complete(tool)
        self.assertEqual(self.read("report"), expected_text([flow]))
        self.assertEqual(stat.S_IMODE(os.stat(self.path("report")).st_mode), 0o600)
        self.assert_visible_files("report")

    def test_messages_of_the_old_tool_on_stdout(self):
        tool = self.start("-o", self.path("report")).wait_until_capturing()
        self.stop_complete(tool)
        self.assertEqual(tool.output(), SEED_LINES.format(target=self.path("report")))

    def test_replaces_the_old_file_by_rename(self):
        with open(self.path("report"), "w", encoding="ascii") as file:
            file.write("the old report")
        os.chmod(self.path("report"), 0o644)
        os.link(self.path("report"), self.path("kept"))
        tool = self.start("-o", self.path("report"), "--format", "json").wait_until_capturing()
        flow = self.traffic.udp(4)
        self.assertEqual(self.read("report"), "the old report")
        self.stop_complete(tool)
        self.assertEqual(self.read("kept"), "the old report")
        self.assertEqual(Report(self.read("report")).flows(), [flow])
        self.assertEqual(stat.S_IMODE(os.stat(self.path("report")).st_mode), 0o600)
        self.assert_visible_files("kept", "report")

    def test_grows_while_following(self):
        tool = self.start("-o", self.path("report"), "--follow", umask=0).wait_until_capturing()
        flow = self.traffic.udp(4)
        line = follow_line("NEW", flow, 0) + "\n"
        wait_for(lambda: os.path.exists(self.path("report")) and self.read("report") == line, "the flow in the file")
        self.assertEqual(stat.S_IMODE(os.stat(self.path("report")).st_mode), 0o600)
        self.stop_complete(tool)
        self.assertEqual(self.read("report"), line)
        self.assertEqual(tool.output(), SEED_LINES.format(target=self.path("report")))
        self.assert_visible_files("report")

    def test_kill_9_leaves_the_old_file(self):
        with open(self.path("report"), "w", encoding="ascii") as file:
            file.write("the old report")
        self.start("-o", self.path("report")).wait_until_capturing().kill()
        self.assertEqual(self.read("report"), "the old report")
        self.assert_visible_files("report")

    def test_relative_name(self):
        tool = self.start("-o", "report").wait_until_capturing()
        flow = self.traffic.udp(6)
        self.stop_complete(tool)
        self.assertEqual(self.read("report"), expected_text([flow]))

    def test_default_name(self):
        """With a /tmp of its own, so that nobody's file is touched."""
        tool = self.start(wrapper=own_tmpfs("/tmp", "1m")).wait_until_capturing()
        folder = os.open(f"/proc/{tool.pid}/root/tmp", os.O_RDONLY | os.O_DIRECTORY)
        self.addCleanup(os.close, folder)
        flow = self.traffic.udp(4)
        self.stop_complete(tool)
        self.assertEqual(tool.output(), SEED_LINES.format(target="/tmp/conntracker.log"))
        self.assertEqual(os.listdir(folder), ["conntracker.log"])
        with open("conntracker.log", encoding="ascii", opener=lambda name, flags: os.open(name, flags, dir_fd=folder)) as file:
            self.assertEqual(file.read(), expected_text([flow]))

    def test_full_disk(self):
        os.mkdir(self.path("small"))
        self.network.run("router", "nft", "flush", "ruleset")
        tool = self.start("-o", self.path("small/report"), wrapper=own_tmpfs(self.path("small"), "64k")).wait_until_capturing()
        self.assertIn(OWN_TABLE, witness.nft_tables(self.network))
        folder = os.open(f"/proc/{tool.pid}/root{self.path('small')}", os.O_RDONLY | os.O_DIRECTORY)
        self.addCleanup(os.close, folder)
        self.make_many(3000)
        self.assertEqual(tool.stop(), 1, tool.errors())
        self.assertRegex(tool.errors(), r"(?m)^conntracker: .*small/report.*([Nn]o space left|ENOSPC)")
        self.assertEqual(os.listdir(folder), [])
        self.assertEqual(witness.nft_ruleset(self.network), "")


def own_tmpfs(folder, size):
    """The command runs in a mount namespace of its own, with a small file system on `folder`; it ends with the command.

    The program is opened before, as it may lie below that folder."""
    script = f'exec 9<"$1" && shift && mount -t tmpfs -o size={size} tmpfs "$0" && exec /proc/self/fd/9 "$@"'
    return ["unshare", "--mount", "sh", "-c", script, folder]


class StandardOutput(WithFlows):
    def test_has_nothing_but_the_report(self):
        tool = self.capture()
        flow = self.traffic.udp(4)
        self.stop_complete(tool)
        self.assertEqual(tool.output(), expected_text([flow]))
        in_order = [line for line in tool.errors().splitlines() if not line.startswith("conntracker: ")]
        self.assertEqual("".join(line + "\n" for line in in_order), SEED_LINES.format(target="STDOUT"))

    def test_each_signal_ends_with_a_report(self):
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT):
            with self.subTest(signal=number.name):
                tool = self.capture()
                self.traffic.udp(4)
                in_table = witness.flows_in_table(self.network)
                self.assertEqual(tool.stop(number), 0, tool.errors())
                self.assertEqual(tool.output(), expected_text(in_table))

    def test_time_limit(self):
        for text in ("0.5", "0.5s"):
            with self.subTest(limit=text):
                tool = self.start("-f", "-o", "-", "--format", "json", "--for", text)
                self.assertEqual(tool.wait(), 0, tool.errors())
                self.assertTrue(0.4 < tool.report().stats["duration_s"] < 5, tool.output())

    def test_closed_pipe_while_following(self):
        self.network.run("router", "nft", "flush", "ruleset")
        reader, writer = os.pipe()
        tool = self.capture("--follow", stdout=writer)
        os.close(writer)
        os.close(reader)
        self.assertIn(OWN_TABLE, witness.nft_tables(self.network))
        self.traffic.udp(4)
        self.assertEqual(tool.wait(), 1, tool.errors())
        self.assertRegex(tool.errors(), r"(?m)^conntracker: .*([Bb]roken pipe|EPIPE|closed)")
        self.assertNotIn("panicked", tool.errors())
        self.assertEqual(witness.nft_ruleset(self.network), "")

    def test_full_device(self):
        with open("/dev/full", "wb") as full:
            tool = self.capture(stdout=full)
        self.traffic.udp(4)
        self.assertEqual(tool.stop(), 1, tool.errors())
        self.assertRegex(tool.errors(), r"(?m)^conntracker: .*No space left")

    def test_closed_pipe_at_the_end(self):
        reader, writer = os.pipe()
        tool = self.capture(stdout=writer)
        os.close(writer)
        os.close(reader)
        self.traffic.udp(4)
        self.assertEqual(tool.stop(), 1, tool.errors())
        self.assertNotIn("panicked", tool.errors())

    def start_with_full_pipe(self):
        """A report that nobody reads: the tool blocks in its write."""
        self.network.run("router", "nft", "flush", "ruleset")
        self.network.run("router", "conntrack", "-F")
        reader, writer = os.pipe()
        self.addCleanup(os.close, reader)
        fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 4096)
        tool = self.capture(stdout=writer)
        os.close(writer)
        self.make_many(2000)
        tool.send(signal.SIGTERM)
        wait_for(lambda: unread(reader) == 4096, "the pipe to fill")
        return tool, reader

    def test_a_second_signal_leaves_at_once(self):
        for number in (signal.SIGTERM, signal.SIGINT):
            with self.subTest(signal=number.name):
                tool, _ = self.start_with_full_pipe()
                self.assertTrue(tool.is_running())
                tool.send(number)
                self.assertEqual(tool.wait(5), 1, tool.errors())
                self.assertEqual(witness.nft_ruleset(self.network), "")

    def test_a_slow_reader_gets_everything(self):
        tool, reader = self.start_with_full_pipe()
        in_table = witness.flows_in_table(self.network)
        chunks = iter(lambda: os.read(reader, 3000), b"")
        self.assertEqual(b"".join(chunks).decode(), expected_text(in_table))
        self.assertEqual(tool.wait(), 0, tool.errors())


def unread(pipe):
    return struct.unpack("i", fcntl.ioctl(pipe, termios.FIONREAD, b"\0" * 4))[0]


class Terminal(WithFlows):
    def setUp(self):
        super().setUp()
        self.master, self.slave = pty.openpty()
        self.addCleanup(os.close, self.master)
        os.set_blocking(self.master, False)
        fcntl.ioctl(self.slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
        attributes = termios.tcgetattr(self.slave)
        attributes[1] &= ~termios.OPOST  # what is read is what was written
        termios.tcsetattr(self.slave, termios.TCSANOW, attributes)
        self.shown = b""

    def read(self):
        try:
            self.shown += os.read(self.master, 65536)
        except (BlockingIOError, OSError):
            pass
        return self.shown.decode()

    def test_has_a_status_line(self):
        tool = self.start("-o", self.path("report"), stderr=self.slave)
        os.close(self.slave)
        wait_for(lambda: "conntracker: capturing" in self.read(), lambda: f"the capture: {self.shown}")
        self.traffic.udp(4)
        self.traffic.udp(6)
        wait_for(lambda: re.search(r"\r[^\r\n]*\b2\b[^\r\n]*flow", self.read()), lambda: f"a status line that counts 2 flows: {self.shown}")
        self.stop_complete(tool)
        self.assertIn("conntracker: complete: 2 flows", self.read())
        drawn = re.split(r"[\r\n]", re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", self.read()))
        status = [line for line in drawn if line and not line.startswith(("conntracker: ", "Starting", "Foreground", "Dumping", "Finished"))]
        for line in status:
            self.assertRegex(line, r"^\d+ s, \d+ flows, \d+ events/s, \d+ lost(, \d+ s left)?$")
        self.assertLessEqual(max(map(len, status), default=0), 80)

    def test_a_pipe_has_none(self):
        os.close(self.slave)
        tool = self.start("-o", "-", "--for", "2.5").wait_until_capturing()
        self.traffic.udp(4)
        self.assertEqual(tool.wait(), 0, tool.errors())
        self.assertNotIn("\r", tool.errors())
        self.assertNotIn("\x1b", tool.errors())

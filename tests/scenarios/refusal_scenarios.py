"""Bad input and bad surroundings: a clear word, the right exit code, and nothing left behind."""

import os
import shutil
import stat
import subprocess
import sys

import processes
import tool as tool_module
import witness
from scenario import Scenario
from tool import NOBODY


class Refusal(Scenario):
    def assert_refused(self, tool, *codes):
        """Ended with one of the codes, one line on stderr (and at most a hint to the usage), nothing on stdout."""
        self.assertIn(tool.wait(), codes, tool.errors())
        lines = tool.errors().splitlines()
        self.assertTrue(lines and lines[0].strip(), "no word on stderr")
        hints = [line for line in lines[1:] if "--help" in line or "Usage" in line or "usage" in line]
        self.assertEqual(lines[1:], hints, f"more than one line: {lines}")
        self.assertLessEqual(len(hints), 1)
        self.assertNotIn("panicked", tool.errors())
        self.assertEqual(tool.output(), "")
        self.assertNotIn("table inet conntracker", witness.nft_tables(self.network))
        return lines[0]


class CommandLine(Refusal):
    WRONG = (
        ("--nonsense",),
        ("-x",),
        ("stray",),
        ("--net", "10.0.0.0/33"),
        ("--net", "fd00::/129"),
        ("--net", "foo"),
        ("--net", "10.0.0.0/"),
        ("--not-net", "10.0.0/8"),
        ("--port", "70000"),
        ("--port", "0x50"),
        ("--port", "2000-1000"),
        ("--port", ""),
        ("--proto", "nosuch"),
        ("--proto", "256"),
        ("--capacity", "0"),
        ("--capacity", "-1"),
        ("--capacity", "many"),
        ("--capacity", "99999999999999999999999999"),
        ("--buffer", "x"),
        ("--buffer", "0"),
        ("--for", "x"),
        ("--for", "-1"),
        ("--for", "nan"),
        ("--for", "inf"),
        ("--for",),
        ("--format", "xml"),
        ("--activate", "perhaps"),
        ("-o",),
    )

    def test_is_wrong(self):
        for options in self.WRONG:
            with self.subTest(options=options):
                tool = self.start(*options)
                word = self.assert_refused(tool, 2)
                self.assertTrue(options[0].lstrip("-") in word or options[-1] in word, word)

    def test_capacity_beyond_all_memory(self):
        for capacity in ("1000000000000", "18446744073709551615", str(2**32)):
            with self.subTest(capacity=capacity):
                self.assert_refused(self.start("-o", "-", "--capacity", capacity), 1, 2)

    def test_nothing_is_written_before_it_is_understood(self):
        self.assert_refused(self.start("-o", self.path("report"), "--port", "70000"), 2)
        self.assert_visible_files()

    def test_options_that_need_no_rights(self):
        for option, word in (("-h", "--capacity"), ("--help", "--capacity"), ("-V", "conntracker"), ("--version", "conntracker")):
            with self.subTest(option=option):
                tool = self.run_to_end(option)
                self.assertEqual((tool.process.returncode, tool.errors()), (0, ""))
                self.assertIn(word, tool.output())


class Output(Refusal):
    def setUp(self):
        super().setUp()
        self.network.activate()

    def test_folder_is_missing(self):
        path = self.path("missing/report")
        self.assertIn(path, self.refused_output(path))
        self.assert_visible_files()

    def test_target_is_a_folder(self):
        os.mkdir(self.path("folder"))
        self.assertIn(self.path("folder"), self.refused_output(self.path("folder")))
        self.assertEqual(os.listdir(self.path("folder")), [])

    def test_parent_is_a_file(self):
        with open(self.path("file"), "w", encoding="ascii") as file:
            file.write("kept")
        self.refused_output(self.path("file/report"))
        self.assert_visible_files("file")

    def test_name_is_too_long(self):
        self.refused_output(self.path("x" * 300))
        self.assert_visible_files()

    def refused_output(self, path):
        return self.assert_refused(self.start("-o", path), 1)

    def test_a_link_is_not_followed(self):
        """The file that it points to stays as it is."""
        with open(self.path("precious"), "w", encoding="ascii") as file:
            file.write("precious")
        os.symlink(self.path("precious"), self.path("link"))
        for options in (("-o", self.path("link")), ("-o", self.path("link"), "--follow"), ("-o", "-", "--record", self.path("link"))):
            with self.subTest(options=options):
                self.assertIn(self.path("link"), self.assert_refused(self.start(*options), 1))
                with open(self.path("precious"), encoding="ascii") as file:
                    self.assertEqual(file.read(), "precious")
                self.assertTrue(os.path.islink(self.path("link")))
                self.assert_visible_files("link", "precious")

    def test_a_device_stays_a_device(self):
        os.mknod(self.path("null"), stat.S_IFCHR | 0o666, os.makedev(1, 3))
        tool = self.start("-o", self.path("null"), "--for", "0.1")
        self.assertIn(tool.wait(), (0, 1), tool.errors())
        self.assertTrue(stat.S_ISCHR(os.stat(self.path("null")).st_mode))
        self.assert_visible_files("null")

    def test_record_cannot_be_written(self):
        self.assert_refused(self.start("-o", "-", "--record", self.path("missing/recording")), 1)


class Rights(Refusal):
    """As a user without any rights."""

    def setUp(self):
        super().setUp()
        self.binary = self.path(".tool-copy")
        shutil.copy(tool_module.BINARY, self.binary)
        os.chmod(self.binary, 0o755)
        self.nobody = {"binary": self.binary, "user": NOBODY, "group": NOBODY, "extra_groups": []}

    def test_help_and_version(self):
        for option in ("-h", "-V"):
            tool = self.run_to_end(option, **self.nobody)
            self.assertEqual(tool.process.returncode, 0, tool.errors())

    def test_capture_says_that_it_needs_root(self):
        word = self.assert_refused(self.start("-o", "-", **self.nobody), 1)
        self.assertRegex(word, r"root|CAP_NET_ADMIN")

    def test_replay(self):
        self.network.activate()
        recording = self.path("recording")
        tool = self.capture("--record", recording)
        self.traffic.udp(4)
        self.stop_complete(tool)
        os.chmod(recording, 0o644)
        replayed = self.run_to_end("replay", recording, "-o", "-", **self.nobody)
        self.assertEqual(replayed.process.returncode, 0, replayed.errors())
        self.assertEqual(replayed.output(), tool.output())


class SecondInstance(Refusal):
    def test_is_refused_and_the_first_goes_on(self):
        self.network.activate()
        tables = witness.nft_tables(self.network)
        first = self.capture_json()
        self.assertRegex(self.assert_refused(self.start("-o", "-"), 1), rf"\b{first.pid}\b")
        flow = self.traffic.udp(4)
        self.assertEqual(self.stop_complete(first).report().flows(), [flow])
        self.assertEqual(witness.nft_tables(self.network), tables)

    def test_after_the_first_ended_or_was_killed(self):
        self.network.activate()
        self.stop_complete(self.capture())
        self.capture().kill()
        self.stop_complete(self.capture())

    def test_another_namespace_is_another_firewall(self):
        for side in ("router", "server"):
            self.network.activate(side)
        tools = [self.capture_json(side=side) for side in ("router", "server")]
        flow = self.traffic.udp(4)
        for tool in tools:
            self.assertEqual(self.stop_complete(tool).report().flows(), [flow])

    HELD_BY_A_DEAD_PROCESS = """
import fcntl, os, time
held = open(f"/run/conntracker-{os.stat('/proc/self/ns/net').st_ino}.lock", "w")
fcntl.flock(held, fcntl.LOCK_EX)
held.write(f"{os.getpid()}\\n")
held.flush()
if os.fork() == 0:  # keeps the lock, as a child does that has not come to its exec yet
    print("held", flush=True)
    time.sleep(0.4)
os._exit(0)
"""

    def test_a_dead_one_is_waited_for(self):
        with self.network.inside("router"):
            holder = processes.start([sys.executable, "-c", self.HELD_BY_A_DEAD_PROCESS], stdout=subprocess.PIPE)
        self.addCleanup(holder.stdout.close)
        self.assertEqual(holder.stdout.readline(), b"held\n")
        holder.wait()
        tool = self.start("-o", "-", "--for", "0.1")
        self.assertEqual(tool.wait(), 0, tool.errors())


class BadRecording(Refusal):
    def replay(self, name):
        return self.start("replay", self.path(name), "-o", "-")

    def write(self, name, content):
        with open(self.path(name), "wb") as file:
            file.write(content)

    def recording(self):
        self.network.activate()
        tool = self.capture("--record", self.path("recording"))
        for port in range(10):
            self.traffic.udp(4, port=100 + port)
        self.stop_complete(tool)
        self.network.run("router", "nft", "flush", "ruleset")
        with open(self.path("recording"), "rb") as file:
            return file.read()

    def test_is_missing(self):
        self.assertIn("nosuch", self.assert_refused(self.replay("nosuch"), 1))

    def test_no_file_given(self):
        self.assert_refused(self.start("replay"), 2)

    def test_is_garbage(self):
        for content in (b"", b"\0" * 4096, b"garbage\n" * 100, bytes(range(256)) * 16, b"\xff" * 100):
            with self.subTest(content=content[:8]):
                self.write("garbage", content)
                self.assert_refused(self.replay("garbage"), 1)

    def test_is_a_folder(self):
        self.assert_refused(self.start("replay", self.folder, "-o", "-"), 1)

    def test_is_cut_off_anywhere(self):
        """In its head: refused. Later: refused, or reported as far as it goes and called incomplete."""
        whole = self.recording()
        for length in sorted({1, 4, 7, 8, 9, 15, 16, 17, 40, len(whole) // 3, len(whole) // 2, len(whole) - 1}):
            with self.subTest(length=length, of=len(whole)):
                self.write("cut", whole[:length])
                tool = self.replay("cut")
                self.assertIn(tool.wait(), (1, 3) if length > 16 else (1,), tool.errors())
                self.assertNotIn("panicked", tool.errors())
                self.assertRegex(tool.errors(), r"cut|truncat|short|end|not a recording|incomplete")
                if tool.process.returncode == 1:
                    self.assert_refused(tool, 1)

    def test_is_changed_in_single_bytes(self):
        """Whatever the bytes are: an exit code of the contract, no crash."""
        whole = self.recording()
        for position in range(0, len(whole), max(1, len(whole) // 60)):
            changed = bytearray(whole)
            changed[position] ^= 0xFF
            self.write("changed", bytes(changed))
            tool = self.replay("changed")
            self.assertIn(tool.wait(), (0, 1, 3), f"byte {position}: {tool.errors()}")
            self.assertNotIn("panicked", tool.errors())

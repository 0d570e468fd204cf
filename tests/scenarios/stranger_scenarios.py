"""What strangers choose, names of processes, comments of rules, files that are read: none of it reaches a terminal as a command."""

import json
import os
import shutil
import subprocess

import processes
from network import SERVER
from scenario import Scenario
from waiting import wait_for

FIXTURES = os.path.join(os.path.dirname(os.path.abspath(__file__)), "../fixtures")
CONTROLS = {chr(code) for code in (*range(0x20), *range(0x7F, 0xA0))}
TURNING = {chr(code) for code in (0x61C, 0x200E, 0x200F, *range(0x2028, 0x202F), *range(0x2066, 0x206A))}

# Clears the screen, sets the title, goes back and overwrites; the same with one character for ESC [; turns what follows.
CLEAR, TITLE, BACK, CSI, TURN = "\x1b[2J", "\x1b]0;owned\x07", "\r\b\x7f", "\x9b31m", "\u202egpj.\u2028\u2066"
HOSTILE = f"a{CLEAR}{TITLE}{BACK}{CSI}{TURN}\n\t\"\\'z"
HOSTILE_NAME = f"a{CLEAR}{CSI}\u202ez"


class Stranger(Scenario):
    def assert_clean(self, tool, lines_of_text=True):
        """Of control characters there are ends of lines on both outputs, and what moves a text's lines in."""
        for name, allowed in (("stdout", {"\n", "\t"} if lines_of_text else {"\n"}), ("stderr", {"\n"})):
            with open(tool._paths[name], "rb") as file:
                self.assert_no_commands(file.read(), allowed)

    def assert_no_commands(self, written, allowed=frozenset("\n")):
        text = written.decode("utf-8")
        self.assertEqual((set(text) & (CONTROLS | TURNING)) - allowed, set(), text)

    def objects(self, tool):
        return [json.loads(line) for line in tool.output().splitlines()]


class Rules(Stranger):
    def denied(self, *options, form):
        tool = self.start(*options, "-o", "-", "--format", form).wait_until_capturing()
        with self.network.inside("client"):
            subprocess.run(["socat", "-u", "-", f"UDP4-SENDTO:{SERVER[4]}:4711"], input=b"?", check=True, timeout=20)
        self.stop_complete(tool)
        self.assert_clean(tool, form == "text")
        return tool

    def check_reports(self, comment, names):
        """In every form of the report; read by somebody else's reader of JSON, the comment is what was put in."""
        for options in (("-t", "-e"), ("-t", "-e", "--follow")):
            text = self.denied(*options, form="text").output()
            self.assertIn("a\\u{1b}[2J", text)
            self.assertIn("\\u{9b}31m", text)
            self.assertIn("\\u{202e}", text)
            steps = [step for each in self.objects(self.denied(*options, form="json")) for step in each.get("path", {}).get("original", ())]
            self.assertIn(comment, [step.get("comment") for step in steps])
            self.assertLessEqual(set(names), {step["chain"] for step in steps})
        self.assertIn("a\\u{1b}[2J", self.denied("blame", form="text").output())
        told = [each for each in self.objects(self.denied("blame", form="json")) if each["type"] == "blame"]
        self.assertEqual([(each["blame"]["comment"], each["blame"]["chain"]) for each in told], [(comment, names[0])])

    def test_of_nftables(self):
        chain, table = f"c{HOSTILE_NAME}", f"t{HOSTILE_NAME}"
        where = {"family": "inet", "table": table}
        port = {"match": {"op": "==", "left": {"payload": {"protocol": "udp", "field": "dport"}}, "right": 4711}}
        device = {"match": {"op": "!=", "left": {"meta": {"key": "iifname"}}, "right": f"i{CLEAR}{CSI}"}}
        log = {"log": {"prefix": f"p{CLEAR}{CSI}\u202e"}}
        self.network.run("router", "nft", "-j", "-f", "-", text=json.dumps({"nftables": [
            {"add": {"table": {"family": "inet", "name": table}}},
            {"add": {"chain": {**where, "name": chain}}},
            {"add": {"chain": {**where, "name": "forward", "type": "filter", "hook": "forward", "prio": 0, "policy": "accept"}}},
            {"add": {"rule": {**where, "chain": "forward", "expr": [port, device, {"jump": {"target": chain}}], "comment": HOSTILE}}},
            {"add": {"rule": {**where, "chain": chain, "expr": [port, log, {"counter": None}, {"drop": None}], "comment": HOSTILE}}},
        ]}))
        self.check_reports(HOSTILE, [chain, "forward"])

    def test_of_iptables(self):
        self.need_legacy_tables()
        comment, chain = f"a{CLEAR}{BACK}{CSI}{TURN}z", f"c{CLEAR}{CSI}\u202e"
        for program in ("iptables-legacy", "iptables-nft"):
            with self.subTest(program=program):
                run = lambda *words: self.network.run("router", program, "-w", *words)  # noqa: B023, E731
                run("-N", chain)
                run("-A", "FORWARD", "-p", "udp", "-j", chain)
                run("-A", chain, "-p", "udp", "--dport", "4711", "-m", "comment", "--comment", comment, "-j", "DROP")
                self.check_reports(comment, [chain, "FORWARD"])
                run("-F")
                run("-F", chain)
                run("-X", chain)


class Processes(Stranger):
    def test_names_arguments_and_programs(self):
        self.network.activate()
        name = f"s{CLEAR}{CSI}\u202e"  # its first 15 bytes are the process's name
        program = self.path(name)
        shutil.copy(shutil.which("socat"), program)
        arguments = [f"{TITLE}{BACK}{TURN}", "-u", "-", f"UDP4-SENDTO:{SERVER[4]}:4712"]
        for rung in ("auto", "procfs"):
            for form, options in (("text", ()), ("text", ("--follow",)), ("json", ()), ("json", ("--follow",))):
                with self.subTest(rung=rung, form=form, options=options):
                    self.check(program, arguments, self.capture("-b", "--owner", rung, "--format", form, *options), form)

    def check(self, program, arguments, tool, form):
        with self.network.inside("router"):
            process = processes.start(arguments, executable=program, stdin=subprocess.PIPE)
        self.addCleanup(processes.end, process)
        process.stdin.write(b"?")
        process.stdin.flush()
        wait_for(lambda: "dport=4712" in self.network.run("router", "conntrack", "-L"), "the flow")
        self.stop_complete(tool)
        process.stdin.close()
        processes.end(process)
        self.network.run("router", "conntrack", "-F")
        self.assert_clean(tool, form == "text")
        if form == "text":
            self.assertIn("s\\u{1b}[2J\\u{9b}31m\\u{202e},pid:", tool.output())
        else:
            ends = [end for each in self.objects(tool) for end in each.get("owner", {}).values() if "pid" in end]
            found = [(end["comm"], end["command_line"], end["executable"]) for end in ends if end["pid"] == process.pid]
            self.assertIn((os.path.basename(program), " ".join(arguments), program), found)


class Files(Stranger):
    def run_clean(self, *options, statuses=(0, 1, 2, 3)):
        tool = self.run_to_end(*options)
        self.assertIn(tool.process.returncode, statuses, tool.errors())
        self.assert_clean(tool)
        return tool

    def reports(self):
        """Of a capture with every kind of step."""
        made = self.run_clean("replay", os.path.join(FIXTURES, "traced.ctrecord"), "-o", "-", "--format", "json", statuses=(0,))
        return self.objects(made)

    def test_a_report_that_is_blamed(self):
        def changed(value):
            if isinstance(value, dict):
                return {name: member if name in ("src", "dst", "v", "type", "state") else changed(member) for name, member in value.items()}
            if isinstance(value, list):
                return [changed(member) for member in value]
            return value + HOSTILE if isinstance(value, str) else value

        reports = self.reports()
        texts = ("table", "chain", "rule", "comment")
        only_texts = [{**each, "blame": {name: member + HOSTILE if name in texts else member for name, member in each["blame"].items()}}
                      for each in reports if "blame" in each]
        self.assertTrue(only_texts)
        for each, statuses in ((only_texts, (0, 3)), (changed(reports), (0, 1, 3))):
            with open(self.path("report"), "w", encoding="utf-8") as file:
                file.write("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in each))
            text = self.run_clean("blame", self.path("report"), "-o", "-", statuses=statuses)
            told = self.run_clean("blame", self.path("report"), "-o", "-", "--format", "json", statuses=statuses)
            if each is only_texts:
                self.assertIn("\\u{1b}[2J", text.output())
                self.assertIn(HOSTILE, self.objects(told)[0]["blame"]["chain"])

    def test_a_file_that_is_no_report(self):
        for content in (HOSTILE.encode(), b'{"v":1,"type":"' + CLEAR.encode() + b'"}\n', b'{"' + CSI.encode() + b'":"\xff\x9b"}\n', b"\xff\xfe\x9b2J\n"):
            with open(self.path("report"), "wb") as file:
                file.write(content)
            for command in ("blame", "replay"):
                with self.subTest(command=command, content=content):
                    self.run_clean(command, self.path("report"), "-o", "-", statuses=(1,))

    def test_a_recording_that_somebody_changed(self):
        for fixture in ("traced.ctrecord", "owned.ctrecord", "everything.ctrecord"):
            with open(os.path.join(FIXTURES, fixture), "rb") as file:
                content = file.read()
            words = {content[at:at + 4] for at in range(len(content) - 4) if content[at:at + 4].isalpha()}
            self.assertGreater(len(words), 3, fixture)
            for word in sorted(words)[::7]:
                for bytes_in_its_place in (b"\x1b[2J", b"\xc2\x9b2J", b"\xe2\x80\xaea", b"\r\n\x9b\xff"):
                    with open(self.path("recording"), "wb") as file:
                        file.write(content[:8] + content[8:].replace(word, bytes_in_its_place))
                    for form in ("text", "json"):
                        self.run_clean("replay", self.path("recording"), "-o", "-", "--format", form)

    def test_names_in_messages(self):
        self.network.activate()
        name = HOSTILE.replace("/", "")
        for options in (
            ("-o", self.path(f"{name}/file")), ("-o", "-", "--record", self.path(f"{name}/file")), ("replay", self.path(name)),
            ("blame", self.path(name)), (f"--{name}",), ("--proto", name), ("--for", name), ("replay", self.path(name), "-o", self.path(name)),
        ):
            with self.subTest(options=options):
                tool = self.run_clean(*options, statuses=(1, 2))
                self.assertEqual(tool.errors().count("\n"), 1)
        tool = self.run_clean("-o", self.path(name), "--for", "0.05", statuses=(0,))
        self.assertIn(name, os.listdir(self.folder))
        self.assertEqual(tool.output().count("\n"), 4)

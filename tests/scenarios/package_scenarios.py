"""What people install: the packages, the install script, the manual and the completions."""

import os
import pty
import select
import stat
import subprocess
import tempfile
import time
import unittest

import packages
from packages import APPLIANCE, FOREIGN, NATIVE, REPOSITORY
from waiting import DEADLINE_S

INSTALL = os.path.join(REPOSITORY, "scripts/install")
COMPLETIONS = os.path.join(APPLIANCE, "completions")
IN_DEB = {
    "./etc/default/conntracker": "-rw-r--r--",
    "./etc/init.d/conntracker": "-rwxr-xr-x",
    "./usr/lib/systemd/system/conntracker.service": "-rw-r--r--",
    "./usr/sbin/conntracker": "-rwxr-xr-x",
    "./usr/share/bash-completion/completions/conntracker": "-rw-r--r--",
    "./usr/share/doc/conntracker/README.md": "-rw-r--r--",
    "./usr/share/doc/conntracker/copyright": "-rw-r--r--",
    "./usr/share/fish/vendor_completions.d/conntracker.fish": "-rw-r--r--",
    "./usr/share/man/man8/conntracker.8.gz": "-rw-r--r--",
    "./usr/share/zsh/vendor-completions/_conntracker": "-rw-r--r--",
}


class InFolder(unittest.TestCase):
    maxDiff = 3000

    def setUp(self):
        folder = tempfile.TemporaryDirectory(prefix="conntracker-package-")
        self.addCleanup(folder.cleanup)
        self.folder = folder.name

    def path(self, name):
        return os.path.join(self.folder, name)

    def run_quietly(self, *argv, **options):
        """A command that succeeds and has nothing to complain of; returns its output."""
        done = subprocess.run(argv, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=120, **options)
        self.assertEqual((done.returncode, done.stderr), (0, ""), f"{' '.join(argv)}: {done.stdout}")
        return done.stdout


class Packages(InFolder):
    def read(self, folder):
        names = sorted(os.listdir(folder))
        contents = {}
        for name in names:
            with open(os.path.join(folder, name), "rb") as file:
                contents[name] = file.read()
        return contents

    def test_the_same_bytes_again(self):
        """With another user's name and habits, at another time."""
        first = self.read(packages.made())
        as_nobody = ["unshare", "--user", "sh", "-c", 'umask 077; exec "$0" "$@"']
        again = subprocess.run(
            [*as_nobody, os.path.join(REPOSITORY, "scripts/package"), "--from", packages.binaries(), "--out", self.folder],
            capture_output=True,
            text=True,
            env={**os.environ, "TZ": "Asia/Tokyo", "LC_ALL": "C", "GZIP": "", "TAR_OPTIONS": "--format=pax"},
        )
        self.assertEqual(again.returncode, 0, again.stderr)
        self.assertEqual(len(first), 2 * len(packages.DEBIAN_NAMES) + 1, first.keys())
        second = self.read(self.folder)
        self.assertEqual([name for name in first if first[name] != second.get(name)], [])
        self.assertEqual(first.keys(), second.keys())

    def test_time_is_what_it_is_told_to_be(self):
        packages.make(packages.binaries(), self.folder, "--arch", NATIVE, SOURCE_DATE_EPOCH="86400")
        (name,) = (name for name in os.listdir(self.folder) if name.endswith(".tar.gz"))
        listing = self.run_quietly("tar", "tvzf", self.path(name), env={**os.environ, "TZ": "UTC"})
        self.assertEqual({line.split()[3] for line in listing.splitlines()}, {"1970-01-02"})

    def test_sums(self):
        said = self.run_quietly("sha256sum", "-c", "SHA256SUMS", cwd=packages.made())
        self.assertEqual(said.count(": OK"), 2 * len(packages.DEBIAN_NAMES), said)

    def test_debs_hold_the_files(self):
        for machine in (NATIVE, *FOREIGN):
            with self.subTest(machine=machine):
                listing = self.run_quietly("dpkg-deb", "-c", packages.deb(machine)).splitlines()
                fields = [line.split(None, 5) for line in listing]
                self.assertEqual({owner for _, owner, *_ in fields}, {"root/root"})
                files = {name: mode for mode, _, _, _, _, name in fields if not name.endswith("/")}
                self.assertEqual(files, IN_DEB)
                told = self.run_quietly("dpkg-deb", "-f", packages.deb(machine), "Architecture", "Depends")
                self.assertEqual(told.strip(), f"Architecture: {packages.DEBIAN_NAMES[machine]}")

    def test_programs_run(self):
        """The foreign ones under qemu."""
        version = self.version()
        for machine in (NATIVE, *FOREIGN):
            with self.subTest(machine=machine):
                told = f"conntracker {version}\n" + ("built without the features bpf\n" if machine == "armv7" else "")
                runner = [] if machine == NATIVE else [f"qemu-{packages.QEMU_NAMES.get(machine, machine)}-static"]
                self.run_quietly("dpkg-deb", "-x", packages.deb(machine), self.path(machine))
                said = self.run_quietly(*runner, self.path(f"{machine}/usr/sbin/conntracker"), "-V")
                self.assertEqual(said, told)
                self.run_quietly("tar", "xzf", packages.tarball(machine), "-C", self.folder)
                said = self.run_quietly(*runner, self.path(f"conntracker-{version}-{machine}/conntracker"), "-V")
                self.assertEqual(said, told)

    def version(self):
        with open(os.path.join(REPOSITORY, "Cargo.toml"), encoding="utf-8") as manifest:
            (line,) = (line for line in manifest if line.startswith("version = "))
        return line.split('"')[1]

    def test_a_program_that_is_missing_or_old_is_told(self):
        argv = [os.path.join(REPOSITORY, "scripts/package"), "--from", self.folder, "--out", self.path("out")]
        for word in ("is missing", "is not of version"):
            with self.subTest(word=word):
                done = subprocess.run(argv, capture_output=True, text=True)
                self.assertEqual(done.returncode, 1)
                self.assertIn(f"conntracker-x86_64 {word}", done.stderr)
                self.assertFalse(os.path.exists(self.path("out")))
            with open(self.path("conntracker-x86_64"), "w", encoding="ascii") as old:
                old.write("conntracker 0.0.1\n")


class Words(InFolder):
    """The manual and the completions, for those who read them."""

    def test_the_manual_is_clean(self):
        utf8 = {**os.environ, "LC_ALL": "C.UTF-8", "MANROFFSEQ": "", "MANWIDTH": "80"}
        page = os.path.join(APPLIANCE, "conntracker.8")
        self.run_quietly("man", "--warnings", "-E", "UTF-8", "-l", "-Tutf8", "-Z", page, env=utf8)
        self.assertIn('"conntracker - ', self.run_quietly("lexgrog", page))
        text = self.run_quietly("man", "-l", page, env=utf8)
        for section in ("NAME", "SYNOPSIS", "OPTIONS", "SIGNALS", "EXIT STATUS", "FILES", "EXAMPLES", "SEE ALSO"):
            self.assertIn(f"\n{section}\n", "\n" + text)

    def test_scripts_are_of_busybox_too(self):
        scripts = ["init", "openrc", "procd"]
        for script in (INSTALL, *(os.path.join(APPLIANCE, f"conntracker.{kind}") for kind in scripts)):
            self.run_quietly("busybox", "ash", "-n", script)

    PROCD = """
        procd_open_instance() { echo open "$@"; }
        procd_set_param() { name=$1; shift; echo "$name $#: $*"; }
        procd_close_instance() { echo close; }
        procd_send_signal() { echo signal "$@"; }
        . "$1"
        start_service
        reload_service
        """

    def test_procd_is_told(self):
        """By the script as it stands, with functions that say what procd's would be called with."""
        said = self.run_quietly("busybox", "ash", "-euc", self.PROCD, "ash", os.path.join(APPLIANCE, "conntracker.procd")).splitlines()
        self.assertEqual(said[0], "open")
        self.assertEqual(said[1], "command 7: /usr/sbin/conntracker -f -o /var/log/conntracker.log --follow --rotate 1m,2")
        self.assertIn("pidfile 1: /var/run/conntracker.pid", said)
        self.assertIn("respawn 3: 3600 5 5", said)
        self.assertEqual(said[-2:], ["close", "signal conntracker"])

    def test_fish_completes(self):
        def offered(line):
            file = os.path.join(COMPLETIONS, "conntracker.fish")
            script = f"source {file}; complete -C '{line}'"
            home = {**os.environ, "HOME": self.folder, "XDG_CONFIG_HOME": self.folder, "XDG_DATA_HOME": self.folder}
            return [line.split("\t")[0] for line in self.run_quietly("fish", "--no-config", "-c", script, env=home).splitlines()]

        self.assertEqual(offered("conntracker --activate "), ["auto", "legacy", "nft", "off"])
        self.assertEqual(offered("conntracker --trace-r"), ["--trace-rate", "--trace-rung"])
        self.assertEqual(offered("conntracker replay x --trace-r"), [])
        self.assertTrue({"blame", "replay", "check"} <= set(offered("conntracker ")))

    def test_zsh_completes(self):
        """Typed at a terminal, the line is what the program is then called with."""
        typed = (
            ("conntracker --owner kp\t", "--owner kprobe"),
            ("conntracker --trace-ru\tnft-\t", "--trace-rung nft-owned"),
            ("conntracker replay x --form\tj\t", "replay x --format json"),
        )
        for line, called in typed:
            with self.subTest(line=line):
                self.assertIn(f"<{called}>", self.type_to_zsh(line))

    def type_to_zsh(self, line):
        terminal, other_end = pty.openpty()
        self.addCleanup(os.close, terminal)
        shell = subprocess.Popen(
            ["zsh", "-f", "-i"],
            stdin=other_end,
            stdout=other_end,
            stderr=other_end,
            start_new_session=True,
            env={"PATH": os.environ["PATH"], "HOME": self.folder, "TERM": "dumb"},
        )
        self.addCleanup(shell.wait)
        self.addCleanup(shell.kill)
        os.close(other_end)
        prepare = (
            f"fpath=({COMPLETIONS} $fpath); autoload -Uz compinit; compinit -u -D; "
            "conntracker() { print -r -- \"<${(j. .)${(@)argv}}>\" }; print 'READ''Y'\n"
        )
        os.write(terminal, prepare.encode())
        self.read_until(terminal, "READY")
        os.write(terminal, line.encode() + b"\n")
        return self.read_until(terminal, ">\r")

    def read_until(self, terminal, text):
        said, end = "", time.monotonic() + DEADLINE_S
        while text not in said:
            ready, _, _ = select.select([terminal], [], [], max(0, end - time.monotonic()))
            self.assertTrue(ready, f"waited for {text!r}, zsh said: {said!r}")
            said += os.read(terminal, 4096).decode(errors="replace")
        return said


class Install(InFolder):
    """The install script of the tar.gz, run by busybox's shell with busybox's commands."""

    def setUp(self):
        super().setUp()
        os.mkdir(self.path("unpacked"))
        self.unpacked = packages.unpack(self.path("unpacked"))
        self.commands = self.path("commands")
        os.mkdir(self.commands)
        self.run_quietly("busybox", "--install", "-s", self.commands)
        self.root = self.path("root")
        os.mkdir(self.root)

    def install(self, *options, succeeds=True):
        argv = [os.path.join(self.commands, "sh"), os.path.join(self.unpacked, "install"), *options]
        done = subprocess.run(argv, capture_output=True, text=True, env={"PATH": self.commands}, cwd="/")
        self.assertEqual(done.returncode == 0, succeeds, f"{done.stdout}{done.stderr}")
        self.assertEqual(done.stderr == "", succeeds, done.stderr)
        return done.stdout + done.stderr

    def tree(self):
        """All there is, with modes and contents."""
        found = {}
        for folder, folders, files in os.walk(self.root):
            for name in folders + files:
                path = os.path.join(folder, name)
                mode = os.lstat(path).st_mode
                content = None
                if stat.S_ISREG(mode):
                    with open(path, "rb") as file:
                        content = file.read()
                found[os.path.relpath(path, self.root)] = (stat.filemode(mode), content)
        return found

    def write(self, name, text):
        path = os.path.join(self.root, name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "w", encoding="utf-8") as file:
            file.write(text)

    def test_with_a_prefix_only(self):
        """Into folders of which some are there, with files of others in them, and away again."""
        self.write("share/man/man8/other.8", "other")
        before = self.tree()
        self.install("--prefix", self.root, "--init", "none")
        there = self.tree()
        program = os.path.join(self.root, "sbin/conntracker")
        self.assertTrue(self.run_quietly(program, "-V").startswith("conntracker "))
        for name in ("share/man/man8/conntracker.8", "share/bash-completion/completions/conntracker"):
            self.assertEqual(there[name][0], "-rw-r--r--")
        self.install("--prefix", self.root, "--uninstall")
        self.assertEqual(self.tree(), before)

    def test_each_init(self):
        files = {
            "busybox": ("etc/init.d/conntracker", "-rwxr-xr-x", "etc/default/conntracker"),
            "sysv": ("etc/init.d/conntracker", "-rwxr-xr-x", "etc/default/conntracker"),
            "openrc": ("etc/init.d/conntracker", "-rwxr-xr-x", "etc/conf.d/conntracker"),
            "procd": ("etc/init.d/conntracker", "-rwxr-xr-x", "etc/default/conntracker"),
            "systemd": ("etc/systemd/system/conntracker.service", "-rw-r--r--", "etc/default/conntracker"),
        }
        for init, (script, mode, config) in files.items():
            with self.subTest(init=init):
                self.install("--destdir", self.root, "--prefix", "/opt/x", "--init", init)
                there = self.tree()
                self.assertEqual(there[script][0], mode)
                text = there[script][1].decode()
                self.assertIn("/opt/x/sbin/conntracker", text)
                self.assertNotIn("/usr/sbin/conntracker", text)
                self.assertIn(b"\nOPTIONS=", there[config][1])
                self.install("--destdir", self.root, "--prefix", "/opt/x", "--uninstall")
                self.assertEqual(self.tree(), {})

    def test_the_init_is_found(self):
        marks = {"sbin/procd": "etc/init.d/conntracker", "sbin/openrc-run": "etc/conf.d/conntracker"}
        marks["lib/systemd/systemd"] = "etc/systemd/system/conntracker.service"
        for mark, file in marks.items():
            with self.subTest(mark=mark):
                self.write(mark, "")
                os.chmod(os.path.join(self.root, mark), 0o755)
                before = self.tree()
                self.install("--destdir", self.root)
                self.assertIn(file, self.tree())
                self.install("--destdir", self.root, "--uninstall")
                self.assertEqual(self.tree(), before)
                os.unlink(os.path.join(self.root, mark))
        os.makedirs(os.path.join(self.root, "etc/init.d"))
        self.install("--destdir", self.root)
        self.assertIn("etc/init.d/conntracker", self.tree())

    def test_again_and_with_another_init(self):
        """What the one before put there and this one does not is gone; nothing is left at the end."""
        self.install("--destdir", self.root, "--init", "openrc")
        self.install("--destdir", self.root, "--init", "openrc")
        self.assertIn("etc/conf.d/conntracker", self.tree())
        self.install("--destdir", self.root, "--init", "systemd")
        there = self.tree()
        self.assertNotIn("etc/conf.d/conntracker", there)
        self.assertNotIn("etc/init.d/conntracker", there)
        self.assertIn("etc/systemd/system/conntracker.service", there)
        self.install("--destdir", self.root, "--uninstall")
        self.assertEqual(self.tree(), {})

    def test_a_changed_configuration_stays(self):
        self.install("--destdir", self.root, "--init", "busybox")
        self.write("etc/default/conntracker", 'OPTIONS="-o /flows --follow"\n')
        said = self.install("--destdir", self.root, "--init", "busybox")
        self.assertIn("etc/default/conntracker was changed", said)
        said = self.install("--destdir", self.root, "--uninstall")
        self.assertIn("etc/default/conntracker was changed: it stays", said)
        left = [name for name, (mode, _) in self.tree().items() if mode.startswith("-")]
        self.assertEqual(left, ["etc/default/conntracker"])
        self.assertIn(b"/flows", self.tree()["etc/default/conntracker"][1])
        # and is the one of the next installation
        self.install("--destdir", self.root, "--init", "busybox")
        self.assertIn(b"/flows", self.tree()["etc/default/conntracker"][1])

    def test_files_of_others_are_not_overwritten(self):
        for name in ("usr/local/sbin/conntracker", "etc/init.d/conntracker", "usr/local/share/man/man8/conntracker.8"):
            with self.subTest(name=name):
                self.write(name, "precious")
                before = self.tree()
                said = self.install("--destdir", self.root, "--init", "busybox", succeeds=False)
                self.assertIn(f"{name} is there already", said)
                self.assertEqual(self.tree(), before)
                os.unlink(os.path.join(self.root, name))

    def test_folders_that_others_use_stay(self):
        self.install("--destdir", self.root, "--init", "none")
        self.write("usr/local/sbin/other", "other")
        self.install("--destdir", self.root, "--uninstall")
        self.assertEqual([name for name, (mode, _) in self.tree().items() if mode.startswith("-")], ["usr/local/sbin/other"])

    def test_a_program_that_runs_is_replaced(self):
        """No "text file busy", and what runs is not touched."""
        self.install("--prefix", self.root, "--init", "none")
        program = os.path.join(self.root, "sbin/conntracker")
        with subprocess.Popen([program, "blame", "-"], stdin=subprocess.PIPE, stderr=subprocess.DEVNULL) as runs:
            self.install("--prefix", self.root, "--init", "none")
            self.assertIsNone(runs.poll())
            self.assertEqual(os.readlink(f"/proc/{runs.pid}/exe"), f"{program} (deleted)")

    def test_what_it_refuses(self):
        for options, word in (
            (("--init", "upstart"), "upstart"),
            (("--prefix", "relative"), "relative"),
            (("--prefix", "/a b"), "no blanks"),
            (("--uninstall", "--destdir", self.root), "nothing was installed"),
            (("--binary", self.path("nosuch"), "--destdir", self.root, "--init", "none"), "nosuch"),
            (("--nonsense",), "--uninstall"),
        ):
            with self.subTest(options=options):
                self.assertIn(word, self.install(*options, succeeds=False))
                self.assertEqual(self.tree(), {})

    def test_a_program_of_another_machine_is_refused(self):
        """Where it would run; not where an image for that machine is made. (The other one of ours may run here, too: by qemu.)"""
        foreign = self.path("foreign")
        with open(foreign, "wb") as file:
            file.write(b"\x7fELF" + bytes(60))
        os.chmod(foreign, 0o755)
        said = self.install("--prefix", self.root, "--init", "none", "--binary", foreign, succeeds=False)
        self.assertIn("does not run on this machine", said)
        self.assertEqual(self.tree(), {})
        self.install("--destdir", self.root, "--init", "none", "--binary", foreign)
        self.assertEqual(self.tree()["usr/local/sbin/conntracker"], ("-rwxr-xr-x", b"\x7fELF" + bytes(60)))

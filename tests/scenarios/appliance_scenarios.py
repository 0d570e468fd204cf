"""The daemon on whole machines: a router that is busybox alone, and a Debian; installed, started, stopped, upgraded, gone."""

import os
import re
import signal
import subprocess

import packages
import processes
import witness
from roots import DebianRoot, RouterRoot, SystemdRoot
from scenario import Scenario
from tool import WATCHDOG
from waiting import wait_for

SCRIPT = "/etc/init.d/conntracker"
CONFIG = "/etc/default/conntracker"
LOG = "/var/log/conntracker.log"
PIDFILE = "/run/conntracker.pid"


class Appliance(Scenario):
    def setUp(self):
        super().setUp()
        self.network.activate()
        self.tables = witness.nft_tables(self.network)

    def own(self, root):
        """A machine that ends with the scenario."""
        self.addCleanup(root.end)
        return root

    def router(self, without=()):
        """A router that runs, with the tar.gz installed by its own shell. Its busybox is `without` some commands."""
        folder = self.path("router")
        RouterRoot.make(folder, without)
        self.unpacked = packages.unpack(os.path.join(folder, "root"))[len(folder) :]
        root = self.own(RouterRoot(self.network, folder))
        self.said = root.must(f"{self.unpacked}/install", "--prefix", "/usr")
        return root

    def debian(self, kind=DebianRoot):
        """A Debian that runs, with two versions of the .deb in a folder of its."""
        root = self.own(kind(self.network, self.path("debian")))
        os.mkdir(root.path("/tmp/debs"))
        for name, path in (("old.deb", packages.deb()), ("new.deb", packages.newer_deb())):
            with open(path, "rb") as source, open(root.path(f"/tmp/debs/{name}"), "wb") as target:
                target.write(source.read())
        return root

    def configure(self, root, options, more=""):
        root.write(CONFIG, f'OPTIONS="{options}"\n{more}')

    def daemon(self, root):
        """The pid that the pidfile says, which is that of the only daemon that runs."""
        pid = int(root.read(PIDFILE))
        self.assertEqual(root.processes_called("conntracker"), [pid])
        return pid

    def assert_ended(self, root):
        self.assertEqual(root.processes_called("conntracker"), [])
        wait_for(lambda: root.processes_called(WATCHDOG) == [], "the watchdog to end")
        self.assertFalse(root.exists(PIDFILE))
        self.assertEqual(witness.nft_tables(self.network), self.tables)

    def assert_sees_flows(self, root, log=LOG):
        """A flow that passes the firewall gets into the daemon's log."""
        line = self.line_of(self.traffic.udp(4))
        wait_for(lambda: root.exists(log) and line in root.read(log), lambda: f"{line} in {log}")

    def line_of(self, flow):
        """A part of its line that no other flow has."""
        source, destination, source_port, destination_port = flow.original
        return f"src = {source} (port={source_port}) to dst = {destination} (port={destination_port})"

    def call(self, root, verb, status=0):
        done = root.run(SCRIPT, verb)
        self.assertEqual(done.returncode, status, f"{verb}: {done.stdout}")
        return done.stdout


class InitScript(Appliance):
    """The script of busybox init and sysv init."""

    def test_life(self):
        self.life(self.router())

    def test_life_without_start_stop_daemon(self):
        self.life(self.router(without=("start-stop-daemon",)))

    def test_life_where_links_cannot_be_read(self):
        self.life(self.router(without=("start-stop-daemon", "readlink")))

    def life(self, root):
        self.call(root, "status", 3)
        self.assertEqual(root.processes_called("conntracker"), [], "it was started by the installation")
        self.assertIn("started", self.call(root, "start"))
        pid = self.daemon(root)
        self.assertIn(str(pid), self.call(root, "status"))
        self.assertIn(f"runs already (pid {pid})", self.call(root, "start"))
        self.assertEqual(self.daemon(root), pid)
        self.assert_sees_flows(root)
        self.call(root, "restart")
        self.assertNotEqual(self.daemon(root), pid)
        self.assert_sees_flows(root)
        self.assertIn("stopped", self.call(root, "stop"))
        self.assert_ended(root)
        self.assertIn("does not run", self.call(root, "stop"))
        self.call(root, "status", 3)
        self.call(root, "reload", 1)
        self.assertEqual(root.run(SCRIPT).returncode, 2)

    def test_reload_opens_the_output_anew(self):
        root = self.router()
        self.call(root, "start")
        pid = self.daemon(root)
        self.assert_sees_flows(root)
        os.rename(root.path(LOG), root.path(f"{LOG}.old"))
        self.call(root, "reload")
        wait_for(lambda: root.exists(LOG), "a new log")
        self.assert_sees_flows(root)
        self.assertEqual(self.daemon(root), pid)

    def test_what_it_is_asked_meanwhile(self):
        """As the manual says: a report now, and a line of numbers to busybox's syslogd."""
        root = self.router()
        root.must("syslogd", "-O", "/var/log/messages")
        self.call(root, "start")
        pid = self.daemon(root)
        line = self.line_of(self.traffic.udp(4))
        root.must("kill", "-USR1", str(pid))
        wait_for(lambda: root.exists(f"{LOG}.report") and line in root.read(f"{LOG}.report"), "the report")
        root.must("kill", "-USR2", str(pid))
        numbers = re.compile(rf"daemon\.\w+ conntracker\[{pid}\]: .*\b1 of 65536 flows\b")
        wait_for(lambda: numbers.search(root.read("/var/log/messages")), lambda: f"numbers in {root.read('/var/log/messages')}")
        self.assertEqual(self.daemon(root), pid)

    def test_a_stale_pidfile_ends_nobody(self):
        root = self.router()
        root.must("cp", "/bin/busybox", "/tmp/conntracker")
        # one that even has the name
        root.must("sh", "-c", "exec -a sleep /tmp/conntracker 1000 </dev/null >/dev/null 2>&1 &")
        (namesake,) = root.processes_called("conntracker")
        for text in ("1", str(namesake), "4194303", "", "x", "-1", "0", f"0{namesake}", "1 2 3", "99999999999999999999"):
            with self.subTest(text=text):
                root.write(PIDFILE, text + "\n")
                self.call(root, "status", 1)
                self.call(root, "reload", 1)
                self.assertIn("does not run", self.call(root, "stop"))
                root.write(PIDFILE, text)
                self.call(root, "start")
                daemon = int(root.read(PIDFILE))
                self.assertEqual(root.processes_called("conntracker"), sorted((namesake, daemon)))
                self.call(root, "stop")
                self.assertEqual(root.processes_called("conntracker"), [namesake])

    def test_a_failed_start_is_told(self):
        root = self.router()
        for options, word in (("--nonsense", "unknown option --nonsense"), ("-o /nosuch/folder/log", "/nosuch/folder")):
            with self.subTest(options=options):
                self.configure(root, options)
                said = self.call(root, "start", 1)
                self.assertIn(word, said)
                self.assertIn("did not start", said)
                self.assert_ended(root)

    def test_stop_waits_for_the_end(self):
        """Here of one that is held up; it ends once it is let go."""
        root = self.router()
        self.call(root, "start")
        seen_from_here = self.pid_here(root)
        os.kill(seen_from_here, signal.SIGSTOP)
        enter = ["nsenter", "-t", str(root.pid), "-m", "-p", "-r", "-w", SCRIPT, "stop"]
        stop = processes.start(enter, stdout=subprocess.PIPE, env={"PATH": os.environ["PATH"]})
        self.addCleanup(stop.stdout.close)
        wait_for(lambda: self.is_told(seen_from_here, signal.SIGTERM), "SIGTERM")
        self.assertIsNone(stop.poll())
        os.kill(seen_from_here, signal.SIGCONT)
        self.assertEqual((stop.wait(20), stop.stdout.read()), (0, b"conntracker: stopped\n"))
        self.assert_ended(root)

    def test_stop_does_not_wait_for_ever(self):
        root = self.router()
        self.configure(root, f"-o {LOG} --follow", more="STOP_PATIENCE_S=1\n")
        self.call(root, "start")
        os.kill(self.pid_here(root), signal.SIGSTOP)
        self.assertIn("does not end", self.call(root, "stop", 1))
        os.kill(self.pid_here(root), signal.SIGCONT)
        wait_for(lambda: root.processes_called("conntracker") == [], "its end")

    def pid_here(self, root):
        """The daemon's pid as we see it."""
        pid = self.daemon(root)
        for here in self.network.processes("router"):
            with open(f"/proc/{here}/status", encoding="utf-8") as file:
                fields = dict(line.split(":\t", 1) for line in file if ":\t" in line)
            if fields["NSpid"].split()[-1] == str(pid) and fields["Name"].strip() == "conntracker":
                return int(here)
        self.fail(f"no process {pid}")

    def is_told(self, pid, number):
        with open(f"/proc/{pid}/status", encoding="utf-8") as file:
            masks = [int(line.split()[1], 16) for line in file if line.startswith(("SigPnd", "ShdPnd"))]
        return any(mask >> (number - 1) & 1 for mask in masks)

    def test_after_its_program_was_replaced(self):
        root = self.router()
        self.call(root, "start")
        pid = self.daemon(root)
        root.must(f"{self.unpacked}/install", "--prefix", "/usr")
        self.assertIn(str(pid), self.call(root, "status"))
        self.call(root, "restart")
        self.assertNotEqual(self.daemon(root), pid)
        self.assert_sees_flows(root)

    def test_after_a_kill(self):
        root = self.router()
        self.call(root, "start")
        os.kill(self.pid_here(root), signal.SIGKILL)
        wait_for(lambda: root.processes_called("conntracker") == [], "its end")
        self.call(root, "status", 1)
        self.call(root, "start")
        self.assert_sees_flows(root)
        self.call(root, "stop")
        self.assert_ended(root)


class Router(Appliance):
    """Busybox init starts it at boot and ends it at the end."""

    def test_nothing_is_started_unasked(self):
        root = self.router()
        self.assertIn("at every boot: ln -s conntracker /etc/init.d/S80conntracker", self.said)
        self.assertEqual([name for name in os.listdir(root.path("/etc/init.d")) if "80" in name], [])

    def test_boot_and_power_off(self):
        root = self.router()
        self.configure(root, "-o /var/log/report")
        os.symlink("conntracker", root.path("/etc/init.d/S80conntracker"))
        root.power_off()
        root = self.own(RouterRoot(self.network, root.folder))
        self.assertIn("conntracker: started", root.read("/var/log/boot"))
        self.daemon(root)
        line = self.line_of(self.traffic.udp(4))
        root.power_off()
        with open(os.path.join(root.folder, "var/log/halt"), encoding="utf-8") as said:
            self.assertEqual(said.read(), "conntracker: stopped\n")
        with open(os.path.join(root.folder, "var/log/report"), encoding="utf-8") as report:
            self.assertIn(line, report.read())
        self.assertEqual(witness.nft_tables(self.network), self.tables)

    def test_a_log_folder_that_is_a_link_to_tmp(self):
        """As buildroot has it, and OpenWrt."""
        folder = self.path("router")
        RouterRoot.make(folder)
        os.rmdir(os.path.join(folder, "var/log"))
        os.symlink("../tmp", os.path.join(folder, "var/log"))
        unpacked = packages.unpack(os.path.join(folder, "root"))[len(folder) :]
        root = self.own(RouterRoot(self.network, folder))
        root.must(f"{unpacked}/install", "--prefix", "/usr")
        self.call(root, "start")
        self.assert_sees_flows(root)
        self.assertEqual(os.stat(root.path("/tmp/conntracker.log")).st_mode & 0o777, 0o600)

    def test_without_a_run_folder(self):
        """Where there is only a /var/run."""
        root = self.router()
        root.must("sh", "-c", "umount /run && rmdir /run && mkdir /var/run")
        self.call(root, "start")
        pid = int(root.read("/var/run/conntracker.pid"))
        self.assertEqual(root.processes_called("conntracker"), [pid])
        self.assert_sees_flows(root)
        self.call(root, "stop")
        self.assert_ended(root)
        self.assertFalse(root.exists("/var/run/conntracker.pid"))

    def test_uninstall_while_it_runs(self):
        """It ends, it does not start at the next boot, and all that was installed is gone."""
        root = self.router()
        before = self.tree(root)
        os.symlink("conntracker", root.path("/etc/init.d/S80conntracker"))
        self.call(root, "start")
        root.must(f"{self.unpacked}/install", "--prefix", "/usr", "--uninstall")
        self.assert_ended(root)
        gone = sorted(before - self.tree(root))
        self.assertIn("/usr/sbin/conntracker", gone)
        self.assertEqual([name for name in self.tree(root) if "conntracker" in name and not name.startswith(self.unpacked)], [LOG])
        root.must(f"{self.unpacked}/install", "--prefix", "/usr")
        self.assertEqual(self.tree(root) - {LOG}, before)

    def tree(self, root):
        return set(root.must("find", "/etc", "/usr", "/var", "/root").splitlines())


class Debian(Appliance):
    """The .deb, by dpkg."""

    WATCHED = ("/etc", "/usr/sbin", "/usr/share/man/man8", "/usr/lib/systemd", "/var/lib/systemd", "/var/log", "/run")

    def setUp(self):
        super().setUp()
        self.root = self.debian()

    def dpkg(self, *options):
        return self.root.must("dpkg", *options)

    def tree(self):
        """What there is, without what dpkg and its helpers write down for themselves."""
        theirs = ("/dpkg.log", "/deb-systemd-helper-enabled", "/deb-systemd-helper-masked", "/.depend.start", "/.depend.stop", "/.depend.boot")
        found = self.root.run("find", *self.WATCHED).stdout.splitlines()
        return {name for name in found if not name.endswith(theirs)}

    def test_life(self):
        before = self.tree()
        said = self.dpkg("-i", "/tmp/debs/old.deb")
        self.assertIn("conntracker: started", said)
        first = self.daemon(self.root)
        self.assert_sees_flows(self.root)
        self.assertTrue(self.root.exists("/etc/rc2.d/S01conntracker"))
        self.assertTrue(self.root.exists("/etc/systemd/system/multi-user.target.wants/conntracker.service"))

        self.configure(self.root, f"-o {LOG} --follow --rotate 2m")
        self.dpkg("-i", "/tmp/debs/new.deb")
        self.assertNotEqual(self.daemon(self.root), first)
        self.assertIn("--rotate 2m", self.root.read(CONFIG))
        self.assert_sees_flows(self.root)

        self.dpkg("-r", "conntracker")
        self.assert_ended(self.root)
        self.assertFalse(self.root.exists("/usr/sbin/conntracker"))
        for name in (CONFIG, SCRIPT, LOG):
            self.assertTrue(self.root.exists(name), name)
        self.call(self.root, "start")  # says nothing, does nothing: there is no program

        self.root.write(f"{LOG}.1", "rotated")
        self.root.write("/var/log/flows-of-mine", "precious")
        self.dpkg("-P", "conntracker")
        self.assertEqual(self.tree() - before, {"/var/log/flows-of-mine"})
        self.assertEqual(before - self.tree(), set())

    def test_installed_again_after_a_removal(self):
        self.dpkg("-i", "/tmp/debs/old.deb")
        self.dpkg("-r", "conntracker")
        self.dpkg("-i", "/tmp/debs/old.deb")
        self.daemon(self.root)
        self.assert_sees_flows(self.root)
        self.dpkg("-P", "conntracker")
        self.assert_ended(self.root)

    def test_a_daemon_that_cannot_start_is_no_broken_package(self):
        self.root.write(CONFIG, 'OPTIONS="--nonsense"\n')
        said = self.dpkg("--force-confold", "-i", "/tmp/debs/old.deb")
        self.assertIn("unknown option --nonsense", said)
        self.assertIn("install ok installed", self.dpkg("-s", "conntracker"))

    def test_without_the_distributions_helpers(self):
        """As in a root that is being made for an image: it is installed, nothing is started, and it goes."""
        self.root.must("rm", "/usr/bin/deb-systemd-helper", "/usr/bin/deb-systemd-invoke", "/usr/sbin/invoke-rc.d", "/usr/sbin/update-rc.d")
        before = self.tree()
        self.dpkg("-i", "/tmp/debs/old.deb")
        self.assertEqual(self.root.processes_called("conntracker"), [])
        self.call(self.root, "start")
        self.daemon(self.root)
        self.dpkg("-r", "conntracker")
        self.assert_ended(self.root)
        self.dpkg("-P", "conntracker")
        self.assertEqual(self.tree(), before)

    def test_into_another_root(self):
        """dpkg --root without chroot: for another machine, so nothing is done on this one."""
        self.root.must("mkdir", "-p", "/tmp/image/var/lib/dpkg/info", "/tmp/image/var/lib/dpkg/updates")
        self.root.write("/tmp/image/var/lib/dpkg/status", "")
        for name in ("/usr/sbin/invoke-rc.d", "/usr/bin/systemctl"):
            self.root.must("rm", "-f", name)
            self.root.write(name, self.RECORDER, mode=0o755)
        before = self.tree()
        there = ("--root=/tmp/image", "--force-script-chrootless")
        self.dpkg(*there, "-i", "/tmp/debs/old.deb")
        self.assertEqual(self.root.processes_called("conntracker"), [])
        self.assertFalse(self.root.exists("/tmp/calls"))
        self.assertEqual(self.tree(), before)
        self.assertTrue(self.root.exists("/tmp/image/usr/sbin/conntracker"))
        self.dpkg(*there, "-P", "conntracker")
        self.assertEqual(self.tree(), before)
        left = self.root.must("find", "/tmp/image", "-name", "*conntracker*").splitlines()
        self.assertEqual(left, [])

    def test_the_unit_is_sound(self):
        self.dpkg("-i", "/tmp/debs/old.deb")
        self.assertEqual(self.root.must("systemd-analyze", "verify", "--man=no", "conntracker.service"), "")

    RECORDER = """\
        #!/bin/sh
        echo "${0##*/} $*" >>/tmp/calls
    """

    def test_systemd_is_told(self):
        """Where systemd runs, it is asked, not the init script. Here something writes down what it is asked."""
        os.makedirs(self.root.path("/run/systemd/system"))
        for name in ("deb-systemd-invoke", "systemctl"):
            self.root.must("rm", "-f", f"/usr/bin/{name}")
            self.root.write(f"/usr/bin/{name}", self.RECORDER, mode=0o755)
        for command, asked in (
            (("-i", "/tmp/debs/old.deb"), "start"),
            (("-i", "/tmp/debs/new.deb"), "restart"),
            (("-r", "conntracker"), "stop"),
        ):
            with self.subTest(command=command):
                self.dpkg(*command)
                calls = self.root.read("/tmp/calls").splitlines()
                self.assertIn("systemctl --system daemon-reload", calls)
                calls = [call for call in calls if call.startswith("deb-systemd-invoke")]
                self.assertEqual(calls, [f"deb-systemd-invoke {asked} conntracker.service"])
                self.root.must("rm", "/tmp/calls")
        self.assertEqual(self.root.processes_called("conntracker"), [])


class Systemd(Appliance):
    """The .deb where systemd is process 1: its unit, with what it takes away from the daemon."""

    def setUp(self):
        super().setUp()
        self.root = self.debian(SystemdRoot)
        self.root.must("dpkg", "-i", "/tmp/debs/old.deb")

    def show(self, name):
        return self.root.must("systemctl", "show", "-P", name, "conntracker").strip()

    def active(self):
        """The pid of the daemon, which systemd was told is ready."""
        self.assertEqual((self.show("ActiveState"), self.show("SubState")), ("active", "running"))
        pid = int(self.show("MainPID"))
        self.assertEqual(self.root.processes_called("conntracker"), [pid])
        return pid

    def systemctl(self, verb):
        self.root.must("systemctl", verb, "conntracker")

    def test_life(self):
        first = self.active()
        self.assertRegex(self.show("StatusText"), r"\bflows\b")
        self.assertEqual(self.show("UnitFileState"), "enabled")
        self.assert_sees_flows(self.root)
        os.rename(self.root.path(LOG), self.root.path(f"{LOG}.old"))
        self.systemctl("reload")
        wait_for(lambda: self.root.exists(LOG), "a new log")
        self.assert_sees_flows(self.root)
        self.root.must("sh", "-c", "kill -USR1 $(systemctl show -P MainPID conntracker)")
        wait_for(lambda: self.root.exists(f"{LOG}.report"), "the report")
        self.assertEqual(self.active(), first)
        self.root.must("dpkg", "-i", "/tmp/debs/new.deb")
        self.assertNotEqual(self.active(), first)
        self.systemctl("stop")
        self.assertEqual((self.show("ActiveState"), self.show("Result")), ("inactive", "success"))
        self.assert_ended(self.root)
        self.systemctl("start")
        self.active()
        self.root.must("dpkg", "-P", "conntracker")
        self.assert_ended(self.root)
        self.assertEqual([name for name in os.listdir(self.root.path("/run")) if "conntracker" in name], [])

    def test_it_is_started_again_after_a_kill(self):
        first = self.active()
        self.root.must("kill", "-9", str(first))
        wait_for(lambda: self.show("NRestarts") == "1" and self.show("ActiveState") == "active", "its restart")
        self.assertNotEqual(self.active(), first)
        self.assert_sees_flows(self.root)

    def test_with_rules_and_processes(self):
        """What the unit takes away is not what these need: they work as well as without it."""
        options = f"-o {LOG} -t -e -b --follow"
        self.root.must("mount", "-o", "remount,bind,rw", "/proc/sys")  # nf_log is in there
        self.systemctl("stop")
        unbound = self.root.run("conntracker", *options.split(), "--for", "0.1").stdout
        self.configure(self.root, options)
        self.systemctl("start")
        pid = self.active()
        said = self.root.must("journalctl", "--no-pager", "-o", "cat", f"_PID={pid}")
        for what in ("tracing: ", "owners: "):
            # the reasons why nothing better was taken are in it, and ports and pids, which differ
            lines = [re.sub(r"\d+", "N", line) for line in (*said.splitlines(), *unbound.splitlines()) if f"conntracker: {what}" in line]
            self.assertEqual((len(lines), len(set(lines))), (2, 1), f"{said}{unbound}")

    def test_a_mistake_in_the_options_is_not_tried_for_ever(self):
        self.configure(self.root, "--nonsense")
        self.assertNotEqual(self.root.run("systemctl", "restart", "conntracker").returncode, 0)
        self.assertEqual((self.show("ActiveState"), self.show("ExecMainStatus"), self.show("NRestarts")), ("failed", "2", "0"))
        self.assertIn("unknown option --nonsense", self.root.must("journalctl", "--no-pager", "-u", "conntracker"))

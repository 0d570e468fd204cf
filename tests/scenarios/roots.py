"""Whole machines to try packages on: a root folder and a process 1 of their own, in the namespace of a scenario's router.

DebianRoot is this machine's file system with a layer on top, so whatever is installed there is gone with it. RouterRoot
holds busybox and nothing else. Both have a /run, /tmp, /dev and /proc of their own.
"""

import atexit
import contextlib
import functools
import os
import shutil
import signal
import subprocess
import tempfile
import textwrap

import processes
from waiting import wait_for

COMMON_MOUNTS = """
set -e
mount -t proc proc "$root/proc"
mount -t tmpfs -o mode=755 tmpfs "$root/run"
mount -t tmpfs -o mode=1777 tmpfs "$root/tmp"
mount -t tmpfs -o mode=755 tmpfs "$root/dev"
mknod -m 666 "$root/dev/null" c 1 3
mknod -m 666 "$root/dev/zero" c 1 5
mknod -m 444 "$root/dev/urandom" c 1 9
mknod -m 600 "$root/dev/console" c 1 3
"""

# Packages are installed into an empty list of packages: what this machine's own is busy with does not matter. Daemons
# are started as by sysv init: its runlevel is 2, and no policy-rc.d, as containers have it, forbids them.
DEBIAN = """
set -e
layers=$1
root=$layers/root
mount -t tmpfs tmpfs "$layers"
mkdir "$layers/upper" "$layers/work" "$root"
mount -t overlay overlay -o "lowerdir=/,upperdir=$layers/upper,workdir=$layers/work" "$root"
{common}
rm -f "$root/usr/sbin/policy-rc.d" "$root/sbin/runlevel"
printf '#!/bin/sh\necho N 2\n' >"$root/sbin/runlevel"
chmod 755 "$root/sbin/runlevel"
mount -t tmpfs tmpfs "$root/var/lib/dpkg"
mkdir "$root/var/lib/dpkg/info" "$root/var/lib/dpkg/updates" "$root/var/lib/dpkg/triggers"
: >"$root/var/lib/dpkg/status"
mount -t tmpfs tmpfs "$root/var/log"
{then}
"""

IDLE = """exec chroot "$root" busybox sh -c 'while :; do sleep 1; done'"""

# Of this machine's services none starts, and nothing of the kernel that is not a namespace's is written to. Its control
# groups are below one of their own.
SYSTEMD = """
for unit in "$root"/lib/systemd/system/*.wants/* "$root"/etc/systemd/system/*.wants/* "$root"/etc/init.d/*; do
    case $unit in
    */systemd-journald.*) ;;
    */init.d/*) rm "$unit" ;;
    *) ln -sf /dev/null "$root/etc/systemd/system/${{unit##*/}}" ;;
    esac
done
mount --bind "$root/proc/sys" "$root/proc/sys"
mount -o remount,bind,ro "$root/proc/sys"
mount -t sysfs -o ro sysfs "$root/sys"
mkdir "$layers/groups"
mount -t cgroup2 cgroup2 "$layers/groups"
mkdir "$layers/groups/$2"
echo 0 >"$layers/groups/$2/cgroup.procs"
umount "$layers/groups"
exec unshare --cgroup sh -c 'mount -t cgroup2 cgroup2 "$1/sys/fs/cgroup" && exec chroot "$1" env -i container=docker \
    PATH=/usr/sbin:/usr/bin:/sbin:/bin /lib/systemd/systemd --unit=multi-user.target --log-level=warning' sh "$root"
"""
GROUPS_AWAY = 'mount -t cgroup2 cgroup2 /mnt && cd /mnt && if [ -d "$0" ]; then find "$0" -depth -type d -exec rmdir {} +; fi'

ROUTER = """
set -e
root=$1
{common}
exec chroot "$root" /sbin/init
"""


@functools.cache
def static_busybox():
    """The one of this machine, or where that needs libraries, that of the distribution's other package. Both cannot be
    installed, so this one is only unpacked."""
    installed = shutil.which("busybox")
    if "statically linked" in subprocess.run(["file", "-Lb", installed], capture_output=True, text=True).stdout:
        return installed
    folder = tempfile.mkdtemp(prefix="conntracker-busybox-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    script = "apt-get -q -o APT::Sandbox::User=root download busybox-static && dpkg-deb -x busybox-static_*.deb . && ls bin/busybox usr/bin/busybox"
    done = subprocess.run(["sh", "-c", script], cwd=folder, capture_output=True, text=True)
    found = [line for line in done.stdout.splitlines() if line.endswith("/busybox")]
    if not found:
        raise AssertionError(f"no busybox-static to be had (apt-get update?): {done.stderr}")
    return os.path.join(folder, found[0])


class Root:
    """A machine that runs. To be ended by end(), which ends all its processes."""

    def __init__(self, network, folder, script, *arguments):
        self.folder = folder
        self._network = network
        unshare = ["unshare", "--mount", "--propagation", "private", "--uts", "--ipc", "--pid", "--fork", "--kill-child"]
        argv = [*unshare, "sh", "-c", script, "sh", folder, *arguments]
        with network.inside("router"):
            self._holder = processes.start(argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        self.pid = int(wait_for(self._first_process, "the first process of the machine"))

    def _first_process(self):
        found = subprocess.run(["pgrep", "-P", str(self._holder.pid)], capture_output=True, text=True).stdout.split()
        return found[0] if found and self._is_up(found[0]) else self._must_run()

    def _is_up(self, pid):
        with contextlib.suppress(OSError):
            return os.readlink(f"/proc/{pid}/root") != "/"
        return False

    def _must_run(self):
        if self._holder.poll() is not None:
            raise AssertionError(f"the machine did not come up: {self._holder.stderr.read().decode()}")

    def has_ended(self):
        return self._holder.poll() is not None

    def path(self, name):
        """A file of the machine, as seen from here."""
        return f"/proc/{self.pid}/root/{name.lstrip('/')}"

    def run(self, *argv, deadline_s=60):
        """Run a command there; returns what it did, with its words in one text."""
        enter = ["nsenter", "-t", str(self.pid), "-m", "-p", "-r", "-w", "env", "-i", "PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C"]
        with self._network.inside("router"):
            done = subprocess.run(
                [*enter, *argv], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=deadline_s
            )
        return done

    def must(self, *argv):
        done = self.run(*argv)
        if done.returncode != 0:
            raise AssertionError(f"{' '.join(argv)}: exit {done.returncode}: {done.stdout}")
        return done.stdout

    def exists(self, name):
        return os.path.lexists(self.path(name))

    def read(self, name):
        with open(self.path(name), encoding="utf-8") as file:
            return file.read()

    def write(self, name, text, mode=0o644):
        os.makedirs(os.path.dirname(self.path(name)), exist_ok=True)
        with open(self.path(name), "w", encoding="utf-8") as file:
            file.write(textwrap.dedent(text))
        os.chmod(self.path(name), mode)

    def processes_called(self, name):
        """Their pids there, of those that are alive."""
        words = (line.split(None, 2) for line in self.must("busybox", "ps", "-o", "pid,stat,comm").splitlines()[1:])
        return [int(pid) for pid, stat, comm in words if comm == name and "Z" not in stat]

    def end(self):
        """Nobody there has a say in it."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
        processes.end(self._holder)
        self._holder.stderr.close()


class DebianRoot(Root):
    def __init__(self, network, folder):
        os.mkdir(folder)
        super().__init__(network, folder, DEBIAN.format(common=COMMON_MOUNTS, then=IDLE))


class SystemdRoot(Root):
    """A Debian with systemd as its process 1."""

    def __init__(self, network, folder):
        os.mkdir(folder)
        self._group = f"conntracker-{os.getpid()}-{os.path.basename(os.path.dirname(folder))}"
        atexit.register(self._remove_groups)  # a run that is interrupted calls no end()
        script = DEBIAN.format(common=COMMON_MOUNTS, then=SYSTEMD.format())
        super().__init__(network, folder, script, self._group)
        wait_for(lambda: self.run("systemctl", "is-system-running").stdout.strip() in ("running", "degraded"), "systemd to run")

    def end(self):
        super().end()
        self._remove_groups()
        atexit.unregister(self._remove_groups)

    def _remove_groups(self):
        away = ["unshare", "--mount", "--propagation", "private", "sh", "-c", GROUPS_AWAY, self._group]
        wait_for(lambda: subprocess.run(away, capture_output=True).returncode == 0, "the control groups to be removed")


class RouterRoot(Root):
    """Busybox is its init and its shell. `without` are commands that this busybox was built without."""

    INITTAB = """\
        ::sysinit:/etc/init.d/rcS
        ::shutdown:/etc/init.d/rcK
    """
    # as buildroot has them
    START = """\
        #!/bin/sh
        for script in /etc/init.d/S[0-9][0-9]*; do [ ! -f "$script" ] || "$script" start; done >/var/log/boot 2>&1
        : >/run/booted
    """
    STOP = """\
        #!/bin/sh
        for script in /etc/init.d/S[0-9][0-9]*; do [ ! -f "$script" ] || "$script" stop; done >/var/log/halt 2>&1
    """

    @staticmethod
    def make(folder, without=()):
        """The file system, before it runs."""
        for name in ("bin", "sbin", "usr/bin", "usr/sbin", "etc/init.d", "proc", "run", "tmp", "dev", "var", "root"):
            os.makedirs(os.path.join(folder, name))
        busybox = os.path.join(folder, "bin/busybox")
        shutil.copy(static_busybox(), busybox)
        commands = subprocess.run([busybox, "--list-full"], check=True, capture_output=True, text=True).stdout.split()
        for command in commands:
            place = os.path.join(folder, command)
            if os.path.basename(command) not in (*without, "busybox"):
                os.makedirs(os.path.dirname(place), exist_ok=True)
                os.symlink("/bin/busybox", place)
        os.makedirs(os.path.join(folder, "var/log"))
        for name, text in (("inittab", RouterRoot.INITTAB), ("init.d/rcS", RouterRoot.START), ("init.d/rcK", RouterRoot.STOP)):
            with open(os.path.join(folder, "etc", name), "w", encoding="ascii") as file:
                file.write(textwrap.dedent(text))
            os.chmod(file.name, 0o755)

    def __init__(self, network, folder):
        super().__init__(network, folder, ROUTER.format(common=COMMON_MOUNTS))
        wait_for(lambda: self.exists("/run/booted"), "busybox init to have run its scripts")

    def power_off(self):
        """As poweroff(8) of busybox: SIGUSR2 to process 1. The machine is gone when this returns."""
        os.kill(self.pid, signal.SIGUSR2)
        wait_for(self.has_ended, "the machine to be off", deadline_s=40)

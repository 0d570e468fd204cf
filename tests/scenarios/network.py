"""The network every scenario runs in: three namespaces of its own, nothing outside them.

    client                      router                       server
   +-----------+        +------------------------+        +-----------+
   |        c0 |--------| rc                  rs |--------| s0        |
   +-----------+        +------------------------+        +-----------+
    10.77.1.2            10.77.1.1      10.77.2.1          10.77.2.2
    fd77:1::2            fd77:1::1      fd77:2::1          fd77:2::2
                                                           10.88.0.0/16 and fd88::/64 too: any address there is the server

Forwarding is on in the router. Neighbours are fixed, so no neighbour discovery runs; no address waits for duplicate
detection. Conntrack is inactive in a new namespace until a rule in it refers to conntrack: Network.activate() adds such
a rule, the way a user would have one.

The names hold this process' id and a serial number, so runs side by side do not meet. remove_all() is called on every exit.
"""

import contextlib
import ctypes
import os
import socket
import subprocess

from waiting import wait_for

CLIENT = {4: "10.77.1.2", 6: "fd77:1::2"}
ROUTER_CLIENT_SIDE = {4: "10.77.1.1", 6: "fd77:1::1"}
ROUTER_SERVER_SIDE = {4: "10.77.2.1", 6: "fd77:2::1"}
SERVER = {4: "10.77.2.2", 6: "fd77:2::2"}
SIDES = ("client", "router", "server")

CLONE_NEWNET = 0x40000000
_libc = ctypes.CDLL(None, use_errno=True)
_home = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
_standing = []
_serial = 0

ACTIVATING_RULES = """
table inet somebody {
    chain forward {
        type filter hook forward priority 0; policy accept;
        ct state established,related counter accept
    }
}
"""

LINKS = """
link add c0 address 02:77:01:00:00:02 netns {client} type veth peer name rc address 02:77:01:00:00:01 netns {router}
link add s0 address 02:77:02:00:00:02 netns {server} type veth peer name rs address 02:77:02:00:00:01 netns {router}
"""

# One `ip -batch` for each namespace.
ADDRESSES = {
    "client": """
link set lo up
addr add 10.77.1.2/24 dev c0
addr add fd77:1::2/64 dev c0 nodad
link set c0 up
neigh replace 10.77.1.1 lladdr 02:77:01:00:00:01 dev c0 nud permanent
neigh replace fd77:1::1 lladdr 02:77:01:00:00:01 dev c0 nud permanent
route add default via 10.77.1.1
route add default via fd77:1::1
""",
    "router": """
link set lo up
addr add 10.77.1.1/24 dev rc
addr add 10.77.2.1/24 dev rs
addr add fd77:1::1/64 dev rc nodad
addr add fd77:2::1/64 dev rs nodad
link set rc up
link set rs up
neigh replace 10.77.1.2 lladdr 02:77:01:00:00:02 dev rc nud permanent
neigh replace fd77:1::2 lladdr 02:77:01:00:00:02 dev rc nud permanent
neigh replace 10.77.2.2 lladdr 02:77:02:00:00:02 dev rs nud permanent
neigh replace fd77:2::2 lladdr 02:77:02:00:00:02 dev rs nud permanent
route add 10.88.0.0/16 via 10.77.2.2
route add fd88::/64 via fd77:2::2
""",
    "server": """
link set lo up
addr add 10.77.2.2/24 dev s0
addr add fd77:2::2/64 dev s0 nodad
link set s0 up
neigh replace 10.77.2.1 lladdr 02:77:02:00:00:01 dev s0 nud permanent
neigh replace fd77:2::1 lladdr 02:77:02:00:00:01 dev s0 nud permanent
route add default via 10.77.2.1
route add default via fd77:2::1
route add local 10.88.0.0/16 dev lo
route add local fd88::/64 dev lo
""",
}


class Network:
    """One network, standing from up() to down()."""

    def __init__(self):
        global _serial
        _serial += 1
        stem = f"ct{os.getpid()}n{_serial}"
        self.names = {side: stem + side[0] for side in SIDES}
        self._handles = {}

    def up(self):
        _standing.append(self)
        for side in SIDES:
            self._add(side)
        _ip(LINKS.format(**self.names))
        for side in SIDES:
            self._no_link_local_addresses(side)
            _ip(ADDRESSES[side], self.names[side])
        self.set("router", "net.ipv4.ip_forward", 1)
        self.set("router", "net.ipv6.conf.all.forwarding", 1)
        self.set("server", "net.ipv6.ip_nonlocal_bind", 1)  # for the many addresses; IPv4 needs no leave
        # No flow of a test may end by a time-out.
        for name in ("udp_timeout", "icmp_timeout", "icmpv6_timeout", "generic_timeout", "gre_timeout", "sctp_timeout_closed"):
            self.set("router", f"net.netfilter.nf_conntrack_{name}", 600)
        for version, family in ((4, socket.AF_INET), (6, socket.AF_INET6)):
            self._wait_until_packets_pass(version, family)
        return self

    def _wait_until_packets_pass(self, version, family):
        """A new link drops what it is given until the kernel has noticed its carrier."""
        ends = {}
        for side in ("client", "server"):
            with self.inside(side):
                ends[side] = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        with ends["client"] as client, ends["server"] as server:
            server.bind((SERVER[version], 7))

            def answered():
                try:
                    client.sendto(b"question", (SERVER[version], 7))
                    server.sendto(b"answer", server.recvfrom(64)[1])
                    return client.recv(64)
                except OSError:
                    return False

            wait_for(answered, f"IPv{version} packets to pass")

    def down(self):
        for handle in self._handles.values():
            _remove_notes(os.fstat(handle).st_ino)
            os.close(handle)
        self._handles.clear()
        for name in self.names.values():
            if os.path.exists(f"/run/netns/{name}"):
                subprocess.run(["ip", "netns", "del", name], check=False)
        if self in _standing:
            _standing.remove(self)

    def add_namespace(self, side):
        """A further namespace with nothing but lo in it."""
        self.names[side] = self.names["router"][:-1] + side[0]
        self._add(side)
        _ip("link set lo up\n", self.names[side])

    def _add(self, side):
        subprocess.run(["ip", "netns", "add", self.names[side]], check=True)
        self._handles[side] = os.open(f"/run/netns/{self.names[side]}", os.O_RDONLY | os.O_CLOEXEC)

    def _no_link_local_addresses(self, side):
        """Mode 1 is "none": without a link-local address a host has nothing to announce."""
        with self.inside(side):
            for device in ("c0", "rc", "rs", "s0"):
                path = f"/proc/sys/net/ipv6/conf/{device}/addr_gen_mode"
                if os.path.exists(path):
                    _write(path, "1")

    @contextlib.contextmanager
    def inside(self, side):
        """Sockets opened, files of /proc read and processes started in this block belong to that namespace."""
        _enter(self._handles[side])
        try:
            yield
        finally:
            _enter(_home)

    def run(self, side, *argv, text=None, check=True):
        """Run a command in a namespace; returns what it wrote to its standard output."""
        with self.inside(side):
            done = subprocess.run(argv, input=text, capture_output=True, text=True, timeout=60)
        if check and done.returncode != 0:
            raise AssertionError(f"{' '.join(argv)}: exit {done.returncode}: {done.stderr.strip()}")
        return done.stdout

    def succeeds(self, side, *argv):
        with self.inside(side):
            return subprocess.run(argv, capture_output=True, timeout=60).returncode == 0

    def processes(self, side):
        """Who runs in a namespace."""
        listing = subprocess.run(["ip", "netns", "pids", self.names[side]], check=True, capture_output=True, text=True)
        return listing.stdout.split()

    def set(self, side, name, value):
        with self.inside(side):
            _write("/proc/sys/" + name.replace(".", "/"), str(value))

    def get(self, side, name):
        with self.inside(side), open("/proc/sys/" + name.replace(".", "/"), encoding="ascii") as file:
            return file.read().strip()

    def nft(self, rules, side="router"):
        self.run(side, "nft", "-f", "-", text=rules)

    def notes(self, side="router"):
        """The files under /run that a run of the tool in a namespace has made."""
        return [path for path in _notes(os.fstat(self._handles[side]).st_ino) if os.path.exists(path)]

    def activate(self, side="router"):
        """Conntrack becomes active through a rule that is not the tool's."""
        self.nft(ACTIVATING_RULES, side)


def _ip(lines, name=None):
    where = ["-n", name] if name else []
    subprocess.run(["ip", *where, "-batch", "-"], input=lines.strip() + "\n", text=True, check=True)


def _write(path, text):
    with open(path, "w", encoding="ascii") as file:
        file.write(text)


def _remove_notes(namespace):
    """What a tool that was killed by force may leave under /run: its lock, and what it wrote down for the next start."""
    for path in _notes(namespace):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)


def _notes(namespace):
    return [f"/run/conntracker-{namespace}.{kind}" for kind in ("lock", "state")]


def _enter(handle):
    if _libc.setns(handle, CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "setns")


def remove_all():
    for network in list(_standing):
        network.down()

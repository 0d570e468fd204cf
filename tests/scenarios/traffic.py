"""Traffic from the client through the router to the server. Every maker returns the flow that it made, from what the sockets say."""

import contextlib
import ipaddress
import socket
import struct

import witness
from network import CLIENT, SERVER
from report import ICMP, ICMPV6, TCP, UDP, UDPLITE, Flow
from waiting import wait_for

FAMILIES = {4: socket.AF_INET, 6: socket.AF_INET6}
PATIENCE_S = 20
DISCARD_PORT = 9
BATCH = 250
IPV6_HDRINCL = 36


class TcpConnection:
    """An open connection over which a few bytes went both ways."""

    def __init__(self, flow, client, server):
        self.flow = flow
        self._client = client
        self._server = server

    def say(self, payload=b"more"):
        self._client.sendall(payload)
        _read_exactly(self._server, len(payload))

    def close(self):
        """The orderly way: FIN from both sides."""
        self._client.shutdown(socket.SHUT_WR)
        assert self._server.recv(1) == b""
        self._server.close()
        assert self._client.recv(1) == b""
        self._client.close()
        return self.flow


class Traffic:
    """Makes flows; keeps their sockets open until close(), so that no port is used twice."""

    def __init__(self, network):
        self._network = network
        self._sockets = []
        self._senders = {}

    def close(self):
        self._senders.clear()
        for each in self._sockets:
            if each.type == socket.SOCK_STREAM and each.fileno() >= 0:
                each.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            each.close()
        self._sockets.clear()

    def _socket(self, side, version, kind, protocol=0):
        with self._network.inside(side):
            made = socket.socket(FAMILIES[version], kind, protocol)
        made.settimeout(PATIENCE_S)
        if kind != socket.SOCK_RAW:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._sockets.append(made)
        return made

    def tcp(self, version, port=80, client_port=0, to=None, arrives_at=None):
        """`to`: the (address, port) the client connects to, where the router translates it."""
        arrives_at = arrives_at or SERVER[version]
        listener = self._socket("server", version, socket.SOCK_STREAM)
        listener.bind((arrives_at, port))
        listener.listen()
        client = self._socket("client", version, socket.SOCK_STREAM)
        client.bind((CLIENT[version], client_port))
        client.connect(to or (arrives_at, port))
        server, _ = listener.accept()
        server.settimeout(PATIENCE_S)
        self._sockets.append(server)
        listener.close()
        client.sendall(b"question")
        _read_exactly(server, 8)
        server.sendall(b"answer")
        _read_exactly(client, 6)
        flow = _flow_between(version, TCP, client.getsockname(), to or (arrives_at, port), server.getsockname(), server.getpeername())
        return TcpConnection(flow, client, server)

    def udp(self, version, port=53, client_port=0, to=None, arrives_at=None, answered=True):
        arrives_at = arrives_at or SERVER[version]
        server = self._socket("server", version, socket.SOCK_DGRAM)
        server.bind((arrives_at, port))
        client = self._socket("client", version, socket.SOCK_DGRAM)
        client.bind((CLIENT[version], client_port))
        client.sendto(b"question", to or (arrives_at, port))
        _, peer = server.recvfrom(64)
        if answered:
            server.sendto(b"answer", peer)
            client.recvfrom(64)
        server.close()
        return _flow_between(version, UDP, client.getsockname(), to or (arrives_at, port), (arrives_at, port), peer, answered)

    def echo(self, version, ident, to=None, count=1):
        """ICMP echo requests with this id, each answered by the server's kernel."""
        to = to or SERVER[version]
        protocol = ICMP if version == 4 else ICMPV6
        request, reply = (8, 0) if version == 4 else (128, 129)
        client = self._socket("client", version, socket.SOCK_RAW, protocol)
        for sequence in range(1, count + 1):
            client.sendto(_echo_request(request, ident, sequence), (to, 0))
            while not _is_echo_reply(client.recv(256), version, reply, ident, sequence):
                pass
        family = f"ipv{version}"
        return Flow(family, protocol, (CLIENT[version], to, request, 0, ident), (to, CLIENT[version], reply, 0, ident))

    def raw(self, version, protocol, payload):
        """One packet of any protocol, its IP header made by the client's kernel."""
        self._socket("client", version, socket.SOCK_RAW, protocol).sendto(payload, (SERVER[version], 0))

    def refused(self, version, protocol, port):
        """Ask a port that a reject keeps closed, with a connected socket: it is told. Returns the Flow's original tuple."""
        client = self._socket("client", version, socket.SOCK_STREAM if protocol == TCP else socket.SOCK_DGRAM)
        client.bind((CLIENT[version], 0))
        try:
            client.connect((SERVER[version], port))
            client.send(b"question")
            client.recv(64)
        except ConnectionRefusedError:
            return (CLIENT[version], SERVER[version], client.getsockname()[1], port)
        raise AssertionError(f"port {port} answered")

    def discard(self):
        """The server takes UDP on port 9 at all of its addresses and never answers: no ICMP errors, no replies."""
        for version, anywhere in ((4, "0.0.0.0"), (6, "::")):
            sink = self._socket("server", version, socket.SOCK_DGRAM)
            if version == 6:
                sink.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            sink.bind((anywhere, DISCARD_PORT))

    def many_udp(self, tuples):
        """One datagram for each (source, destination, source port, destination port); the router's own count confirms each batch."""
        senders = {version: self._sender("client", version) for version in (4, 6)}
        for first in range(0, len(tuples), BATCH):
            self._send_batch(senders, tuples[first:first + BATCH])
        return [_unanswered(tuple_) for tuple_ in tuples]

    def _sender(self, side, version):
        if (side, version) not in self._senders:
            sender = self._socket(side, version, socket.SOCK_RAW, socket.IPPROTO_RAW)
            if version == 6:
                sender.setsockopt(socket.IPPROTO_IPV6, IPV6_HDRINCL, 1)
            self._senders[side, version] = sender
        return self._senders[side, version]

    def send(self, packet, count=1, side="client"):
        """A rules.Packet, made here byte by byte, so that its source may be anybody."""
        for _ in range(count):
            with contextlib.suppress(PermissionError):  # said to the sender when a rule of its own host denied it
                self._sender(side, packet.version).sendto(bytes_of(packet), (packet.destination, 0))

    def _send_batch(self, senders, tuples):
        """A packet may be dropped on the way when the machine is busy; then the batch is sent again, which makes no new flow."""
        wanted = witness.flow_count(self._network) + len(tuples)
        for attempt in range(5):
            for tuple_ in tuples:
                version = ipaddress.ip_address(tuple_[0]).version
                senders[version].sendto(udp_packet(version, *tuple_), (tuple_[1], 0))
            try:
                wait_for(lambda: witness.flow_count(self._network) >= wanted, "the flows", deadline_s=2)
            except AssertionError:
                continue
            break
        assert witness.flow_count(self._network) == wanted, f"{witness.flow_count(self._network)} flows in the router, made {wanted}"


def different_ports(count, destinations=(SERVER[4],), first_port=2000):
    """`count` IPv4 flows from different ports of the client, spread over the destinations."""
    return [(CLIENT[4], destinations[k % len(destinations)], first_port + k, DISCARD_PORT) for k in range(count)]


def different_destinations(count):
    return [(CLIENT[4], f"10.88.{k // 250}.{k % 250 + 1}", 2000, DISCARD_PORT) for k in range(count)]


def both_families(count):
    """The first half over IPv4, the rest over IPv6."""
    ports = range(2000, 2000 + count // 2)
    return [(CLIENT[version], SERVER[version], port, DISCARD_PORT) for version in (4, 6) for port in ports]


def _unanswered(tuple_):
    source, destination, sport, dport = tuple_
    family = f"ipv{ipaddress.ip_address(source).version}"
    return Flow(family, UDP, tuple_, (destination, source, dport, sport), replied=False)


def _flow_between(version, protocol, client, called, server, peer, replied=True):
    """From the sockets' names: what the client sees is the original tuple, what the server sees is the reply."""
    original = (client[0], called[0], client[1], called[1])
    return Flow(f"ipv{version}", protocol, original, (server[0], peer[0], server[1], peer[1]), replied)


def _read_exactly(connection, length):
    while length:
        got = connection.recv(length)
        assert got, "the connection ended early"
        length -= len(got)


def _echo_request(kind, ident, sequence):
    """For IPv6 the kernel fills in the checksum."""
    body = b"sixteen bytes .."
    checksum = internet_checksum(struct.pack("!BBHHH", kind, 0, 0, ident, sequence) + body) if kind == 8 else 0
    return struct.pack("!BBHHH", kind, 0, checksum, ident, sequence) + body


def _is_echo_reply(packet, version, kind, ident, sequence):
    if version == 4:
        packet = packet[(packet[0] & 15) * 4:]
    return packet[0] == kind and struct.unpack("!HH", packet[4:8]) == (ident, sequence)


# Packets, byte by byte


def internet_checksum(data):
    data += b"\0" * (len(data) % 2)
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    total = (total & 0xFFFF) + (total >> 16)
    total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def _transport_checksum(protocol, source, destination, segment):
    addresses = ipaddress.ip_address(source).packed + ipaddress.ip_address(destination).packed
    return internet_checksum(addresses + struct.pack("!HH", protocol, len(segment)) + segment) or 0xFFFF


def udp_packet(version, source, destination, sport, dport, payload=b"flow"):
    """With its IP header; the kernel fills in the checksum of an IPv4 header."""
    segment = struct.pack("!HHHH", sport, dport, 8 + len(payload), 0) + payload
    return _ip_packet(version, UDP, source, destination, _with_checksum(UDP, source, destination, segment, 6))


def tcp_packet(version, source, destination, sport, dport, flags="S"):
    """`flags`: letters of FSRPA."""
    bits = sum(1 << "FSRPA".index(flag) for flag in flags)
    segment = struct.pack("!HHIIBBHHH", sport, dport, 1000, 2000 if "A" in flags else 0, 5 << 4, bits, 8192, 0, 0)
    return _ip_packet(version, TCP, source, destination, _with_checksum(TCP, source, destination, segment, 16))


def echo_packet(version, source, destination, ident):
    if version == 4:
        return _ip_packet(version, ICMP, source, destination, _echo_request(8, ident, 1))
    segment = _with_checksum(ICMPV6, source, destination, _echo_request(128, ident, 1), 2)
    return _ip_packet(version, ICMPV6, source, destination, segment)


def bytes_of(packet):
    """A rules.Packet as it travels."""
    ends = (packet.version, packet.source, packet.destination)
    if packet.protocol == UDP:
        return udp_packet(*ends, packet.sport, packet.dport)
    if packet.protocol == TCP:
        return tcp_packet(*ends, packet.sport, packet.dport, packet.flags)
    return echo_packet(*ends, packet.dport)


def _with_checksum(protocol, source, destination, segment, offset):
    checksum = struct.pack("!H", _transport_checksum(protocol, source, destination, segment))
    return segment[:offset] + checksum + segment[offset + 2:]


def _ip_packet(version, protocol, source, destination, segment):
    addresses = ipaddress.ip_address(source).packed + ipaddress.ip_address(destination).packed
    if version == 4:
        return struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(segment), 0, 0, 64, protocol, 0) + addresses + segment
    return struct.pack("!IHBB", 6 << 28, len(segment), protocol, 64) + addresses + segment


def udplite_segment(version, sport, dport):
    """Checksum over the whole datagram (coverage 0)."""
    segment = struct.pack("!HHHH", sport, dport, 0, 0) + b"lite"
    checksum = _transport_checksum(UDPLITE, CLIENT[version], SERVER[version], segment)
    return struct.pack("!HHHH", sport, dport, 0, checksum) + b"lite"


def sctp_init(sport, dport):
    """RFC 9260: the common header (ports, tag 0, CRC32c) and one INIT chunk."""
    chunk = struct.pack("!BBHIIHHI", 1, 0, 20, 0x11223344, 65535, 1, 1, 1)
    packet = struct.pack("!HHII", sport, dport, 0, 0) + chunk
    checksum = struct.pack("<I", _crc32c(packet))
    return packet[:8] + checksum + chunk


def gre_of_pptp(call_id):
    """Version 1 with a key: payload length and call id."""
    return struct.pack("!HHHHI", 0x3001, 0x880B, 4, call_id, 1) + b"data"


def _crc32c(data):
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = (crc >> 1) ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF

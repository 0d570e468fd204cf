"""A process that uses sockets as it is told: `python3 -IS actor.py NAME`, one JSON list of steps in each line of its standard input.

A step is ["function", arguments...] of the functions below; the answer is the last one's, as a line of JSON. NAME becomes the
name of the process. Sockets are called by names that the caller chooses. owners.py starts it.
"""

import ctypes
import json
import os
import signal
import socket
import struct
import sys

PATIENCE_S = 20
KINDS = {"tcp": socket.SOCK_STREAM, "udp": socket.SOCK_DGRAM, "raw": socket.SOCK_RAW, "ping": socket.SOCK_DGRAM}
IPV6_HDRINCL = 36

sockets = {}
children = {}


def rename(name):
    """By /proc, where prctl(2) would take the same bytes."""
    with open("/proc/self/comm", "wb") as file:
        file.write(name.encode("utf-8", "surrogateescape"))


def rename_by_prctl(name):
    assert ctypes.CDLL(None).prctl(15, name.encode("utf-8", "surrogateescape"), 0, 0, 0) == 0


def become(uid):
    """As a daemon does it that has begun as root."""
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)


def make(name, version, kind, protocol=0):
    family = socket.AF_INET if version == 4 else socket.AF_INET6
    if kind == "ping":
        protocol = socket.IPPROTO_ICMP if version == 4 else socket.IPPROTO_ICMPV6
    made = socket.socket(family, KINDS[kind], protocol)
    made.settimeout(PATIENCE_S)
    if kind == "tcp":
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sockets[name] = made


def option(name, level, number, value):
    sockets[name].setsockopt(level, number, value)


def headers_included(name):
    sockets[name].setsockopt(socket.IPPROTO_IPV6, IPV6_HDRINCL, 1)


def aborts(name):
    """Its connection ends by a reset."""
    sockets[name].setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def bind(name, address, port=0):
    sockets[name].bind((address, port))
    return local(name)


def listen(name, address, port=0):
    bind(name, address, port)
    sockets[name].listen(1000)
    return local(name)


def local(name):
    return sockets[name].getsockname()[:2]


def peer(name):
    return sockets[name].getpeername()[:2]


def connect(name, address, port):
    sockets[name].connect((address, port))
    return local(name)


def begin_connect(name, address, port):
    """Without waiting for an answer."""
    sockets[name].setblocking(False)
    sockets[name].connect_ex((address, port))
    return local(name)


def accept(listener, name):
    made, _ = sockets[listener].accept()
    made.settimeout(PATIENCE_S)
    sockets[name] = made
    return peer(name)


def send(name, text="question"):
    try:
        sockets[name].send(text.encode())
    except PermissionError:  # a rule of this host denied it
        return False
    return True


def send_to(name, address, port, text="question"):
    try:
        sockets[name].sendto(text.encode(), (address, port))
    except PermissionError:
        return None
    return local(name)


def send_bytes(name, address, hexadecimal):
    sockets[name].sendto(bytes.fromhex(hexadecimal), (address, 0))


def send_in_parts(name, address, port):
    """One datagram of two sends."""
    sockets[name].sendto(b"ques", socket.MSG_MORE, (address, port))
    sockets[name].sendto(b"tion", (address, port))
    return local(name)


def send_parts_connected(name):
    sockets[name].send(b"ques", socket.MSG_MORE)
    sockets[name].send(b"tion")
    return local(name)


def receive(name):
    return sockets[name].recv(4096).hex()


def answer_on(name, length):
    """What came over a connection goes back."""
    while length:
        data = sockets[name].recv(length)
        sockets[name].sendall(data)
        length -= len(data)


def receive_from(name):
    """Whose datagram it was."""
    return sockets[name].recvfrom(4096)[1][:2]


def answer(name):
    """What came goes back."""
    data, whose = sockets[name].recvfrom(4096)
    sockets[name].sendto(data, whose)
    return whose[:2]


def receive_end(name):
    """What came until the other side had no more to say."""
    data = b""
    try:
        while part := sockets[name].recv(4096):
            data += part
    except ConnectionResetError:
        pass
    return data.decode()


def close(name):
    sockets.pop(name).close()


def shut(name):
    sockets[name].shutdown(socket.SHUT_WR)


def connect_many(count, version, address, port, aborted=False, comm=None):
    """Short connections one after the other; their local ports."""
    if comm:
        rename(comm)
    ports = []
    for _ in range(count):
        make("one", version, "tcp")
        if aborted:
            aborts("one")
        ports.append(connect("one", address, port)[1])
        close("one")
    return ports


def connect_from(local_port, address, port):
    """A connection from a given port, which ends by a reset so that the next can have the port."""
    make("one", 4, "tcp")
    aborts("one")
    sockets["one"].bind(("0.0.0.0", local_port))
    sockets["one"].connect((address, port))
    sockets["one"].send(b"x")
    close("one")


def send_many(count, version, address, port):
    """A datagram from each of so many sockets; their ports."""
    ports = []
    for _ in range(count):
        make("one", version, "udp")
        ports.append(send_to("one", address, port)[1])
        close("one")
    return ports


def child(*steps):
    """A forked child does these steps and ends: its pid and its answer."""
    reader, pid = _fork(steps)
    answered = reader.readline()
    os.waitpid(pid, 0)
    return [pid, json.loads(answered)]


def child_with_pid(pid, *steps):
    """As child(), with this number if nobody else takes it: the kernel is told which one was the last."""
    for _ in range(200):
        with open("/proc/sys/kernel/ns_last_pid", "w", encoding="ascii") as file:
            file.write(str(pid - 1))
        reader, got = _fork(steps, only_as=pid)
        answered = reader.readline()
        os.waitpid(got, 0)
        if got == pid:
            return [pid, json.loads(answered)]
    return None


def children_at_once(count, step, names=None):
    """So many at the same time, each with a name of its own."""
    begun = []
    for index in range(count):
        begun.append(_fork([["rename", f"{names}{index}"], step] if names else [step]))
    answers = []
    for reader, pid in begun:
        answers.append([pid, json.loads(reader.readline())])
        os.waitpid(pid, 0)
    return answers


def lasting_child(name, *steps):
    """A child that does these steps and stays until it is told to end."""
    reader, pid = _fork(steps, stays=True)
    children[name] = pid
    return [pid, json.loads(reader.readline())]


def end_child(name):
    pid = children.pop(name)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


def _fork(steps, stays=False, only_as=None):
    reader, writer = os.pipe()
    pid = os.fork()
    if pid:
        os.close(writer)
        return os.fdopen(reader), pid
    try:
        os.close(reader)
        if only_as not in (None, os.getpid()):
            os._exit(0)
        ctypes.CDLL(None).prctl(1, signal.SIGKILL, 0, 0, 0)  # it ends with its parent
        os.write(writer, (json.dumps(do(steps)) + "\n").encode())
        while stays:
            signal.pause()
    finally:
        os._exit(0)


def do(steps):
    result = None
    for name, *arguments in steps:
        result = globals()[name](*arguments)
    return result


def main():
    rename(sys.argv[1])
    print(json.dumps(os.getpid()), flush=True)
    for line in sys.stdin:
        try:
            reply = {"is": do(json.loads(line))}
        except OSError as error:
            reply = {"error": str(error)}
        print(json.dumps(reply), flush=True)


if __name__ == "__main__":
    main()

"""The kernel's own list of BPF maps, by bpf(2): what a run of the tool has there, whoever else has programs.

The constants of each of the tool's objects are a map of one entry, which begins with the pid of the run that has loaded it. A map
lives as long as any program or link that uses it, so where it is gone all of them are.
"""

import ctypes
import errno
import os
import platform
import struct

NUMBERS = {"x86_64": 321, "aarch64": 280}
MAP_LOOKUP_ELEM, MAP_GET_NEXT_ID, MAP_GET_FD_BY_ID, OBJ_GET_INFO_BY_FD = 1, 12, 14, 15
ATTRIBUTES_LEN = 128
_libc = ctypes.CDLL(None, use_errno=True)


def _bpf(command, attributes):
    """The attributes as the kernel left them, and what it returned."""
    buffer = ctypes.create_string_buffer(attributes, ATTRIBUTES_LEN)
    result = _libc.syscall(NUMBERS[platform.machine()], command, buffer, ATTRIBUTES_LEN)
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result, buffer.raw


def _ids():
    last = 0
    while True:
        try:
            _, attributes = _bpf(MAP_GET_NEXT_ID, struct.pack("=II", last, 0))
        except OSError as error:
            if error.errno == errno.ENOENT:
                return
            raise
        last = struct.unpack_from("=I", attributes, 4)[0]
        yield last


def maps_of(pid):
    """The ids of the maps with the constants of a run of the tool."""
    found = []
    for ident in _ids():
        try:
            fd, _ = _bpf(MAP_GET_FD_BY_ID, struct.pack("=III", ident, 0, 0))
        except FileNotFoundError:
            continue
        try:
            name, key_len, value_len = _info(fd)
            if name.endswith(".rodata") and key_len == 4 and value_len <= 4096 and _first_word(fd, value_len) == pid:
                found.append(ident)
        finally:
            os.close(fd)
    return found


def _info(fd):
    info = ctypes.create_string_buffer(ATTRIBUTES_LEN)
    _bpf(OBJ_GET_INFO_BY_FD, struct.pack("=IIQ", fd, ATTRIBUTES_LEN, ctypes.addressof(info)))
    _, _, key_len, value_len, _, _, name = struct.unpack_from("=6I16s", info.raw)
    return name.rstrip(b"\0").decode(), key_len, value_len


def _first_word(fd, value_len):
    key, value = ctypes.create_string_buffer(4), ctypes.create_string_buffer((value_len + 7) // 8 * 8)
    _bpf(MAP_LOOKUP_ELEM, struct.pack("=IIQQQ", fd, 0, ctypes.addressof(key), ctypes.addressof(value), 0))
    return struct.unpack_from("=I", value.raw)[0]

#!/usr/bin/env python3
"""Runs a program as on an older kernel: what that did not know is refused, in its words.

    older.py NAME PROGRAM [ARGUMENT...]

NAME is one that calls.without() knows. x86_64 only. As on such a kernel, this stands before any filter of the program's own.
"""

import ctypes
import os
import sys

sys.dont_write_bytecode = True

import calls  # noqa: E402

PR_SET_SECCOMP, FILTER = 22, 2


class Program(ctypes.Structure):
    """struct sock_fprog"""

    _fields_ = [("len", ctypes.c_ushort), ("filter", ctypes.c_char_p)]


def wrapper(name):
    """What has a Tool run so."""
    return (sys.executable, "-S", os.path.abspath(__file__), name)


def main():
    steps = calls.without(sys.argv[1])
    program = Program(len(steps) // 8, steps)
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_SECCOMP, FILTER, ctypes.byref(program), 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl")
    os.execvp(sys.argv[2], sys.argv[2:])


if __name__ == "__main__":
    main()

"""Makes another process call the kernel as if it had done so itself: the witness of what it may still do.

The process must wait in a system call. ptrace(2) stops it there, points it at the instruction that it waits in with another
number and other arguments, lets it do that one step, and puts everything back.
"""

import contextlib
import ctypes
import os
import platform

SUPPORTED = platform.machine() == "x86_64"

PTRACE_PEEKDATA, PTRACE_POKEDATA, PTRACE_SINGLESTEP = 2, 5, 9
PTRACE_GETREGS, PTRACE_SETREGS, PTRACE_ATTACH, PTRACE_DETACH = 12, 13, 16, 17
SYSCALL = b"\x0f\x05"
BELOW_THE_RED_ZONE = 512

_libc = ctypes.CDLL(None, use_errno=True)
_libc.ptrace.restype = ctypes.c_long
_libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]


class Registers(ctypes.Structure):
    """struct user_regs_struct of x86_64."""

    _fields_ = [(name, ctypes.c_ulong) for name in (
        "r15", "r14", "r13", "r12", "rbp", "rbx", "r11", "r10", "r9", "r8", "rax", "rcx", "rdx", "rsi", "rdi", "orig_rax", "rip", "cs",
        "eflags", "rsp", "ss", "fs_base", "gs_base", "ds", "es", "fs", "gs")]


class Injection:
    """One process, stopped while the block is open."""

    def __init__(self, pid):
        self._pid = pid

    def __enter__(self):
        self._ptrace(PTRACE_ATTACH)
        os.waitpid(self._pid, 0)
        self._registers = Registers()
        self._ptrace(PTRACE_GETREGS, data=ctypes.addressof(self._registers))
        at = self._registers.rip - len(SYSCALL)
        if self._peek(at).to_bytes(8, "little")[:2] != SYSCALL:
            self.__exit__()
            raise AssertionError("the process does not wait in a system call")
        return self

    def __exit__(self, *_):
        self._ptrace(PTRACE_SETREGS, data=ctypes.addressof(self._registers))
        with contextlib.suppress(ProcessLookupError):
            self._ptrace(PTRACE_DETACH)

    def call(self, number, *arguments):
        """What the kernel returns; an error is a negative number. A text among the arguments is put where it can be read."""
        registers = Registers.from_buffer_copy(self._registers)
        registers.rip -= len(SYSCALL)
        registers.rax, registers.orig_rax = number, ctypes.c_ulong(-1).value
        room = registers.rsp - BELOW_THE_RED_ZONE
        for name, value in zip(("rdi", "rsi", "rdx", "r10", "r8", "r9"), arguments):
            if isinstance(value, str):
                room -= len(value) // 8 * 8 + 8
                self._poke(room, value.encode() + b"\0")
                value = room
            setattr(registers, name, ctypes.c_ulong(value).value)
        self._ptrace(PTRACE_SETREGS, data=ctypes.addressof(registers))
        self._ptrace(PTRACE_SINGLESTEP)
        os.waitpid(self._pid, 0)
        self._ptrace(PTRACE_GETREGS, data=ctypes.addressof(registers))
        return ctypes.c_long(registers.rax).value

    def _peek(self, address):
        """The raw system call puts the word where it is told to."""
        word = ctypes.c_ulong()
        if _libc.syscall(101, PTRACE_PEEKDATA, self._pid, ctypes.c_void_p(address), ctypes.byref(word)) != 0:
            raise OSError(ctypes.get_errno(), "PTRACE_PEEKDATA")
        return word.value

    def _poke(self, address, text):
        for at in range(0, len(text), 8):
            word = int.from_bytes(text[at:at + 8].ljust(8, b"\0"), "little")
            self._ptrace(PTRACE_POKEDATA, address + at, word)

    def _ptrace(self, request, address=0, data=0):
        if _libc.ptrace(request, self._pid, address, data) < 0:
            error = ctypes.get_errno()
            raise OSError(error, f"ptrace {request}: {os.strerror(error)}")

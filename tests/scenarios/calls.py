"""What a kernel knows: the system calls of Linux 4.4 and 3.10, and of some calls what may be asked of them; what is newer and may be used all the same.

A limit is about one argument of a call: a number that is one of some, or whose bits are among some. Pointers are not followed.
"""

import dataclasses
import errno
import struct

# arch/x86/entry/syscalls/syscall_64.tbl of Linux 4.4, in the order of the numbers, from 0.
X86_64 = """
read write open close stat fstat lstat poll lseek mmap mprotect munmap brk rt_sigaction rt_sigprocmask rt_sigreturn ioctl pread64 pwrite64
readv writev access pipe select sched_yield mremap msync mincore madvise shmget shmat shmctl dup dup2 pause nanosleep getitimer alarm
setitimer getpid sendfile socket connect accept sendto recvfrom sendmsg recvmsg shutdown bind listen getsockname getpeername socketpair
setsockopt getsockopt clone fork vfork execve exit wait4 kill uname semget semop semctl shmdt msgget msgsnd msgrcv msgctl fcntl flock fsync
fdatasync truncate ftruncate getdents getcwd chdir fchdir rename mkdir rmdir creat link unlink symlink readlink chmod fchmod chown fchown
lchown umask gettimeofday getrlimit getrusage sysinfo times ptrace getuid syslog getgid setuid setgid geteuid getegid setpgid getppid
getpgrp setsid setreuid setregid getgroups setgroups setresuid getresuid setresgid getresgid getpgid setfsuid setfsgid getsid capget capset
rt_sigpending rt_sigtimedwait rt_sigqueueinfo rt_sigsuspend sigaltstack utime mknod uselib personality ustat statfs fstatfs sysfs
getpriority setpriority sched_setparam sched_getparam sched_setscheduler sched_getscheduler sched_get_priority_max sched_get_priority_min
sched_rr_get_interval mlock munlock mlockall munlockall vhangup modify_ldt pivot_root _sysctl prctl arch_prctl adjtimex setrlimit chroot
sync acct settimeofday mount umount2 swapon swapoff reboot sethostname setdomainname iopl ioperm create_module init_module delete_module
get_kernel_syms query_module quotactl nfsservctl getpmsg putpmsg afs_syscall tuxcall security gettid readahead setxattr lsetxattr fsetxattr
getxattr lgetxattr fgetxattr listxattr llistxattr flistxattr removexattr lremovexattr fremovexattr tkill time futex sched_setaffinity
sched_getaffinity set_thread_area io_setup io_destroy io_getevents io_submit io_cancel get_thread_area lookup_dcookie epoll_create
epoll_ctl_old epoll_wait_old remap_file_pages getdents64 set_tid_address restart_syscall semtimedop fadvise64 timer_create timer_settime
timer_gettime timer_getoverrun timer_delete clock_settime clock_gettime clock_getres clock_nanosleep exit_group epoll_wait epoll_ctl tgkill
utimes vserver mbind set_mempolicy get_mempolicy mq_open mq_unlink mq_timedsend mq_timedreceive mq_notify mq_getsetattr kexec_load waitid
add_key request_key keyctl ioprio_set ioprio_get inotify_init inotify_add_watch inotify_rm_watch migrate_pages openat mkdirat mknodat
fchownat futimesat newfstatat unlinkat renameat linkat symlinkat readlinkat fchmodat faccessat pselect6 ppoll unshare set_robust_list
get_robust_list splice tee sync_file_range vmsplice move_pages utimensat epoll_pwait signalfd timerfd_create eventfd fallocate
timerfd_settime timerfd_gettime accept4 signalfd4 eventfd2 epoll_create1 dup3 pipe2 inotify_init1 preadv pwritev rt_tgsigqueueinfo
perf_event_open recvmmsg fanotify_init fanotify_mark prlimit64 name_to_handle_at open_by_handle_at clock_adjtime syncfs sendmmsg setns
getcpu process_vm_readv process_vm_writev kcmp finit_module sched_setattr sched_getattr renameat2 seccomp getrandom memfd_create
kexec_file_load bpf execveat userfaultfd membarrier mlock2
""".split()
# include/uapi/asm-generic/unistd.h of Linux 4.4, as arm64 has it, in the order of the numbers.
ARM64 = """
io_setup io_destroy io_submit io_cancel io_getevents setxattr lsetxattr fsetxattr getxattr lgetxattr fgetxattr listxattr llistxattr
flistxattr removexattr lremovexattr fremovexattr getcwd lookup_dcookie eventfd2 epoll_create1 epoll_ctl epoll_pwait dup dup3 fcntl
inotify_init1 inotify_add_watch inotify_rm_watch ioctl ioprio_set ioprio_get flock mknodat mkdirat unlinkat symlinkat linkat renameat
umount2 mount pivot_root nfsservctl statfs fstatfs truncate ftruncate fallocate faccessat chdir fchdir chroot fchmod fchmodat fchownat
fchown openat close vhangup pipe2 quotactl getdents64 lseek read write readv writev pread64 pwrite64 preadv pwritev sendfile pselect6 ppoll
signalfd4 vmsplice splice tee readlinkat newfstatat fstat sync fsync fdatasync sync_file_range timerfd_create timerfd_settime
timerfd_gettime utimensat acct capget capset personality exit exit_group waitid set_tid_address unshare futex set_robust_list
get_robust_list nanosleep getitimer setitimer kexec_load init_module delete_module timer_create timer_gettime timer_getoverrun timer_settime
timer_delete clock_settime clock_gettime clock_getres clock_nanosleep syslog ptrace sched_setparam sched_setscheduler sched_getscheduler
sched_getparam sched_setaffinity sched_getaffinity sched_yield sched_get_priority_max sched_get_priority_min sched_rr_get_interval
restart_syscall kill tkill tgkill sigaltstack rt_sigsuspend rt_sigaction rt_sigprocmask rt_sigpending rt_sigtimedwait rt_sigqueueinfo
rt_sigreturn setpriority getpriority reboot setregid setgid setreuid setuid setresuid getresuid setresgid getresgid setfsuid setfsgid times
setpgid getpgid getsid setsid getgroups setgroups uname sethostname setdomainname getrlimit setrlimit getrusage umask prctl getcpu
gettimeofday settimeofday adjtimex getpid getppid getuid geteuid getgid getegid gettid sysinfo mq_open mq_unlink mq_timedsend
mq_timedreceive mq_notify mq_getsetattr msgget msgctl msgrcv msgsnd semget semctl semtimedop semop shmget shmctl shmat shmdt socket
socketpair bind listen accept connect getsockname getpeername sendto recvfrom setsockopt getsockopt shutdown sendmsg recvmsg readahead brk
munmap mremap add_key request_key keyctl clone execve mmap fadvise64 swapon swapoff mprotect msync mlock munlock mlockall munlockall mincore
madvise remap_file_pages mbind get_mempolicy set_mempolicy migrate_pages move_pages rt_tgsigqueueinfo perf_event_open accept4 recvmmsg wait4
prlimit64 fanotify_init fanotify_mark clock_adjtime syncfs setns sendmmsg process_vm_readv process_vm_writev kcmp finit_module sched_setattr
sched_getattr renameat2 seccomp getrandom memfd_create bpf execveat userfaultfd membarrier mlock2
""".split()
# Of both tables, what is behind this one came after Linux 3.10.
LAST_OF_3_10 = "finit_module"

TMPFILE = 0o20000000
SOL_SOCKET, SOL_NETLINK = 1, 270
PR_CAPBSET_DROP, PR_CAP_AMBIENT, PR_GET_AUXV = 24, 47, 0x41555856
BPF_OBJ_GET = 7
CAP_AUDIT_READ = 37
WORD = 0xffffffff


@dataclasses.dataclass(frozen=True)
class Limit:
    """What an old kernel takes in an argument of a call, and what it says to anything else."""

    call: str
    argument: int
    values: frozenset = None
    bits: int = None
    error: int = errno.EINVAL
    where: tuple = None  # only if that (argument, value) holds

    def beyond(self, arguments):
        """What of these arguments such a kernel does not know: numbers, or single bits."""
        if self.where and arguments[self.where[0]] & WORD != self.where[1]:
            return []
        value = arguments[self.argument] & WORD
        if self.bits is None:
            return [] if value in self.values else [value]
        return [1 << bit for bit in range(32) if value & ~self.bits & 1 << bit]


def one_of(call, argument, values, **more):
    return Limit(call, argument, values=frozenset(values), **more)


def bits(call, argument, *known, **more):
    mask = 0
    for each in known:
        mask |= each
    return Limit(call, argument, bits=mask, **more)


# O_*: the access modes, CREAT to NOFOLLOW, CLOEXEC, PATH, TMPFILE.
OPEN_FLAGS = 0o3 | 0o7777700 | 0o10000000 | TMPFILE
PRCTL_OPTIONS = (*range(1, 17), *range(19, 48), 0x59616d61)  # to PR_CAP_AMBIENT; PR_SET_PTRACER
# The include/uapi of Linux 4.4.
LIMITS_4_4 = (
    one_of("bpf", 0, range(BPF_OBJ_GET + 1)),
    one_of("prctl", 0, PRCTL_OPTIONS),
    one_of("prctl", 1, range(CAP_AUDIT_READ + 1), where=(0, PR_CAPBSET_DROP)),
    bits("getrandom", 2, 1, 2),  # NONBLOCK, RANDOM
    bits("memfd_create", 1, 1, 2),  # CLOEXEC, ALLOW_SEALING
    bits("seccomp", 1, 1),  # TSYNC
    one_of("madvise", 2, (*range(5), *range(9, 18), 100, 101)),
    bits("open", 1, OPEN_FLAGS),
    bits("openat", 2, OPEN_FLAGS),
    bits("clone", 0, WORD & ~0x1000 & ~0x02000000),  # not PIDFD, NEWCGROUP
    bits("unshare", 0, 0x60600, 0x7c000000),
    bits("setns", 1, 0x20000, 0x7c000000),
    bits("mmap", 3, 0x73, 0x7f900, 0xfc000000),
    bits("mremap", 3, 3),
    bits("mount", 3, 0xff, 0x1fffc00, 0xf0000000),
    one_of("socket", 0, range(41)),
    one_of("socket", 2, range(22), where=(0, 16)),  # of AF_NETLINK
    one_of("setsockopt", 2, range(51), where=(1, SOL_SOCKET), error=errno.ENOPROTOOPT),
    one_of("getsockopt", 2, range(51), where=(1, SOL_SOCKET), error=errno.ENOPROTOOPT),
    one_of("setsockopt", 2, range(1, 11), where=(1, SOL_NETLINK), error=errno.ENOPROTOOPT),
    one_of("getsockopt", 2, range(1, 11), where=(1, SOL_NETLINK), error=errno.ENOPROTOOPT),
    bits("sendto", 3, 0xfffff, 0x60000000),
    bits("sendmsg", 2, 0xfffff, 0x60000000),
    bits("recvmmsg", 3, 0xfffff, 0x60000000),
    one_of("fcntl", 1, (*range(17), 36, 37, 38, *range(1024, 1035))),
    one_of("futex", 1, (op | flags for op in range(13) for flags in (0, 128, 256, 384))),
    one_of("clock_nanosleep", 0, range(12)),
    one_of("waitid", 0, range(3)),
    bits("perf_event_open", 4, 0xf),
    bits("newfstatat", 3, 0x1d00),
    bits("unlinkat", 2, 0x200),
    bits("signalfd4", 3, 0o2004000),
    bits("pipe2", 1, 0o2044000),
    bits("dup3", 2, 0o2000000),
    bits("accept4", 3, 0o2004000),
    bits("epoll_create1", 0, 0o2000000),
)
# What is less than in 4.4; a kernel that has no O_TMPFILE sees in it a folder that is opened to be written.
LIMITS_3_10 = (
    one_of("prctl", 0, (*range(1, 17), *range(19, 41), 0x59616d61)),
    one_of("prctl", 1, range(CAP_AUDIT_READ), where=(0, PR_CAPBSET_DROP)),
    bits("open", 1, OPEN_FLAGS & ~TMPFILE, error=errno.EISDIR),
    bits("openat", 2, OPEN_FLAGS & ~TMPFILE, error=errno.EISDIR),
    one_of("setsockopt", 2, range(1, 8), where=(1, SOL_NETLINK), error=errno.ENOPROTOOPT),
    one_of("fcntl", 1, (*range(17), *range(1024, 1033))),
    *LIMITS_4_4,
)


@dataclasses.dataclass(frozen=True)
class Newer:
    """What came after Linux 4.4 and is used where it is there: whole calls, or what is asked of one."""

    name: str
    since: str
    calls: tuple = ()
    asked: tuple = ()  # of (call, argument, number or bit)
    seen_in: str = "capture"  # the way of working that uses it


# Each has its own test (syscall_scenarios.EachMissing): without it the same flows are seen.
NEWER = (
    Newer("landlock", "5.13", ("landlock_create_ruleset", "landlock_add_rule", "landlock_restrict_self")),
    Newer("auxv", "6.4", asked=(("prctl", 0, PR_GET_AUXV),)),  # rustix; then /proc/self/auxv
    Newer("insecure_random", "5.6", asked=(("getrandom", 2, 4),)),  # std, for hash tables; then without the flag
    Newer("spec_allow", "4.17", asked=(("seccomp", 1, 4),)),  # then without the flag
    Newer("madv_free", "4.5", asked=(("madvise", 2, 8),)),  # musl, as a favour
    Newer("populate", "5.14", asked=(("madvise", 2, 23),)),  # then each page when it is touched
    Newer("capabilities", "5.8", asked=tuple(("prctl", 1, number) for number in range(CAP_AUDIT_READ + 1, 64))),  # the first that is unknown ends the search
    Newer("faccessat2", "5.8", ("faccessat2",), seen_in="owners"),  # libbpf by musl, and rustix; then faccessat
    Newer("detached_mount", "5.2", ("fsopen", "fsconfig", "fsmount"), seen_in="owners"),  # then no rung cgroup
    Newer("noexec_seal", "6.3", asked=(("memfd_create", 1, 8),), seen_in="owners"),  # libbpf; then without the flag
    # libbpf, as far as there is one; then another rung, or none of it
    Newer("bpf", "4.10", asked=tuple(("bpf", 0, command) for command in range(BPF_OBJ_GET + 1, 64)), seen_in="owners"),
)


NUMBERS = {name: number for number, name in enumerate(X86_64)} | {
    "fsopen": 430, "fsconfig": 431, "fsmount": 432, "faccessat2": 439,
    "landlock_create_ruleset": 444, "landlock_add_rule": 445, "landlock_restrict_self": 446,
}


def newer(call, arguments):
    """Of one call: what Linux 4.4 does not have, as (call,) or (call, argument, number or bit)."""
    if call not in X86_64:
        return [(call,)]
    return [(call, limit.argument, each) for limit in LIMITS_4_4 if limit.call == call for each in limit.beyond(arguments)]


def named(what):
    """The entry above that this belongs to, if any."""
    return next((each for each in NEWER if what in each.asked or what[0] in each.calls), None)


# As a filter of seccomp(2), which lets everything else pass. An old kernel refuses what it does not know in the same words.

LOAD, IF_EQUAL, IF_AT_LEAST, IF_ANY_BIT, RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
ALLOW, REFUSE = 0x7fff0000, 0x00050000
NUMBER_AT, ARGUMENTS_AT = 0, 16
X32 = 0x40000000


def without(name):
    """The filter that makes this kernel like "4.4" or "3.10", or takes away one of NEWER, a call, or "call:argument:number" with EINVAL;
    or several of these with a + between them."""
    program = [step for each in name.split("+") for step in _without_one(each)]
    return b"".join(struct.pack("=HBBI", *step) for step in [*program, (RETURN, 0, 0, ALLOW)])


def _without_one(name):
    if name in ("4.4", "3.10"):
        last = len(X86_64) if name == "4.4" else X86_64.index(LAST_OF_3_10) + 1
        yield from ((LOAD, 0, 0, NUMBER_AT), (IF_AT_LEAST, 2, 0, X32), (IF_AT_LEAST, 0, 1, last), (RETURN, 0, 0, REFUSE | errno.ENOSYS))
        for limit in LIMITS_3_10 if name == "3.10" else LIMITS_4_4:
            yield from _refuse_beyond(limit)
        return
    entries = [entry for entry in NEWER if entry.name == name]
    if entries:
        whole, asked = entries[0].calls, entries[0].asked
    else:
        call, *rest = name.split(":")
        whole, asked = ((), ((call, *map(int, rest)),)) if rest else ((call,), ())
    for call in whole:
        yield from ((LOAD, 0, 0, NUMBER_AT), (IF_EQUAL, 0, 1, NUMBERS[call]), (RETURN, 0, 0, REFUSE | errno.ENOSYS))
    for each in asked:
        yield from _refuse_asked(*each)


def _refuse_beyond(limit):
    if limit.bits is None:
        values = sorted(limit.values)
        tests = [(IF_EQUAL, len(values) - at, 0, value) for at, value in enumerate(values)]
    else:
        tests = [(IF_ANY_BIT, 0, 1, ~limit.bits & WORD)]
    return _of_call(limit, [*tests, (RETURN, 0, 0, REFUSE | limit.error)])


def _refuse_asked(call, argument, what):
    """As the limit would that it is beyond."""
    of_argument = [limit for limit in LIMITS_4_4 if (limit.call, limit.argument) == (call, argument)]
    limit = of_argument[0] if of_argument else one_of(call, argument, ())
    return _of_call(limit, [(IF_EQUAL if limit.bits is None else IF_ANY_BIT, 0, 1, what), (RETURN, 0, 0, REFUSE | limit.error)])


def _of_call(limit, then):
    """`then` looks at the argument, where it is that call."""
    then = [(LOAD, 0, 0, ARGUMENTS_AT + 8 * limit.argument), *then]
    if limit.where:
        argument, value = limit.where
        then = [(LOAD, 0, 0, ARGUMENTS_AT + 8 * argument), (IF_EQUAL, 0, len(then), value), *then]
    return [(LOAD, 0, 0, NUMBER_AT), (IF_EQUAL, 0, len(then), NUMBERS[limit.call]), *then]

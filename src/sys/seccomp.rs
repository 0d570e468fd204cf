//! The system calls that are left after the start: a filter (seccomp(2)) in classic BPF, made from the
//! list below. Everything else is refused with EPERM, which the program takes as it takes any error.
//!
//! The list holds what the C libraries call for what is done after the start, musl and glibc, on old
//! kernels too. Not in it, above all: running a program, tracing or signalling another process,
//! mounts, namespaces, modules, and memory that is executed.

use super::privileges;
use std::io;

/// What the arguments of an allowed call must be. Only 32 bits of each count, as for the kernel.
#[derive(Clone, Copy, Debug)]
enum Only {
    /// Anything.
    Any,
    /// The argument of this number is one of these.
    OneOf(u32, &'static [u32]),
    /// The argument of this number has none of these bits.
    Without(u32, u32),
    /// The argument of this number is our own process.
    Ourselves(u32),
}

use Only::{Any, OneOf, Ourselves, Without};

const NEITHER_THREAD_NOR_NAMESPACE: u32 =
    !(libc::CLONE_CHILD_SETTID as u32 | libc::CLONE_CHILD_CLEARTID as u32 | 0xff);
const TCGETS2: u32 = 0x802c_542a;
const PERF_EVENT_IOC_DISABLE: u32 = 0x2401;
const BPF_MAP_LOOKUP_ELEM: u32 = 1;
const BPF_MAP_DELETE_ELEM: u32 = 3;

/// What is called all the time comes first.
const CALLS: &[(libc::c_long, Only)] = &[
    // The loop: sockets, waiting, time.
    (libc::SYS_recvmmsg, Any),
    (libc::SYS_ppoll, Any),
    (libc::SYS_clock_gettime, Any), // where the vdso has none
    (libc::SYS_read, Any),
    (libc::SYS_write, Any),
    (libc::SYS_sendto, Any),
    (libc::SYS_close, Any),
    (libc::SYS_recvfrom, Any),
    (libc::SYS_recvmsg, Any),
    (libc::SYS_sendmsg, Any),
    (libc::SYS_socket, OneOf(0, FAMILIES)),
    (libc::SYS_socketpair, Any),
    (libc::SYS_bind, Any),
    (libc::SYS_connect, Any), // /dev/log, when syslogd is started again
    (libc::SYS_getsockname, Any),
    (libc::SYS_getsockopt, Any),
    (libc::SYS_setsockopt, Any),
    (libc::SYS_epoll_pwait, Any),
    (libc::SYS_gettimeofday, Any),
    (libc::SYS_clock_getres, Any),
    (libc::SYS_clock_nanosleep, Any),
    (libc::SYS_nanosleep, Any),
    (libc::SYS_restart_syscall, Any),
    // Files.
    (libc::SYS_openat, Any),
    (libc::SYS_readv, Any),
    (libc::SYS_writev, Any),
    (libc::SYS_pread64, Any),
    (libc::SYS_pwrite64, Any),
    (libc::SYS_lseek, Any),
    (libc::SYS_fstat, Any),
    (libc::SYS_newfstatat, Any),
    (libc::SYS_statx, Any),
    (libc::SYS_fstatfs, Any),
    (libc::SYS_faccessat, Any),
    (libc::SYS_readlinkat, Any),
    (libc::SYS_getdents64, Any),
    (libc::SYS_getcwd, Any),
    (libc::SYS_chdir, Any), // a daemon's last step into the background
    (libc::SYS_unlinkat, Any),
    (libc::SYS_renameat, Any),
    (libc::SYS_renameat2, Any),
    (libc::SYS_ftruncate, Any),
    (libc::SYS_fsync, Any),
    (libc::SYS_fdatasync, Any),
    (libc::SYS_flock, Any),
    (libc::SYS_fcntl, Any),
    (libc::SYS_dup, Any),
    (libc::SYS_dup3, Any),
    (libc::SYS_pipe2, Any),
    (libc::SYS_umask, Any),
    (libc::SYS_ioctl, OneOf(1, IOCTLS)),
    (
        libc::SYS_bpf,
        OneOf(0, &[BPF_MAP_LOOKUP_ELEM, BPF_MAP_DELETE_ELEM]),
    ),
    // Memory.
    (libc::SYS_brk, Any),
    (libc::SYS_mmap, Without(2, libc::PROT_EXEC as u32)),
    (libc::SYS_mprotect, Without(2, libc::PROT_EXEC as u32)),
    (libc::SYS_mremap, Any),
    (libc::SYS_munmap, Any),
    (libc::SYS_madvise, Any),
    (libc::SYS_futex, Any),
    (libc::SYS_getrandom, Any),
    // This process, and the copies of it that write a report.
    (libc::SYS_clone, Without(0, NEITHER_THREAD_NOR_NAMESPACE)),
    (libc::SYS_set_robust_list, Any),
    (libc::SYS_wait4, Any),
    (libc::SYS_waitid, Any),
    (libc::SYS_exit, Any),
    (libc::SYS_exit_group, Any),
    (libc::SYS_getpid, Any),
    (libc::SYS_getppid, Any),
    (libc::SYS_gettid, Any),
    (libc::SYS_getuid, Any),
    (libc::SYS_geteuid, Any),
    (libc::SYS_getrusage, Any),
    (libc::SYS_sysinfo, Any),
    (libc::SYS_uname, Any),
    (libc::SYS_sched_yield, Any),
    (
        libc::SYS_prctl,
        OneOf(
            0,
            &[libc::PR_SET_NAME as u32, libc::PR_SET_PDEATHSIG as u32],
        ),
    ),
    (libc::SYS_rt_sigaction, Any),
    (libc::SYS_rt_sigprocmask, Any),
    (libc::SYS_rt_sigreturn, Any),
    (libc::SYS_sigaltstack, Any),
    (libc::SYS_tkill, Ourselves(0)), // abort
    (libc::SYS_tgkill, Ourselves(0)),
];

/// What only this architecture has; others have but the newer form.
#[cfg(target_arch = "x86_64")]
const OLDER_CALLS: &[(libc::c_long, Only)] = &[
    (libc::SYS_poll, Any),
    (libc::SYS_epoll_wait, Any),
    (libc::SYS_time, Any),
    (libc::SYS_open, Any),
    (libc::SYS_stat, Any),
    (libc::SYS_lstat, Any),
    (libc::SYS_access, Any),
    (libc::SYS_readlink, Any),
    (libc::SYS_unlink, Any),
    (libc::SYS_rename, Any),
    (libc::SYS_dup2, Any),
    (libc::SYS_pipe, Any),
    (libc::SYS_fork, Any),
];
#[cfg(not(target_arch = "x86_64"))]
const OLDER_CALLS: &[(libc::c_long, Only)] = &[];

/// No raw packets of any kind (AF_PACKET), no keys (AF_ALG), nothing that is rarely looked after.
const FAMILIES: &[u32] = &[
    libc::AF_NETLINK as u32,
    libc::AF_UNIX as u32,
    libc::AF_INET as u32, // asks legacy tables
    libc::AF_INET6 as u32,
];

/// Is it a terminal, how wide is it, does a socket block, and letting go of a probe.
const IOCTLS: &[u32] = &[
    libc::TCGETS as u32,
    TCGETS2,
    libc::TIOCGWINSZ as u32,
    libc::FIONBIO as u32,
    libc::FIOCLEX as u32,
    PERF_EVENT_IOC_DISABLE,
];

/// AUDIT_ARCH_* (linux/audit.h) of what this is built for, where the list is made for that.
const ARCHITECTURE: Option<u32> = if cfg!(target_arch = "x86_64") {
    Some(0xc000_003e)
} else if cfg!(target_arch = "aarch64") {
    Some(0xc000_00b7)
} else {
    None
};

/// Numbers from here on are of the x32 ABI, which shares AUDIT_ARCH_X86_64.
const X32: u32 = 0x4000_0000;

// Offsets in struct seccomp_data; the low half of an argument comes first on both architectures.
const NUMBER: u32 = 0;
const ARCH: u32 = 4;
const ARGUMENTS: u32 = 16;

const LOAD: u32 = libc::BPF_LD | libc::BPF_W | libc::BPF_ABS;
const IF_EQUAL: u32 = libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K;
const IF_AT_LEAST: u32 = libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K;
const IF_ANY_BIT: u32 = libc::BPF_JMP | libc::BPF_JSET | libc::BPF_K;
const RETURN: u32 = libc::BPF_RET | libc::BPF_K;

const ALLOW: u32 = libc::SECCOMP_RET_ALLOW;
const REFUSE: u32 = libc::SECCOMP_RET_ERRNO | libc::EPERM as u32;

/// Lets this process call nothing but what is in the list, for good. Needs no_new_privs.
pub fn restrict() -> io::Result<()> {
    let Some(architecture) = ARCHITECTURE else {
        let why = "there is no list for this architecture";
        return Err(io::Error::new(io::ErrorKind::Unsupported, why));
    };
    if privileges::thread_count() != 1 {
        return Err(io::Error::other("another thread would go on without it"));
    }
    let mut instructions = program(architecture, std::process::id());
    let program = libc::sock_fprog {
        len: u16::try_from(instructions.len()).map_err(io::Error::other)?,
        filter: instructions.as_mut_ptr(),
    };
    // From Linux 4.17 to 5.15 a filter comes with a slower processor, unless this is said; before, the
    // kernel does not know the word.
    let mut result = -1;
    for flags in [libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW, 0] {
        // SAFETY: the kernel reads the program, which is alive.
        result = unsafe {
            libc::syscall(
                libc::SYS_seccomp,
                libc::c_ulong::from(libc::SECCOMP_SET_MODE_FILTER),
                flags,
                &raw const program,
            )
        };
        if result == 0 {
            break;
        }
    }
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

fn program(architecture: u32, own_pid: u32) -> Vec<libc::sock_filter> {
    let mut program = vec![
        step(LOAD, ARCH),
        jump(IF_EQUAL, architecture, 1, 0),
        step(RETURN, REFUSE),
        step(LOAD, NUMBER),
        jump(IF_AT_LEAST, X32, 0, 1),
        step(RETURN, REFUSE),
    ];
    for (number, only) in CALLS.iter().chain(OLDER_CALLS) {
        let own = [own_pid];
        let (argument, values) = match only {
            Any => (0, &[][..]),
            OneOf(argument, values) => (*argument, *values),
            Ourselves(argument) => (*argument, &own[..]),
            Without(argument, _) => (*argument, &[][..]),
        };
        let mut block = vec![step(LOAD, ARGUMENTS + 8 * argument)];
        match only {
            Any => block.clear(),
            Without(_, bits) => {
                block.push(jump(IF_ANY_BIT, *bits, 0, 1));
                block.push(step(RETURN, REFUSE));
            }
            OneOf(..) | Ourselves(..) => {
                for (at, value) in values.iter().enumerate() {
                    let to_the_end = (values.len() - at) as u8;
                    block.push(jump(IF_EQUAL, *value, to_the_end, 0));
                }
                block.push(step(RETURN, REFUSE));
            }
        }
        block.push(step(RETURN, ALLOW));
        program.push(jump(IF_EQUAL, *number as u32, 0, block.len() as u8));
        program.append(&mut block);
    }
    program.push(step(RETURN, REFUSE));
    program
}

fn step(code: u32, k: u32) -> libc::sock_filter {
    jump(code, k, 0, 0)
}

fn jump(code: u32, k: u32, jt: u8, jf: u8) -> libc::sock_filter {
    let code = code as u16; // all of them are
    libc::sock_filter { code, jt, jf, k }
}

#[cfg(test)]
mod tests {
    use super::*;

    const THIS: u32 = 0xc000_003e;
    const OWN_PID: u32 = 4711;

    /// Runs the program as the kernel does; panics where that would refuse to load it.
    fn run(program: &[libc::sock_filter], arch: u32, number: u32, arguments: [u64; 6]) -> u32 {
        let mut data = [number, arch, 0, 0].map(u32::to_le_bytes).concat();
        data.extend(arguments.map(u64::to_le_bytes).concat());
        let (mut accumulator, mut at) = (0, 0);
        loop {
            let libc::sock_filter { code, jt, jf, k } = program[at];
            at += 1;
            let holds = match u32::from(code) {
                LOAD => {
                    assert!(k % 4 == 0 && k < 64);
                    let word = &data[k as usize..k as usize + 4];
                    accumulator = u32::from_le_bytes(word.try_into().unwrap());
                    continue;
                }
                RETURN => return k,
                IF_EQUAL => accumulator == k,
                IF_AT_LEAST => accumulator >= k,
                IF_ANY_BIT => accumulator & k != 0,
                other => panic!("unknown instruction {other:#x}"),
            };
            at += usize::from(if holds { jt } else { jf });
        }
    }

    fn allows(number: libc::c_long, arguments: [u64; 6]) -> bool {
        let program = program(THIS, OWN_PID);
        assert!(program.len() < 4096, "BPF_MAXINSNS");
        match run(&program, THIS, number as u32, arguments) {
            ALLOW => true,
            REFUSE => false,
            other => panic!("{other:#x}"),
        }
    }

    #[test]
    fn what_is_listed_is_allowed_and_nothing_else() {
        let listed = |number: u32| {
            let mut all = CALLS.iter().chain(OLDER_CALLS);
            all.find(|(listed, _)| *listed as u32 == number)
        };
        for number in 0..1024 {
            let allowed = allows(number.into(), [0; 6]);
            match listed(number) {
                Some((_, Any | Without(..))) => assert!(allowed, "{number}"),
                Some(_) => {}
                None => assert!(!allowed, "{number}"),
            }
        }
        assert!(allows(libc::SYS_recvmmsg, [u64::MAX; 6]));
        for number in [
            libc::SYS_execve,
            libc::SYS_execveat,
            libc::SYS_ptrace,
            libc::SYS_kill,
            libc::SYS_mount,
            libc::SYS_setns,
            libc::SYS_unshare,
            libc::SYS_init_module,
            libc::SYS_seccomp,
            libc::SYS_clone3,
            libc::SYS_chmod,
            libc::SYS_io_uring_setup,
            libc::SYS_perf_event_open,
            -1,
        ] {
            assert!(!allows(number, [0; 6]), "{number}");
        }
    }

    #[test]
    fn no_call_is_listed_twice() {
        let mut numbers: Vec<_> = CALLS.iter().chain(OLDER_CALLS).map(|call| call.0).collect();
        numbers.sort_unstable();
        assert!(numbers.windows(2).all(|pair| pair[0] != pair[1]));
    }

    #[test]
    fn another_architecture_is_refused() {
        let program = program(THIS, OWN_PID);
        let read = libc::SYS_read as u32;
        assert_eq!(run(&program, THIS, read, [0; 6]), ALLOW);
        const I386: u32 = 0x4000_0003;
        for number in 0..512 {
            assert_eq!(run(&program, I386, number, [0; 6]), REFUSE);
            assert_eq!(run(&program, THIS, X32 | number, [0; 6]), REFUSE);
        }
    }

    #[test]
    fn arguments_count_where_they_matter() {
        let with = |number, at: usize, value: u64| {
            let mut arguments = [0xdead_beef; 6];
            arguments[at] = value;
            allows(number, arguments)
        };
        let socket = |family: libc::c_int| with(libc::SYS_socket, 0, family as u64);
        assert!(socket(libc::AF_NETLINK) && socket(libc::AF_INET6) && socket(libc::AF_UNIX));
        assert!(!socket(libc::AF_PACKET) && !socket(libc::AF_ALG) && !socket(libc::AF_VSOCK));
        let maps = |prot: libc::c_int| with(libc::SYS_mmap, 2, prot as u64);
        assert!(maps(libc::PROT_READ | libc::PROT_WRITE));
        assert!(!maps(libc::PROT_READ | libc::PROT_EXEC));
        assert!(!with(libc::SYS_mprotect, 2, libc::PROT_EXEC as u64));
        let clone = |flags: libc::c_int| with(libc::SYS_clone, 0, flags as u64);
        let fork = libc::CLONE_CHILD_SETTID | libc::CLONE_CHILD_CLEARTID | libc::SIGCHLD;
        assert!(clone(libc::SIGCHLD) && clone(fork));
        for flag in [
            libc::CLONE_NEWUSER,
            libc::CLONE_NEWNET,
            libc::CLONE_VM,
            libc::CLONE_THREAD,
        ] {
            assert!(!clone(fork | flag), "{flag:#x}");
        }
        for number in [libc::SYS_tgkill, libc::SYS_tkill] {
            assert!(with(number, 0, OWN_PID.into()) && !with(number, 0, 1));
        }
        assert!(with(libc::SYS_ioctl, 1, libc::TIOCGWINSZ));
        assert!(!with(libc::SYS_ioctl, 1, libc::TIOCSTI));
        // Upper halves are not looked at, here as in the kernel.
        assert!(with(libc::SYS_ioctl, 1, libc::TIOCGWINSZ | 1 << 32));
        assert!(with(libc::SYS_bpf, 0, 3) && !with(libc::SYS_bpf, 0, 5));
        assert!(!with(libc::SYS_prctl, 0, libc::PR_SET_SECCOMP as u64));
    }
}

//! The system calls that are left after the start: a filter (seccomp(2)) in classic BPF, made from the
//! list in `calls`. Everything else is refused with EPERM, which the program takes as it takes any error.
//!
//! The list holds what the C libraries call for what is done after the start, musl and glibc, on old
//! kernels too. Not in it, above all: running a program, tracing or signalling another process,
//! mounts, namespaces, modules, and memory that is executed.

#[cfg(any(
    target_arch = "x86_64",
    target_arch = "aarch64",
    all(target_arch = "arm", target_endian = "little")
))]
mod calls;
/// No list is made for this architecture.
#[cfg(not(any(
    target_arch = "x86_64",
    target_arch = "aarch64",
    all(target_arch = "arm", target_endian = "little")
)))]
mod calls {
    pub(super) const CALLS: &[super::Call] = &[];
    pub(super) const OLDER_CALLS: &[super::Call] = &[];
}

use super::privileges;
use calls::{CALLS, OLDER_CALLS};
use std::io;
use std::ptr;

/// An allowed call: its number, and what it may be called for.
type Call = (u16, Only);

/// What an argument of an allowed call must be. Only 32 bits of it count, as for the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Only {
    /// Anything.
    Any,
    /// A socket of one of these families.
    Families,
    /// One of these things of a terminal, a socket or a probe.
    Controls,
    /// Letting go of a probe's buffers.
    BpfMaps,
    /// A name, and to end with one's parent.
    OfAChild,
    /// Memory that is not executed.
    NotExecuted,
    /// A copy of this process that shares nothing with it.
    Fork,
    /// This process.
    Ourselves,
}

/// How that is found out: an argument that has one of these values, or none of these bits.
enum Check<'a> {
    OneOf(u8, &'a [u32]),
    Without(u8, u32),
}

impl Only {
    fn check(self, own_pid: &u32) -> Option<Check<'_>> {
        Some(match self {
            Only::Any => return None,
            Only::Families => Check::OneOf(0, FAMILIES),
            Only::Controls => Check::OneOf(1, CONTROLS),
            Only::BpfMaps => Check::OneOf(0, &[BPF_MAP_LOOKUP_ELEM, BPF_MAP_DELETE_ELEM]),
            Only::OfAChild => Check::OneOf(0, OF_A_CHILD),
            Only::NotExecuted => Check::Without(2, libc::PROT_EXEC as u32),
            Only::Fork => Check::Without(0, NOT_OF_A_FORK),
            Only::Ourselves => Check::OneOf(0, std::slice::from_ref(own_pid)),
        })
    }
}

/// All flags of clone but those that a C library's fork sets, and the signal of its end.
const NOT_OF_A_FORK: u32 =
    !(libc::CLONE_CHILD_SETTID as u32 | libc::CLONE_CHILD_CLEARTID as u32 | 0xff);
const OF_A_CHILD: &[u32] = &[libc::PR_SET_NAME as u32, libc::PR_SET_PDEATHSIG as u32];
const TCGETS2: u32 = 0x802c_542a;
const PERF_EVENT_IOC_DISABLE: u32 = 0x2401;
const BPF_MAP_LOOKUP_ELEM: u32 = 1;
const BPF_MAP_DELETE_ELEM: u32 = 3;

/// No raw packets of any kind (AF_PACKET), no keys (AF_ALG), nothing that is rarely looked after.
const FAMILIES: &[u32] = &[
    libc::AF_NETLINK as u32,
    libc::AF_UNIX as u32,
    libc::AF_INET as u32, // asks legacy tables
    libc::AF_INET6 as u32,
];

/// Is it a terminal, how wide is it, does a socket block, and letting go of a probe.
const CONTROLS: &[u32] = &[
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
} else if cfg!(all(target_arch = "arm", target_endian = "little")) {
    Some(0x4000_0028)
} else {
    None
};

/// Numbers from here on are of the x32 ABI, which shares AUDIT_ARCH_X86_64.
const X32: u32 = 0x4000_0000;

// Offsets in struct seccomp_data; the low half of an argument comes first on all of these architectures.
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
    let quick = set(&program, libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW);
    match quick.or_else(|_| set(&program, 0)) {
        Err(error) if error.raw_os_error() == Some(libc::ENOSYS) => set_before_3_17(&program),
        result => result,
    }
}

fn set(program: &libc::sock_fprog, flags: libc::c_ulong) -> io::Result<()> {
    let mode = libc::c_ulong::from(libc::SECCOMP_SET_MODE_FILTER);
    // SAFETY: the kernel reads the program, which is alive.
    match unsafe { libc::syscall(libc::SYS_seccomp, mode, flags, ptr::from_ref(program)) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// The older way to say it, which cannot say more.
fn set_before_3_17(program: &libc::sock_fprog) -> io::Result<()> {
    let mode = libc::c_ulong::from(libc::SECCOMP_MODE_FILTER);
    // SAFETY: the kernel reads the program, which is alive.
    match unsafe { libc::prctl(libc::PR_SET_SECCOMP, mode, ptr::from_ref(program)) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
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
        let begin = program.len();
        program.push(jump(IF_EQUAL, u32::from(*number), 0, 0));
        match only.check(&own_pid) {
            None => {}
            Some(Check::Without(argument, bits)) => {
                program.push(step(LOAD, ARGUMENTS + 8 * u32::from(argument)));
                program.push(jump(IF_ANY_BIT, bits, 0, 1));
                program.push(step(RETURN, REFUSE));
            }
            Some(Check::OneOf(argument, values)) => {
                program.push(step(LOAD, ARGUMENTS + 8 * u32::from(argument)));
                for (at, value) in values.iter().enumerate() {
                    let to_allow = (values.len() - at) as u8;
                    program.push(jump(IF_EQUAL, *value, to_allow, 0));
                }
                program.push(step(RETURN, REFUSE));
            }
        }
        program.push(step(RETURN, ALLOW));
        // Another number goes on behind all that.
        program[begin].jf = (program.len() - begin - 1) as u8;
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
        let listed = |number: u16| {
            let mut all = CALLS.iter().chain(OLDER_CALLS);
            all.find(|(listed, _)| *listed == number)
        };
        for number in 0..1024 {
            let allowed = allows(number.into(), [0; 6]);
            match listed(number) {
                Some((_, Only::Any | Only::NotExecuted | Only::Fork)) => {
                    assert!(allowed, "{number}")
                }
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
        let maps = |prot: libc::c_int| with(calls::MMAP, 2, prot as u64);
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
        let control =
            |request: u32, upper: u64| with(libc::SYS_ioctl, 1, upper | u64::from(request));
        assert!(control(libc::TIOCGWINSZ as u32, 0));
        assert!(!control(libc::TIOCSTI as u32, 0));
        // Upper halves are not looked at, here as in the kernel.
        assert!(control(libc::TIOCGWINSZ as u32, 1 << 32));
        assert!(with(libc::SYS_bpf, 0, 3) && !with(libc::SYS_bpf, 0, 5));
        assert!(!with(libc::SYS_prctl, 0, libc::PR_SET_SECCOMP as u64));
    }
    /// In a copy of this process, which has one thread.
    #[test]
    fn a_confined_process_can_write_a_report_from_a_copy_and_run_nothing() {
        let path = std::env::temp_dir().join(format!("conntracker-seccomp-{}", std::process::id()));
        let work = || {
            privileges::no_new().unwrap();
            restrict().unwrap();
            // SAFETY: as below.
            let copy = unsafe { libc::fork() };
            if copy == 0 {
                let draft = path.with_extension("draft");
                std::fs::write(&draft, "a report").unwrap();
                std::fs::rename(&draft, &path).unwrap();
                return 0;
            }
            let mut status = 0;
            // SAFETY: the kernel writes the status.
            let waited = unsafe { libc::waitpid(copy, &raw mut status, 0) };
            assert!(copy > 0 && waited == copy && status == 0, "{status}");
            let refusal = std::process::Command::new("/bin/true")
                .status()
                .unwrap_err();
            assert_eq!(refusal.kind(), io::ErrorKind::PermissionDenied);
            0
        };
        // SAFETY: the copy uses nothing that another thread may hold, allocations aside, whose locks the C
        // library keeps in order; it ends here.
        let copy = unsafe { libc::fork() };
        if copy == 0 {
            let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
            // SAFETY: ends the copy.
            unsafe { libc::_exit(result.unwrap_or(1)) };
        }
        let mut status = -1;
        // SAFETY: the kernel writes the status.
        unsafe { libc::waitpid(copy, &raw mut status, 0) };
        assert_eq!(status, 0);
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "a report");
        std::fs::remove_file(&path).unwrap();
    }
}

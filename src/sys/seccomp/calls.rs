//! The calls that are left. What is called all the time comes first.

use super::{Call, Only};

const fn any(number: libc::c_long) -> Call {
    only(number, Only::Any)
}

const fn only(number: libc::c_long, only: Only) -> Call {
    assert!(number >= 0 && number < 1024);
    (number as u16, only)
}

// Two that are called otherwise with 32 bits: arguments are words, and file offsets are not.
#[cfg(not(target_arch = "arm"))]
const FSTATAT: libc::c_long = libc::SYS_newfstatat;
#[cfg(target_arch = "arm")]
const FSTATAT: libc::c_long = libc::SYS_fstatat64;
#[cfg(not(target_arch = "arm"))]
pub(super) const MMAP: libc::c_long = libc::SYS_mmap;
#[cfg(target_arch = "arm")]
pub(super) const MMAP: libc::c_long = libc::SYS_mmap2;

pub(super) const CALLS: &[Call] = &[
    // The loop: sockets, waiting, time.
    any(libc::SYS_recvmmsg),
    any(libc::SYS_ppoll),
    any(libc::SYS_clock_gettime), // where the vdso has none
    any(libc::SYS_read),
    any(libc::SYS_write),
    any(libc::SYS_sendto),
    any(libc::SYS_close),
    any(libc::SYS_recvfrom),
    any(libc::SYS_recvmsg),
    any(libc::SYS_sendmsg),
    only(libc::SYS_socket, Only::Families),
    any(libc::SYS_socketpair), // to the copy that writes a report
    any(libc::SYS_bind),
    any(libc::SYS_connect), // /dev/log, when syslogd is started again
    any(libc::SYS_getsockname),
    any(libc::SYS_getsockopt),
    any(libc::SYS_setsockopt),
    any(libc::SYS_epoll_pwait),
    any(libc::SYS_gettimeofday),
    any(libc::SYS_clock_getres),
    any(libc::SYS_clock_nanosleep),
    any(libc::SYS_nanosleep),
    any(libc::SYS_restart_syscall),
    // Files.
    any(libc::SYS_openat),
    any(libc::SYS_readv),
    any(libc::SYS_writev),
    any(libc::SYS_pread64),
    any(libc::SYS_pwrite64),
    any(libc::SYS_lseek),
    any(libc::SYS_fstat),
    any(FSTATAT),
    any(libc::SYS_statx),
    any(libc::SYS_fstatfs),
    any(libc::SYS_faccessat),
    any(libc::SYS_readlinkat),
    any(libc::SYS_getdents64),
    any(libc::SYS_getcwd),
    any(libc::SYS_chdir), // a daemon's last step into the background
    any(libc::SYS_unlinkat),
    any(libc::SYS_renameat),
    any(libc::SYS_renameat2),
    any(libc::SYS_ftruncate),
    any(libc::SYS_fchmod), // numbers, for who collects them
    any(libc::SYS_fsync),
    any(libc::SYS_fdatasync),
    any(libc::SYS_flock),
    any(libc::SYS_fcntl),
    any(libc::SYS_dup),
    any(libc::SYS_dup3),
    any(libc::SYS_pipe2),
    any(libc::SYS_umask),
    only(libc::SYS_ioctl, Only::Controls),
    only(libc::SYS_bpf, Only::BpfMaps),
    // Memory.
    any(libc::SYS_brk),
    only(MMAP, Only::NotExecuted),
    only(libc::SYS_mprotect, Only::NotExecuted),
    any(libc::SYS_mremap),
    any(libc::SYS_munmap),
    any(libc::SYS_madvise),
    any(libc::SYS_futex),
    any(libc::SYS_getrandom),
    // This process, and the copies of it that write a report.
    only(libc::SYS_clone, Only::Fork),
    any(libc::SYS_set_robust_list),
    any(libc::SYS_set_tid_address),
    any(libc::SYS_wait4),
    any(libc::SYS_waitid),
    any(libc::SYS_exit),
    any(libc::SYS_exit_group),
    any(libc::SYS_getpid),
    any(libc::SYS_getppid),
    any(libc::SYS_gettid),
    any(libc::SYS_getuid),
    any(libc::SYS_geteuid),
    any(libc::SYS_getrusage),
    any(libc::SYS_sysinfo),
    any(libc::SYS_uname),
    any(libc::SYS_sched_yield),
    only(libc::SYS_prctl, Only::OfAChild),
    any(libc::SYS_rt_sigaction),
    any(libc::SYS_rt_sigprocmask),
    any(libc::SYS_rt_sigreturn),
    any(libc::SYS_sigaltstack),
    only(libc::SYS_tkill, Only::Ourselves), // abort
    only(libc::SYS_tgkill, Only::Ourselves),
];

/// What only this architecture has; others have but the newer form.
#[cfg(target_arch = "x86_64")]
pub(super) const OLDER_CALLS: &[Call] = &[
    any(libc::SYS_poll),
    any(libc::SYS_epoll_wait),
    any(libc::SYS_time),
    any(libc::SYS_open),
    any(libc::SYS_stat),
    any(libc::SYS_lstat),
    any(libc::SYS_access),
    any(libc::SYS_readlink),
    any(libc::SYS_unlink),
    any(libc::SYS_rename),
    any(libc::SYS_dup2),
    any(libc::SYS_pipe),
    any(libc::SYS_fork),
];
/// What came with 32 bits, and was made wider in turn: where a number, a user or a time has more bits than
/// the first form had room for. C libraries ask for the widest and go back where the kernel has none.
#[cfg(target_arch = "arm")]
pub(super) const OLDER_CALLS: &[Call] = &[
    // Times of 64 bits (Linux 5.1); libc has no names for these.
    any(403), // clock_gettime64
    any(406), // clock_getres_time64
    any(407), // clock_nanosleep_time64
    any(414), // ppoll_time64
    any(417), // recvmmsg_time64
    any(422), // futex_time64
    any(libc::SYS_send),
    any(libc::SYS_recv),
    any(libc::SYS_fcntl64),
    any(libc::SYS__llseek),
    any(libc::SYS_fstat64),
    any(libc::SYS_stat64),
    any(libc::SYS_lstat64),
    any(libc::SYS_fstatfs64),
    any(libc::SYS_ftruncate64),
    any(libc::SYS_getuid32),
    any(libc::SYS_geteuid32),
    any(libc::SYS_poll),
    any(libc::SYS_epoll_wait),
    any(libc::SYS_open),
    any(libc::SYS_access),
    any(libc::SYS_readlink),
    any(libc::SYS_unlink),
    any(libc::SYS_rename),
    any(libc::SYS_dup2),
    any(libc::SYS_pipe),
    any(libc::SYS_fork),
    any(libc::SYS_sigreturn), // of a handler that is told nothing but the number
];
#[cfg(not(any(target_arch = "x86_64", target_arch = "arm")))]
pub(super) const OLDER_CALLS: &[Call] = &[];

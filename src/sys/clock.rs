//! Clocks. Wall time names moments, monotonic time measures intervals.

use rustix::time::{ClockId, Timespec, clock_gettime};
use std::time::Duration;

/// Wall time, nanoseconds since 1970.
pub fn realtime_ns() -> u64 {
    nanoseconds(clock_gettime(ClockId::Realtime))
}

/// Time since some fixed moment; never goes back.
pub fn monotonic() -> Duration {
    Duration::from_nanos(nanoseconds(clock_gettime(ClockId::Monotonic)))
}

/// What is to be added to monotonic time to have wall time. We may lose the processor between one
/// look and the next, so the quickest of a few counts.
pub fn realtime_offset_ns() -> u64 {
    let look = || {
        let before = nanoseconds(clock_gettime(ClockId::Monotonic));
        let wall = realtime_ns();
        let after = nanoseconds(clock_gettime(ClockId::Monotonic));
        let took = after.saturating_sub(before);
        (took, wall.wrapping_sub(before + took / 2))
    };
    [look(), look(), look()]
        .into_iter()
        .min()
        .map_or(0, |(_, offset)| offset)
}

/// Time since the machine started, its sleep included: what /proc/PID/stat counts in.
pub fn boottime() -> Duration {
    Duration::from_nanos(nanoseconds(clock_gettime(ClockId::Boottime)))
}

/// Wall time as the clocks of this place show it: month (0 to 11), day of the month, hour, minute,
/// second. By /etc/localtime, which is read once.
pub fn local_time() -> [i32; 5] {
    let seconds = clock_gettime(ClockId::Realtime).tv_sec as _; // time_t has 32 bits in some old C libraries
    let mut parts = std::mem::MaybeUninit::<libc::tm>::zeroed();
    // SAFETY: localtime_r fills what it is given or leaves it as it is, and zeros are a valid `tm`.
    let parts = unsafe {
        libc::localtime_r(&raw const seconds, parts.as_mut_ptr());
        parts.assume_init()
    };
    [
        parts.tm_mon,
        parts.tm_mday,
        parts.tm_hour,
        parts.tm_min,
        parts.tm_sec,
    ]
}

fn nanoseconds(time: Timespec) -> u64 {
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0); // a clock before 1970 reads as 1970
    seconds
        .saturating_mul(1_000_000_000)
        .saturating_add(u64::try_from(time.tv_nsec).unwrap_or(0))
}

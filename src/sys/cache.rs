//! The processor's cache.

/// Has the line that a value lies in fetched, and does not wait for it; nothing where there is no
/// instruction for that.
#[inline]
pub fn fetch<T>(value: &T) {
    let at = std::ptr::from_ref(value);
    // SAFETY: it reads nothing that the program sees, and faults nowhere.
    #[cfg(target_arch = "x86_64")]
    unsafe {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_T0>(at.cast());
    }
    // SAFETY: likewise.
    #[cfg(target_arch = "aarch64")]
    unsafe {
        std::arch::asm!("prfm pldl1keep, [{}]", in(reg) at, options(nostack, preserves_flags, readonly));
    }
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    let _ = at;
}

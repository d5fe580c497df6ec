//! Tells the processor what will be read soon.

/// Has the processor fetch what lies there while the caller does something else.
#[cfg(target_arch = "x86_64")]
pub fn prefetch<T>(at: *const T) {
    use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
    // SAFETY: a prefetch reads nothing and never faults, whatever the address; SSE is part of x86_64.
    unsafe { _mm_prefetch(at.cast(), _MM_HINT_T0) };
}

/// There is no stable way to say so.
#[cfg(not(target_arch = "x86_64"))]
pub fn prefetch<T>(_: *const T) {}

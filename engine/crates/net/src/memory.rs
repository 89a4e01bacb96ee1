//! How soon freed memory goes back to the kernel.

use libc::c_int;

/// Bytes freed at the end of an arena that stay there. Steps of both directions and their records fit, while a workload's
/// threads cannot keep much.
const KEPT: c_int = 2 * 1024 * 1024;
/// Bytes from which a piece of memory is the kernel's own mapping: more than a step, which lives for microseconds.
const MAPPED: c_int = 1024 * 1024;

/// Keep what one step of a busy connection frees for its next. By itself the C library gives it back, and each step's pages
/// are faulted in again: 150,000 faults a second at one bulk connection, depending on what else the arena holds.
///
/// For the whole process. Errors are not reported: all works without, more slowly.
pub fn keep_steps() {
    // SAFETY: the function takes numbers only, and locks what it changes. The first call ends the library's own adjustment
    // of both, so that neither goes without the other.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, MAPPED);
        libc::mallopt(libc::M_TRIM_THRESHOLD, KEPT);
    }
}

#[cfg(test)]
mod tests {
    use std::hint::black_box;

    use super::*;

    fn faults() -> i64 {
        // SAFETY: the function writes to the place that it is given; a usage of zeros is one.
        unsafe {
            let mut usage: libc::rusage = std::mem::zeroed();
            libc::getrusage(libc::RUSAGE_THREAD, &raw mut usage);
            usage.ru_minflt
        }
    }

    #[test]
    fn steps_use_the_same_memory_again() {
        keep_steps();
        let steps = || black_box((0..3).map(|_| vec![1u8; 256 * 1024]).collect::<Vec<_>>());
        // A thread of its own has an arena of its own, as the tunnel's have.
        let more = std::thread::spawn(move || {
            drop(steps());
            let before = faults();
            for _ in 0..100 {
                drop(steps());
            }
            faults() - before
        });
        assert!(more.join().is_ok_and(|more| more < 1000));
    }
}

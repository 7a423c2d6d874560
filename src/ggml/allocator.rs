//! The C allocator, which ggml and Rust share.

/// Makes a program that runs for days give back the memory it frees: glibc otherwise puts ever larger blocks between
/// small ones, and keeps a heap per thread. Call it before there are threads. False where there is nothing to set.
pub fn give_memory_back() -> bool {
    settings::set()
}

#[cfg(all(target_os = "linux", target_env = "gnu"))]
mod settings {
    use std::ffi::c_int;

    // From <malloc.h>.
    const M_MMAP_THRESHOLD: c_int = -3;
    const M_ARENA_MAX: c_int = -8;
    /// Blocks of at least this many bytes get pages of their own, which go back when they are freed.
    const APART_BYTES: c_int = 256 << 10;
    /// Most heaps for threads.
    const HEAPS: c_int = 2;

    unsafe extern "C" {
        fn mallopt(param: c_int, value: c_int) -> c_int;
    }

    pub fn set() -> bool {
        let all = [(M_MMAP_THRESHOLD, APART_BYTES), (M_ARENA_MAX, HEAPS)];
        all.into_iter().all(|(param, value)| {
            // SAFETY: mallopt(3) takes any two numbers, locks the allocator itself, and gives 1 for success.
            unsafe { mallopt(param, value) == 1 }
        })
    }
}

#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
mod settings {
    pub fn set() -> bool {
        false
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_allocator_takes_the_settings() {
        let glibc = cfg!(all(target_os = "linux", target_env = "gnu"));
        assert_eq!(super::give_memory_back(), glibc);
    }
}

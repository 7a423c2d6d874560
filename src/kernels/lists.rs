//! Dense rows of numbers.

/// Rows of numbers, one per token, dense.
#[derive(Debug, Clone, Copy)]
pub struct Lists<T> {
    /// The first token's first number.
    pub data: *mut T,
    /// Numbers of a token.
    pub n: usize,
}

impl<T> Lists<T> {
    /// # Safety
    /// The token has its list, which nobody writes meanwhile.
    pub(super) unsafe fn get<'a>(&self, token: usize) -> &'a [T] {
        // SAFETY: the caller's word.
        unsafe { std::slice::from_raw_parts(self.data.add(token * self.n), self.n) }
    }

    /// # Safety
    /// The token has its list, which is this thread's.
    pub(super) unsafe fn get_mut<'a>(&self, token: usize) -> &'a mut [T] {
        // SAFETY: the caller's word.
        unsafe { std::slice::from_raw_parts_mut(self.data.add(token * self.n), self.n) }
    }
}

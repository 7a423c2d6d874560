//! What attention asks of a machine: a register of F32, and few operations on it.

/// Arithmetic on registers, to be compiled for each kind of machine. Its functions call others that are always inlined.
pub(in crate::kernels) trait Work {
    type Output;

    /// Does it, with registers `V` and, where it reads keys or values, elements `E`.
    ///
    /// # Safety
    /// What it points to is there, and the machine has the instructions of `V`.
    unsafe fn run<V: Vector, E: Element>(self) -> Self::Output;
}

/// A register of [`Self::LANES`] numbers.
///
/// # Safety
/// Its functions may be called where the machine has the instructions; those with pointers read or write all lanes.
pub(in crate::kernels) trait Vector: Copy {
    /// Numbers of a register: a divisor of 16.
    const LANES: usize;
    /// Registers that the machine has for sums and operands.
    const REGISTERS: usize;

    /// Does work in a function of its own, compiled for this machine.
    unsafe fn run<E: Element, W: Work>(work: W) -> W::Output;

    unsafe fn splat(x: f32) -> Self;
    unsafe fn load(from: *const f32) -> Self;
    unsafe fn store(self, to: *mut f32);
    unsafe fn load_f16(from: *const u8) -> Self;
    unsafe fn load_bf16(from: *const u8) -> Self;
    unsafe fn add(self, b: Self) -> Self;
    unsafe fn mul(self, b: Self) -> Self;
    /// `self * b + c`, rounded once.
    unsafe fn fma(self, b: Self, c: Self) -> Self;
    /// The larger; `b` where one is not a number.
    unsafe fn max(self, b: Self) -> Self;
    /// Zero where `x < limit`.
    unsafe fn zero_below(self, x: Self, limit: Self) -> Self;
    /// `2^n` of `n + `[`ROUNDING`], for whole `n` from -126 to 127.
    unsafe fn power_of_two(self) -> Self;
    /// The sum over each of four registers, to four numbers.
    unsafe fn store_totals(x: [Self; 4], to: *mut f32);
    /// Transposes as many rows as lanes; strides are in numbers.
    unsafe fn transpose(from: *const f32, from_stride: usize, to: *mut f32, to_stride: usize);

    /// The first `n` numbers, zero in lanes beyond, whose memory is not read.
    #[inline(always)]
    unsafe fn load_some<E: Element>(from: *const u8, n: usize) -> Self {
        // SAFETY: the caller's word; 16 numbers have room in 64 bytes.
        unsafe {
            if n >= Self::LANES {
                return E::load(from);
            }
            let mut bytes = [0; 64];
            std::ptr::copy_nonoverlapping(from, bytes.as_mut_ptr(), n * E::BYTES);
            E::load(bytes.as_ptr())
        }
    }

    /// The lanes.
    #[inline(always)]
    unsafe fn numbers(self) -> [f32; 16] {
        let mut to = [0.0; 16];
        // SAFETY: there are at most 16.
        unsafe { self.store(to.as_mut_ptr()) };
        to
    }
}

/// Added to a number of less than 2^22 it leaves the nearest whole one in the lowest bits.
pub(in crate::kernels) const ROUNDING: f32 = 12_582_912.0;

/// An element type of keys and values.
pub(in crate::kernels) trait Element {
    const BYTES: usize;

    /// As many as lanes.
    ///
    /// # Safety
    /// They are there, and so are the instructions of `V`.
    unsafe fn load<V: Vector>(from: *const u8) -> V;
}

pub(super) struct F16;
pub(super) struct Bf16;
pub(super) struct F32;

impl Element for F16 {
    const BYTES: usize = 2;

    #[inline(always)]
    unsafe fn load<V: Vector>(from: *const u8) -> V {
        // SAFETY: the caller's word.
        unsafe { V::load_f16(from) }
    }
}

impl Element for Bf16 {
    const BYTES: usize = 2;

    #[inline(always)]
    unsafe fn load<V: Vector>(from: *const u8) -> V {
        // SAFETY: the caller's word.
        unsafe { V::load_bf16(from) }
    }
}

impl Element for F32 {
    const BYTES: usize = 4;

    #[inline(always)]
    unsafe fn load<V: Vector>(from: *const u8) -> V {
        // SAFETY: the caller's word.
        unsafe { V::load(from.cast()) }
    }
}

/// `e^x` to 2e-7 of its value for `x` up to 0, zero below the smallest normal number. Not a number stays so.
///
/// # Safety
/// The machine has the instructions of `V`.
#[inline(always)]
pub(super) unsafe fn exp<V: Vector>(x: V) -> V {
    // SAFETY: the caller's word.
    unsafe {
        // The logarithm of the smallest normal number, rounded up.
        let limit = V::splat(-87.33);
        let clamped = limit.max(x);
        let n = clamped.fma(V::splat(std::f32::consts::LOG2_E), V::splat(ROUNDING));
        let power = n.power_of_two();
        let n = n.add(V::splat(-ROUNDING));
        let r = n.fma(V::splat(-0.693_359_4), clamped);
        let r = n.fma(V::splat(2.121_944_4e-4), r);
        let mut p = V::splat(1.0 / 720.0);
        for c in [1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0] {
            p = p.fma(r, V::splat(c));
        }
        p.mul(power).zero_below(x, limit)
    }
}

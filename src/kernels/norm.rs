//! A norm over groups of channels behind a gate, as Lightning attention has it.

use super::{Isa, Lists, Share};

/// `out = y / rms(y) * w * sigmoid(gate)`, the mean of squares taken over groups of channels.
#[derive(Debug, Clone, Copy)]
pub struct GatedNorm<'a> {
    /// What to norm, a list of `n_group` groups per token.
    pub y: Lists<f32>,
    /// A weight for each channel.
    pub w: &'a [f32],
    /// What opens the gates, a number per channel and token.
    pub gate: Lists<f32>,
    /// Groups of channels, a divisor of their number.
    pub n_group: usize,
    /// Goes to the mean of squares.
    pub eps: f32,
    /// Tokens.
    pub n_tokens: usize,
}

impl Isa {
    /// Computes this thread's groups of `norm` into `out`.
    ///
    /// # Safety
    /// `out` and all of `norm` have a list for each token, [`Isa::is_available`], and no other thread has this share.
    pub unsafe fn norm_and_gate(&self, norm: &GatedNorm<'_>, out: Lists<f32>, share: Share) {
        let size = norm.w.len() / norm.n_group;
        for unit in share.range(norm.n_tokens * norm.n_group, 1) {
            let (token, group) = (unit / norm.n_group, unit % norm.n_group);
            let part = group * size..(group + 1) * size;
            // SAFETY: the caller's word; the group is this thread's.
            unsafe {
                let out =
                    std::slice::from_raw_parts_mut(out.data.add(token * out.n + part.start), size);
                (self.gated_norm)(
                    &norm.y.get(token)[part.clone()],
                    &norm.w[part.clone()],
                    &norm.gate.get(token)[part],
                    norm.eps,
                    out,
                );
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sums of a few hundred squares in F32.
    const TOLERANCE: f64 = 1e-6;

    fn expected(y: &[f32], w: &[f32], gate: &[f32], size: usize, eps: f64) -> Vec<f64> {
        let norm = |i: usize| {
            let group = &y[i / size * size..][..size];
            let squares: f64 = group.iter().map(|y| f64::from(*y).powi(2)).sum();
            (squares / size as f64 + eps).sqrt()
        };
        (0..y.len())
            .map(|i| {
                let open = 1.0 / (1.0 + (-f64::from(gate[i])).exp());
                f64::from(y[i]) / norm(i) * f64::from(w[i % w.len()]) * open
            })
            .collect()
    }

    #[test]
    fn groups_are_normed_and_gated_one_by_one() {
        let number = |i: usize, seed: f32| ((i as f32 + 1.0) * seed).sin() * 3.0;
        for (width, n_group, n_tokens, threads) in [(96, 4, 3, 1), (300, 1, 1, 2), (128, 8, 2, 3)] {
            let mut y: Vec<f32> = (0..width * n_tokens).map(|i| number(i, 0.37)).collect();
            let mut gate: Vec<f32> = (0..width * n_tokens).map(|i| number(i, 0.91)).collect();
            let w: Vec<f32> = (0..width).map(|i| number(i, 0.53)).collect();
            let wanted = expected(&y, &w, &gate, width / n_group, 1e-5);
            let list = |data: &mut Vec<f32>| Lists {
                data: data.as_mut_ptr(),
                n: width,
            };
            let norm = GatedNorm {
                y: list(&mut y),
                w: &w,
                gate: list(&mut gate),
                n_group,
                eps: 1e-5,
                n_tokens,
            };
            for isa in crate::kernels::all().iter().filter(|i| i.is_available()) {
                let mut out = vec![f32::NAN; width * n_tokens];
                for index in 0..threads {
                    let share = Share { index, of: threads };
                    // SAFETY: lists for all tokens, shares one after another.
                    unsafe { isa.norm_and_gate(&norm, list(&mut out), share) };
                }
                for (i, (o, e)) in out.iter().zip(&wanted).enumerate() {
                    let miss = (f64::from(*o) - e).abs();
                    assert!(
                        miss <= TOLERANCE * e.abs(),
                        "{}: {i}: {o} for {e}",
                        isa.name
                    );
                }
            }
        }
    }
}

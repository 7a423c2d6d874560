//! Which experts a token goes to, and what each of them counts: a router's products in, choices and weights out.
//!
//! The same rules as `model::blocks::moe` states for ggml's operations, of which they take some seventeen.

use std::cell::RefCell;

use super::{Isa, Lists, Share};

/// Lower bound of the sum of chosen weights: the smallest normal F16, as llama.cpp has it.
pub const MIN_WEIGHT_SUM: f32 = 6.103_515_6e-5;

/// Bound on selection scores: NaN of a broken file counts as the lowest.
pub const SCORE_BOUND: f32 = 1e30;

/// The two best scores of a group count for it.
const BEST_OF_GROUP: usize = 2;

/// How products become choices.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Choice {
    /// Scores are a softmax over all experts; if not, a sigmoid of each.
    pub softmax: bool,
    /// Groups the experts fall into, a divisor of their number; 1 if there are none.
    pub n_group: usize,
    /// Groups a token may choose from; they hold at least as many experts as it uses.
    pub n_group_used: usize,
}

/// How scores of chosen experts become weights.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Weighing {
    /// As in [`Choice`].
    pub softmax: bool,
    /// Whether weights are divided by their sum, or by [`MIN_WEIGHT_SUM`] if that is more.
    pub normalise: bool,
    /// Factor on the weights.
    pub scale: f32,
}

/// What a thread works with, kept from call to call.
#[derive(Default)]
struct Scratch {
    scores: Vec<f32>,
    groups: Vec<f32>,
    kept: Vec<i32>,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

impl Isa {
    /// Chooses `chosen.n` experts for each of this thread's tokens, the best first; of equals the first.
    ///
    /// # Safety
    /// `products` and `chosen` have a list for each of `n_tokens`, [`Isa::is_available`], and no other thread has this
    /// share.
    pub unsafe fn choose(
        &self,
        rule: Choice,
        products: Lists<f32>,
        bias: Option<&[f32]>,
        chosen: Lists<i32>,
        n_tokens: usize,
        share: Share,
    ) {
        SCRATCH.with_borrow_mut(|scratch| {
            for token in share.range(n_tokens, 1) {
                // SAFETY: the caller's word; the token is this thread's.
                let (products, chosen) = unsafe { (products.get(token), chosen.get_mut(token)) };
                let scores = &mut scratch.scores;
                // SAFETY: the caller's word.
                unsafe { self.score(rule.softmax, products, scores) };
                if let Some(bias) = bias {
                    scores.iter_mut().zip(bias).for_each(|(s, b)| *s += b);
                }
                for s in scores.iter_mut() {
                    *s = if s.is_nan() {
                        -SCORE_BOUND
                    } else {
                        s.clamp(-SCORE_BOUND, SCORE_BOUND)
                    };
                }
                if rule.n_group_used < rule.n_group {
                    close_groups(rule, scratch);
                }
                best(&scratch.scores, chosen);
            }
        });
    }

    /// The weights of chosen experts, for this thread's tokens.
    ///
    /// # Safety
    /// As [`Isa::choose`]; choices are below `products.n`.
    pub unsafe fn weigh(
        &self,
        rule: Weighing,
        products: Lists<f32>,
        chosen: Lists<i32>,
        weights: Lists<f32>,
        n_tokens: usize,
        share: Share,
    ) {
        SCRATCH.with_borrow_mut(|Scratch { scores, .. }| {
            for token in share.range(n_tokens, 1) {
                // SAFETY: the caller's word; the token is this thread's.
                let (chosen, weights) = unsafe { (chosen.get(token), weights.get_mut(token)) };
                // SAFETY: as above.
                unsafe { self.score(rule.softmax, products.get(token), scores) };
                for (weight, id) in weights.iter_mut().zip(chosen) {
                    *weight = scores[*id as usize];
                }
                let sum = match rule.normalise {
                    true => weights.iter().sum::<f32>().max(MIN_WEIGHT_SUM),
                    false => 1.0,
                };
                weights.iter_mut().for_each(|w| *w = *w / sum * rule.scale);
            }
        });
    }

    /// # Safety
    /// [`Isa::is_available`].
    unsafe fn score(&self, softmax: bool, products: &[f32], scores: &mut Vec<f32>) {
        scores.clear();
        if softmax {
            let max = products.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            scores.extend(products.iter().map(|x| x - max));
        } else {
            scores.extend(products.iter().map(|x| -x));
        }
        // SAFETY: the caller's word.
        unsafe { (self.exponentials)(scores) };
        if softmax {
            let sum: f32 = scores.iter().sum();
            scores.iter_mut().for_each(|s| *s /= sum);
        } else {
            scores.iter_mut().for_each(|s| *s = 1.0 / (1.0 + *s));
        }
    }
}

/// Where the highest scores are, in falling order. There are at least as many as wanted.
fn best(scores: &[f32], chosen: &mut [i32]) {
    let mut n = 0;
    for (id, score) in scores.iter().enumerate() {
        let mut at = n;
        while at > 0 && scores[chosen[at - 1] as usize] < *score {
            at -= 1;
        }
        if at < chosen.len() {
            n = chosen.len().min(n + 1);
            chosen[at..n].rotate_right(1);
            chosen[at] = id as i32;
        }
    }
}

/// Takes groups that are not among the best out of the choice.
fn close_groups(rule: Choice, scratch: &mut Scratch) {
    let Scratch {
        scores,
        groups,
        kept,
    } = scratch;
    let size = scores.len() / rule.n_group;
    groups.clear();
    groups.extend(scores.chunks_exact(size).map(|group| {
        let mut two = [0; BEST_OF_GROUP];
        let two = &mut two[..size.min(BEST_OF_GROUP)];
        best(group, two);
        two.iter().map(|i| group[*i as usize]).sum::<f32>()
    }));
    kept.resize(rule.n_group_used, 0);
    best(groups, kept);
    for (group, scores) in scores.chunks_exact_mut(size).enumerate() {
        if !kept.contains(&(group as i32)) {
            scores.fill(f32::NEG_INFINITY);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALONE: Share = Share { index: 0, of: 1 };
    /// Quotients and exponentials in F32.
    const TOLERANCE: f32 = 1e-6;

    /// For every kind of kernels there is.
    fn machines() -> impl Iterator<Item = &'static Isa> {
        let all = crate::kernels::all().iter().copied();
        all.filter(|isa| isa.is_available())
    }

    fn chosen(
        isa: &Isa,
        rule: Choice,
        products: &[f32],
        bias: Option<&[f32]>,
        n_used: usize,
    ) -> Vec<i32> {
        let mut ids = vec![-1; n_used];
        let (mut products, n) = (products.to_vec(), products.len());
        let products = Lists {
            data: products.as_mut_ptr(),
            n,
        };
        let list = Lists {
            data: ids.as_mut_ptr(),
            n: n_used,
        };
        // SAFETY: a list each for one token, one thread.
        unsafe { isa.choose(rule, products, bias, list, 1, ALONE) };
        ids
    }

    fn weights(isa: &Isa, rule: Weighing, products: &[f32], ids: &[i32]) -> Vec<f32> {
        let mut out = vec![f32::NAN; ids.len()];
        let (mut products, mut ids) = (products.to_vec(), ids.to_vec());
        let list = Lists {
            data: products.as_mut_ptr(),
            n: products.len(),
        };
        let (n, data) = (ids.len(), out.as_mut_ptr());
        let ids = Lists {
            data: ids.as_mut_ptr(),
            n,
        };
        // SAFETY: a list each for one token, one thread; choices are experts.
        unsafe { isa.weigh(rule, list, ids, Lists { data, n }, 1, ALONE) };
        out
    }

    const PLAIN: Choice = Choice {
        softmax: false,
        n_group: 1,
        n_group_used: 1,
    };

    #[test]
    fn the_best_are_chosen_in_falling_order() {
        for isa in machines() {
            let products = [0.5, -1.0, 3.0, 0.5, 2.0, -7.0];
            for softmax in [false, true] {
                let rule = Choice { softmax, ..PLAIN };
                assert_eq!(chosen(isa, rule, &products, None, 1), [2]);
                assert_eq!(chosen(isa, rule, &products, None, 4), [2, 4, 0, 3]);
                assert_eq!(chosen(isa, rule, &products, None, 6), [2, 4, 0, 3, 1, 5]);
            }
        }
    }

    #[test]
    fn a_bias_decides_and_does_not_weigh() {
        for isa in machines() {
            let (products, bias) = ([4.0, 0.0, 0.0], [-1.0, 0.0, 0.25]);
            let ids = chosen(isa, PLAIN, &products, Some(&bias), 2);
            assert_eq!(ids, [2, 1]);
            let rule = Weighing {
                softmax: false,
                normalise: true,
                scale: 2.5,
            };
            for w in weights(isa, rule, &products, &ids) {
                assert!((w - 1.25).abs() < TOLERANCE, "{w}");
            }
        }
    }

    #[test]
    fn groups_count_by_their_two_best() {
        for isa in machines() {
            // The single best expert is in the second group, whose next is the worst of all.
            let products = [1.0, 1.0, 0.0, 3.0, -9.0, -9.0, 0.9, 0.8, 0.7];
            let rule = Choice {
                softmax: false,
                n_group: 3,
                n_group_used: 2,
            };
            assert_eq!(chosen(isa, rule, &products, None, 3), [0, 1, 6]);
            let one = Choice {
                n_group_used: 1,
                ..rule
            };
            assert_eq!(chosen(isa, one, &products, None, 3), [0, 1, 2]);
            let single = Choice {
                n_group: 9,
                n_group_used: 4,
                ..rule
            };
            assert_eq!(chosen(isa, single, &products, None, 3), [3, 0, 1]);
        }
    }

    #[test]
    fn softmax_is_over_all_experts() {
        for isa in machines() {
            let products = [0.0, (2.0f32).ln(), (5.0f32).ln()];
            let rule = Weighing {
                softmax: true,
                normalise: false,
                scale: 1.0,
            };
            let found = weights(isa, rule, &products, &[2, 0]);
            for (w, expected) in found.iter().zip([0.625, 0.125]) {
                assert!((w - expected).abs() < TOLERANCE, "{found:?}");
            }
        }
    }

    #[test]
    fn what_is_no_number_is_the_last_choice() {
        for isa in machines() {
            let products = [f32::NAN, 1.0, f32::NAN, 2.0, f32::NEG_INFINITY];
            assert_eq!(chosen(isa, PLAIN, &products, None, 3), [3, 1, 4]);
            let ids = chosen(isa, PLAIN, &[f32::NAN; 5], None, 5);
            assert_eq!(ids, [0, 1, 2, 3, 4]);
        }
    }
}

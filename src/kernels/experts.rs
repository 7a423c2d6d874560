//! Which experts tokens go to.

use super::Rows;

/// Which experts each token goes to.
#[derive(Debug, Clone, Copy)]
pub struct Experts {
    /// Experts there are.
    pub n_expert: usize,
    /// Experts a token goes to.
    pub n_used: usize,
    /// Tokens.
    pub n_tokens: usize,
    /// The first token's first choice.
    pub ids: *const i32,
    /// Choices from one token's first to the next one's.
    pub ids_stride: usize,
    /// Bytes from one expert's matrix to the next one's.
    pub expert_stride: usize,
}

impl Experts {
    /// One matrix that all tokens go to.
    pub fn single(n_tokens: usize) -> Self {
        static FIRST: i32 = 0;
        Self {
            n_expert: 1,
            n_used: 1,
            n_tokens,
            ids: &FIRST,
            ids_stride: 0,
            expert_stride: 0,
        }
    }

    /// The rows of one expert, by those of the first.
    pub(super) fn rows(&self, first: &Rows, expert: usize) -> Rows {
        Rows {
            data: first.data.wrapping_add(expert * self.expert_stride),
            ..*first
        }
    }
}

/// Choices by expert.
#[derive(Default)]
pub(super) struct Routes {
    /// Where each expert's choices begin; one more than there are experts.
    starts: Vec<u32>,
    /// Token and which of its choices.
    choices: Vec<(u32, u32)>,
}

impl Routes {
    /// Sorts the choices by expert, tokens in order within each. Choices of experts there are not are left out.
    ///
    /// # Safety
    /// The choices are there.
    pub unsafe fn sort(&mut self, e: &Experts) {
        // SAFETY: the caller's word.
        let id =
            |token: usize, slot: usize| unsafe { e.ids.add(token * e.ids_stride + slot).read() };
        let valid = |id: i32| usize::try_from(id).ok().filter(|id| *id < e.n_expert);
        let all = || (0..e.n_tokens).flat_map(|t| (0..e.n_used).map(move |s| (t, s)));
        self.starts.clear();
        self.starts.resize(e.n_expert + 1, 0);
        for (t, s) in all() {
            if let Some(id) = valid(id(t, s)) {
                self.starts[id + 1] += 1;
            }
        }
        for i in 0..e.n_expert {
            self.starts[i + 1] += self.starts[i];
        }
        self.choices.clear();
        self.choices
            .resize(self.starts[e.n_expert] as usize, (0, 0));
        for (t, s) in all() {
            if let Some(id) = valid(id(t, s)) {
                self.choices[self.starts[id] as usize] = (t as u32, s as u32);
                self.starts[id] += 1;
            }
        }
        self.starts.rotate_right(1);
        self.starts[0] = 0;
    }

    /// Experts with their choices.
    pub fn each(&self) -> impl Iterator<Item = (usize, &[(u32, u32)])> {
        let of = |w: &[u32]| &self.choices[w[0] as usize..w[1] as usize];
        self.starts
            .windows(2)
            .map(of)
            .enumerate()
            .filter(|(_, c)| !c.is_empty())
    }
}

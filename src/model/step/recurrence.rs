//! What a step carries from one to the next beside attention rows: recurrent states and hidden states.

use super::{GroupInputs, Result, Step};
use crate::ggml::{GraphError, Tensor};
use crate::memory::{DraftFrom, Group};

/// Queries, keys, values and decay of the tokens of a group.
struct Operands<'g> {
    q: Tensor<'g>,
    k: Tensor<'g>,
    v: Tensor<'g>,
    decay: Tensor<'g>,
}

impl<'g> Step<'g, '_> {
    /// The decaying linear recurrence over each sequence's tokens: `S = e^decay S + k v^T`, `y = q S`.
    ///
    /// `q`, `k`, `v` have axes (head size, head, token) with dense heads; `decay {1, n}` and the constant `dt` of
    /// `n` per token hold one entry per state head, where a head may be cut into several (see `blocks::lightning`).
    /// Gives `{d_v * heads, tokens}` and keeps the newest states.
    pub fn scan(
        &self,
        planes: &str,
        dt: &str,
        q: Tensor<'g>,
        k: Tensor<'g>,
        v: Tensor<'g>,
        decay: Tensor<'g>,
    ) -> Result<Tensor<'g>> {
        let memory = self.planes(planes)?;
        let (d_k, heads) = (k.ne()[0], k.ne()[1]);
        let cut = decay.ne()[1];
        let d_v = v.ne()[0] * heads / cut;
        let in_place = self.kernels.own && self.g.can_scan(memory);
        let mut parts: Option<Tensor<'g>> = None;
        for (group, inputs) in self.plan.groups.iter().zip(&self.groups) {
            let window = |x: Tensor<'g>, width: i64, heads: i64| {
                let nb = x.nb();
                let (t, s) = (i64::from(group.n_tokens), group.seqs.len() as i64);
                self.g.view(
                    x,
                    &[width, heads, t, s],
                    &[width as usize * 4, nb[2], nb[2] * t as usize],
                    group.first_token as usize * nb[2],
                )
            };
            let x = Operands {
                q: window(q, d_k, heads)?,
                k: window(k, d_k, heads)?,
                v: window(v, d_v, cut)?,
                decay,
            };
            let y = if in_place {
                let (from, to) = (inputs.plane_in, inputs.plane_out);
                self.g
                    .scan_in_place(memory, x.q, x.k, x.v, x.decay, from, to)?
            } else {
                self.scan_and_keep(memory, self.constant(dt)?, &x, group, inputs)?
            };
            parts = Some(match parts {
                None => y,
                Some(before) => self.g.concat(before, y, 1)?,
            });
        }
        parts.ok_or(GraphError::Alloc {
            what: "a scan over no tokens",
        })
    }

    /// By ggml's scan, whose result holds the states, too: they are copied to where they are kept.
    fn scan_and_keep(
        &self,
        memory: Tensor<'g>,
        dt: Tensor<'g>,
        x: &Operands<'g>,
        group: &Group,
        inputs: &GroupInputs<'g>,
    ) -> Result<Tensor<'g>> {
        let ([d_k, ..], [d_v, heads, t, s]) = (x.k.ne(), x.v.ne());
        let (width, size) = (d_v * heads, memory.ne()[0]);
        let state = self.g.reshape(memory, &[d_k, d_v, heads, memory.ne()[1]])?;
        let step = self.g.view(
            dt,
            &[heads, t, s],
            &[heads as usize * 4, (heads * t) as usize * 4],
            0,
        )?;
        let all = self.g.ssm_scan(
            state,
            x.v,
            step,
            x.decay,
            x.k,
            x.q,
            inputs.plane_in,
            group.n_snapshots,
        )?;
        let states = self.g.view(
            all,
            &[size, i64::from(group.n_snapshots) * s],
            &[size as usize * 4],
            (width * t * s) as usize * 4,
        )?;
        self.g
            .expand(self.g.set_rows(memory, states, inputs.plane_out)?);
        self.g.view(all, &[width, t * s], &[width as usize * 4], 0)
    }

    /// Each token's predecessor's hidden state, across steps: carried in `planes` from one step to the next.
    /// `h` is `{n_embd, tokens}`; gives the same shape.
    pub fn predecessors(&self, planes: &str, h: Tensor<'g>) -> Result<Tensor<'g>> {
        let mtp = self
            .mtp
            .as_ref()
            .ok_or(GraphError::Alloc { what: "MTP inputs" })?;
        let memory = self.planes(planes)?;
        let carried = self.g.get_rows(memory, mtp.planes_in)?;
        let rows = self.g.concat(carried, h, 1)?;
        let before = self.g.get_rows(rows, mtp.predecessors)?;
        self.g.expand(before);
        let newest = self.g.get_rows(h, mtp.snapshot_tokens)?;
        self.g
            .expand(self.g.set_rows(memory, newest, mtp.planes_out)?);
        Ok(before)
    }

    /// The hidden state before each guess of a draft: the trunk's, carried in `planes`, or the head's own, kept in
    /// `cells`. Gives `{n_embd, tokens}`.
    pub fn draft_hidden(&self, planes: &str, cells: &str) -> Result<Tensor<'g>> {
        let memory = match self.plan.kind.draft {
            Some(DraftFrom::Head) => self.cells(cells)?,
            _ => self.planes(planes)?,
        };
        self.g.get_rows(memory, self.draft_group()?.plane_in)
    }

    /// Keeps the head's hidden states `h {n_embd, tokens}` for the next guess of a draft.
    pub fn keep_draft(&self, cells: &str, h: Tensor<'g>) -> Result<()> {
        let kept = self
            .g
            .set_rows(self.cells(cells)?, h, self.draft_group()?.plane_out)?;
        self.g.expand(kept);
        Ok(())
    }

    fn draft_group(&self) -> Result<&GroupInputs<'g>> {
        self.groups.first().ok_or(GraphError::Alloc {
            what: "a draft without tokens",
        })
    }
}

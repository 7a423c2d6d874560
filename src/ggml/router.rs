//! A router's choice, that our own kernel computes on the CPU: a custom node for the experts, one for their weights.

use std::ffi::{c_int, c_void};

use super::graph::{Builder, Tensor};
use super::ops::{contiguous, ensure, is};
use super::products::{Raw, is_host, lists, numbers, share};
use super::{DType, GraphError};
use crate::kernels::{self, Choice, Weighing};

type Result<T> = std::result::Result<T, GraphError>;

/// Experts, and groups of them, that the number which says what a node computes has room for.
const MOST: usize = 1 << 15;

impl<'g> Builder<'g> {
    /// Whether our kernel can follow this router: its products will be where it is, in memory that the CPU sees.
    pub fn can_route(&self, router: Tensor<'g>) -> bool {
        kernels::available() && is_host(router)
    }

    /// The experts of each token, by the scores of `products {experts, tokens}` with `bias {experts}` added:
    /// I32 `{n_used, tokens}`, the best first.
    pub fn choose_experts(
        &self,
        products: Tensor<'g>,
        bias: Option<Tensor<'g>>,
        n_used: usize,
        rule: Choice,
    ) -> Result<Tensor<'g>> {
        const OP: &str = "choose_experts";
        let (n_expert, n_tokens) = ensure_products(OP, products)?;
        let Choice {
            n_group,
            n_group_used,
            ..
        } = rule;
        ensure(
            (1..=MOST).contains(&n_group)
                && n_expert.is_multiple_of(n_group)
                && (1..=n_group).contains(&n_group_used)
                && (1..=n_expert / n_group * n_group_used).contains(&n_used),
            OP,
            "groups divide the experts, and those used hold enough of them",
            &[products],
        )?;
        let mut sources = vec![products.raw.as_ptr()];
        if let Some(bias) = bias {
            ensure(
                is(bias, DType::F32)
                    && contiguous(bias)
                    && bias.ne() == [products.ne()[0], 1, 1, 1],
                OP,
                "the bias is F32, a number for each expert",
                &[products, bias],
            )?;
            sources.push(bias.raw.as_ptr());
        }
        let out = (DType::I32, [n_used as i64, n_tokens as i64, 1, 1]);
        let ids = self.node(
            "CHOOSE",
            out,
            &mut sources,
            choose_node,
            choice_number(rule),
        )?;
        self.set_bound(ids, n_expert as u64);
        Ok(ids)
    }

    /// What the chosen experts count, by the scores of `products {experts, tokens}`: `{1, n_used, tokens}`.
    pub fn weigh_experts(
        &self,
        products: Tensor<'g>,
        chosen: Tensor<'g>,
        rule: Weighing,
    ) -> Result<Tensor<'g>> {
        const OP: &str = "weigh_experts";
        ensure_products(OP, products)?;
        let [n_used, n_tokens, a, b] = chosen.ne();
        ensure(
            is(chosen, DType::I32)
                && contiguous(chosen)
                && n_tokens == products.ne()[1]
                && a * b == 1,
            OP,
            "choices are I32, a list for each token",
            &[products, chosen],
        )?;
        self.ensure_bound(OP, chosen, products.ne()[0])?;
        let mut sources = [products.raw.as_ptr(), chosen.raw.as_ptr()];
        let out = (DType::F32, [1, n_used, n_tokens, 1]);
        self.node(
            "WEIGH",
            out,
            &mut sources,
            weigh_node,
            weighing_number(rule),
        )
    }
}

fn ensure_products(op: &'static str, products: Tensor<'_>) -> Result<(usize, usize)> {
    let [n_expert, n_tokens, a, b] = products.ne();
    ensure(
        is(products, DType::F32)
            && contiguous(products)
            && (1..=MOST as i64).contains(&n_expert)
            && a * b == 1,
        op,
        "products are F32, a list for each token",
        &[products],
    )?;
    Ok((n_expert as usize, n_tokens as usize))
}

/// Never zero. Machines with kernels have addresses of 64 bits.
fn choice_number(rule: Choice) -> usize {
    let groups = (rule.n_group as u64) << 16 | (rule.n_group_used as u64) << 32;
    (groups | u64::from(rule.softmax) << 1 | 1) as usize
}

fn choice_of(number: usize) -> Choice {
    let field = |shift: u32| (number as u64 >> shift & 0xffff) as usize;
    Choice {
        softmax: number & 2 != 0,
        n_group: field(16),
        n_group_used: field(32),
    }
}

/// Never zero; the factor in the upper half.
fn weighing_number(rule: Weighing) -> usize {
    let flags = u64::from(rule.normalise) << 2 | u64::from(rule.softmax) << 1 | 1;
    (u64::from(rule.scale.to_bits()) << 32 | flags) as usize
}

fn weighing_of(number: usize) -> Weighing {
    Weighing {
        softmax: number & 2 != 0,
        normalise: number & 4 != 0,
        scale: f32::from_bits((number as u64 >> 32) as u32),
    }
}

unsafe extern "C" fn choose_node(to: Raw, index: c_int, of: c_int, rule: *mut c_void) {
    // SAFETY: ggml computes this node; its operands were checked when it was made, and each thread has its share.
    unsafe {
        let (to, Some(isa)) = (&*to, kernels::best()) else {
            return;
        };
        let products = &*to.src[0];
        let bias = to.src[1].as_ref().map(|bias| numbers(bias));
        isa.choose(
            choice_of(rule.addr()),
            lists(products, products.ne[0]),
            bias,
            lists(to, to.ne[0]),
            products.ne[1] as usize,
            share(index, of),
        );
    }
}

unsafe extern "C" fn weigh_node(to: Raw, index: c_int, of: c_int, rule: *mut c_void) {
    // SAFETY: as above; choices are bounded by the number of experts.
    unsafe {
        let (to, Some(isa)) = (&*to, kernels::best()) else {
            return;
        };
        let (products, chosen) = (&*to.src[0], &*to.src[1]);
        isa.weigh(
            weighing_of(rule.addr()),
            lists(products, products.ne[0]),
            lists(chosen, chosen.ne[0]),
            lists(to, chosen.ne[0]),
            products.ne[1] as usize,
            share(index, of),
        );
    }
}

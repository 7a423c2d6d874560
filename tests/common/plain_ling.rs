//! The `bailing_hybrid` forward pass in plain loops and f64, after the formulas of the paper and of the modelling code:
//! unabsorbed attention, one token after the other, no batching. What the engine computes must equal it.

use std::collections::BTreeMap;

use crate::tiny::{EPS, N_VOCAB, SCALE, THETA, TinyLing};

type Weights = BTreeMap<String, Vec<f32>>;

/// Trunk logits at every position, and MTP logits at every position but the first.
pub struct Logits {
    pub trunk: Vec<Vec<f64>>,
    pub mtp: Vec<Vec<f64>>,
}

/// Another way to multiply with a matrix of an expert: name, expert, input, length of the result. `None`: as usual.
pub type ExpertProduct<'a> = &'a dyn Fn(&str, usize, &[f64], usize) -> Option<Vec<f64>>;

struct Net<'a> {
    hp: &'a TinyLing,
    w: &'a Weights,
    product: ExpertProduct<'a>,
}

/// Runs the whole model over `tokens`.
pub fn forward(hp: &TinyLing, w: &Weights, tokens: &[u32]) -> Logits {
    forward_with(hp, w, tokens, &|_, _, _, _| None)
}

/// The same with another product for some matrices of experts.
pub fn forward_with(
    hp: &TinyLing,
    w: &Weights,
    tokens: &[u32],
    product: ExpertProduct<'_>,
) -> Logits {
    let net = Net { hp, w, product };
    let embd: Vec<Vec<f64>> = tokens
        .iter()
        .map(|&t| net.row("token_embd.weight", t as usize, hp.n_embd))
        .collect();
    let mut x = embd.clone();
    for layer in 0..hp.n_layer {
        net.block(layer, &mut x);
    }
    let hidden: Vec<Vec<f64>> = x
        .iter()
        .map(|x| net.norm("output_norm.weight", x))
        .collect();
    let out = if hp.tied {
        "token_embd.weight"
    } else {
        "output.weight"
    };
    let logits = |h: &Vec<f64>| net.linear(out, h, N_VOCAB);
    let mut ahead = Vec::new();
    if hp.mtp {
        let name = |n: &str| format!("blk.{}.{n}.weight", hp.n_layer);
        let mut y: Vec<Vec<f64>> = (1..tokens.len())
            .map(|t| {
                let mut pair = net.norm(&name("nextn.enorm"), &embd[t]);
                pair.extend(net.norm(&name("nextn.hnorm"), &hidden[t - 1]));
                net.linear(&name("nextn.eh_proj"), &pair, hp.n_embd)
            })
            .collect();
        net.block(hp.n_layer, &mut y);
        ahead = y
            .iter()
            .map(|y| logits(&net.norm(&name("layer_output_norm"), y)))
            .collect();
    }
    Logits {
        trunk: hidden.iter().map(logits).collect(),
        mtp: ahead,
    }
}

fn rms(x: &[f64]) -> f64 {
    (x.iter().map(|v| v * v).sum::<f64>() / x.len() as f64 + f64::from(EPS)).sqrt()
}

fn silu(x: f64) -> f64 {
    x / (1.0 + (-x).exp())
}

fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

/// Rotates the first `n` of `x`; pairs are `(i, i + n/2)` or neighbours.
fn rope(x: &mut [f64], n: usize, position: usize, halves: bool, yarn: Option<(f32, u32)>) {
    let base = f64::from(THETA);
    for i in 0..n / 2 {
        let plain = position as f64 * base.powf(-2.0 * i as f64 / n as f64);
        let (angle, size) = yarn.map_or((plain, 1.0), |(factor, original)| {
            stretch(i, n, plain, f64::from(factor), f64::from(original))
        });
        let (a, b) = if halves {
            (i, i + n / 2)
        } else {
            (2 * i, 2 * i + 1)
        };
        let (p, q) = (x[a], x[b]);
        x[a] = size * (p * angle.cos() - q * angle.sin());
        x[b] = size * (p * angle.sin() + q * angle.cos());
    }
}

/// YaRN: pairs that turn often within the original context keep their angle, slow ones are interpolated.
fn stretch(i: usize, n: usize, angle: f64, factor: f64, original: f64) -> (f64, f64) {
    let pair_of = |rotations: f64| {
        n as f64 * (original / (rotations * std::f64::consts::TAU)).ln()
            / (2.0 * f64::from(THETA).ln())
    };
    let (low, high) = (
        pair_of(32.0).floor().max(0.0),
        pair_of(1.0).ceil().min(n as f64 - 1.0),
    );
    let keep = 1.0 - ((i as f64 - low) / (high - low).max(0.001)).clamp(0.0, 1.0);
    (
        angle / factor * (1.0 - keep) + angle * keep,
        1.0 + 0.1 * factor.ln(),
    )
}

fn best(scores: &[f64], n: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..scores.len()).collect();
    order.sort_by(|&a, &b| scores[b].total_cmp(&scores[a]));
    order.truncate(n);
    order
}

impl Net<'_> {
    fn row(&self, name: &str, row: usize, width: usize) -> Vec<f64> {
        self.w[name][row * width..(row + 1) * width]
            .iter()
            .map(|&v| f64::from(v))
            .collect()
    }

    fn linear(&self, name: &str, x: &[f64], n_out: usize) -> Vec<f64> {
        self.matrix(&self.w[name], x, n_out)
    }

    fn matrix(&self, w: &[f32], x: &[f64], n_out: usize) -> Vec<f64> {
        w.chunks_exact(x.len())
            .take(n_out)
            .map(|row| row.iter().zip(x).map(|(&w, x)| f64::from(w) * x).sum())
            .collect()
    }

    fn norm(&self, name: &str, x: &[f64]) -> Vec<f64> {
        let r = rms(x);
        x.iter()
            .zip(&self.w[name])
            .map(|(x, &w)| x / r * f64::from(w))
            .collect()
    }

    fn block(&self, layer: usize, x: &mut [Vec<f64>]) {
        let name = |n: &str| format!("blk.{layer}.{n}.weight");
        let normed: Vec<Vec<f64>> = x.iter().map(|x| self.norm(&name("attn_norm"), x)).collect();
        let mixed = if self.hp.is_mla(layer) {
            self.mla(layer, &normed)
        } else {
            self.lightning(layer, &normed)
        };
        for (x, m) in x.iter_mut().zip(mixed) {
            x.iter_mut().zip(m).for_each(|(x, m)| *x += m);
            let normed = self.norm(&name("ffn_norm"), x);
            let fed = if layer < self.hp.n_dense {
                self.ffn(layer, "", &normed, self.hp.n_ff)
            } else {
                self.moe(layer, &normed)
            };
            x.iter_mut().zip(fed).for_each(|(x, f)| *x += f);
        }
    }

    fn lightning(&self, layer: usize, x: &[Vec<f64>]) -> Vec<Vec<f64>> {
        let (hp, name) = (self.hp, |n: &str| format!("blk.{layer}.{n}.weight"));
        let (d, heads) = (hp.head_dim, hp.n_head);
        let width = d * heads;
        let decays: Vec<f64> = oxling::model::blocks::lightning::head_decays(
            heads as u32,
            layer as u32,
            hp.n_layer as u32,
        )
        .iter()
        .map(|&g| f64::from(g).exp())
        .collect();
        let mut state = vec![0.0; heads * d * d];
        x.iter()
            .enumerate()
            .map(|(t, x)| {
                let qkv = self.linear(&name("attn_qkv"), x, 3 * width);
                let mut out = vec![0.0; width];
                for h in 0..heads {
                    let part = |i: usize| &qkv[i * width + h * d..i * width + (h + 1) * d];
                    let (mut q, mut k, v) = (
                        self.norm(&name("attn_q_norm"), part(0)),
                        self.norm(&name("attn_k_norm"), part(1)),
                        part(2),
                    );
                    rope(&mut q, hp.n_rot, t, true, hp.yarn);
                    rope(&mut k, hp.n_rot, t, true, hp.yarn);
                    let s = &mut state[h * d * d..(h + 1) * d * d];
                    for i in 0..d {
                        for j in 0..d {
                            s[i * d + j] = decays[h] * s[i * d + j] + k[i] * v[j];
                            out[h * d + j] += q[i] / (d as f64).sqrt() * s[i * d + j];
                        }
                    }
                }
                let gate = self.linear(&name("attn_gate"), x, width);
                let weight = &self.w[&name("layer_output_norm")];
                let size = width / hp.norm_groups;
                let scales: Vec<f64> = out.chunks(size).map(rms).collect();
                let y: Vec<f64> = (0..width)
                    .map(|i| out[i] / scales[i / size] * f64::from(weight[i]) * sigmoid(gate[i]))
                    .collect();
                self.linear(&name("attn_output"), &y, hp.n_embd)
            })
            .collect()
    }

    fn mla(&self, layer: usize, x: &[Vec<f64>]) -> Vec<Vec<f64>> {
        let (hp, name) = (self.hp, |n: &str| format!("blk.{layer}.{n}.weight"));
        let (heads, nope, n_rot, v_dim, kv_lora) =
            (hp.n_head, hp.nope, hp.n_rot, hp.v_dim, hp.kv_lora);
        let head = nope + n_rot;
        // Per token and head.
        let (mut keys, mut values) = (Vec::<Vec<Vec<f64>>>::new(), Vec::<Vec<Vec<f64>>>::new());
        let mut all = Vec::new();
        for (t, x) in x.iter().enumerate() {
            let q = match hp.q_lora {
                Some(rank) => self.linear(
                    &name("attn_q_b"),
                    &self.norm(
                        &name("attn_q_a_norm"),
                        &self.linear(&name("attn_q_a"), x, rank),
                    ),
                    heads * head,
                ),
                None => self.linear(&name("attn_q"), x, heads * head),
            };
            let kv = self.linear(&name("attn_kv_a_mqa"), x, kv_lora + n_rot);
            let latent = self.norm(&name("attn_kv_a_norm"), &kv[..kv_lora]);
            let mut k_pe = kv[kv_lora..].to_vec();
            rope(&mut k_pe, n_rot, t, false, hp.yarn);
            let (k, v): (Vec<_>, Vec<_>) =
                (0..heads).map(|h| self.expand(layer, h, &latent)).unzip();
            keys.push(k.into_iter().map(|k| [k, k_pe.clone()].concat()).collect());
            values.push(v);
            let mut out = Vec::new();
            for h in 0..heads {
                let mut q = q[h * head..(h + 1) * head].to_vec();
                rope(&mut q[nope..], n_rot, t, false, hp.yarn);
                let scores: Vec<f64> = keys
                    .iter()
                    .map(|k| {
                        k[h].iter().zip(&q).map(|(k, q)| k * q).sum::<f64>() / (head as f64).sqrt()
                    })
                    .collect();
                let max = scores.iter().copied().fold(f64::MIN, f64::max);
                let weights: Vec<f64> = scores.iter().map(|s| (s - max).exp()).collect();
                let sum: f64 = weights.iter().sum();
                out.extend((0..v_dim).map(|j| {
                    weights
                        .iter()
                        .zip(&values)
                        .map(|(w, v)| w / sum * v[h][j])
                        .sum::<f64>()
                }));
            }
            all.push(self.linear(&name("attn_output"), &out, hp.n_embd));
        }
        all
    }

    /// Key and value of one head from the latent.
    fn expand(&self, layer: usize, h: usize, latent: &[f64]) -> (Vec<f64>, Vec<f64>) {
        let (hp, name) = (self.hp, |n: &str| format!("blk.{layer}.{n}.weight"));
        let (nope, v_dim, kv_lora) = (hp.nope, hp.v_dim, hp.kv_lora);
        if hp.fused_kv_b {
            let rows = &self.w[&name("attn_kv_b")][h * (nope + v_dim) * kv_lora..];
            return (
                self.matrix(rows, latent, nope),
                self.matrix(&rows[nope * kv_lora..], latent, v_dim),
            );
        }
        let k_b = &self.w[&name("attn_k_b")][h * nope * kv_lora..];
        let key = (0..nope)
            .map(|i| {
                (0..kv_lora)
                    .map(|c| f64::from(k_b[c * nope + i]) * latent[c])
                    .sum()
            })
            .collect();
        (
            key,
            self.matrix(
                &self.w[&name("attn_v_b")][h * v_dim * kv_lora..],
                latent,
                v_dim,
            ),
        )
    }

    fn ffn(&self, layer: usize, suffix: &str, x: &[f64], n_ff: usize) -> Vec<f64> {
        let name = |n: &str| format!("blk.{layer}.ffn_{n}{suffix}.weight");
        let (gate, up) = (
            self.linear(&name("gate"), x, n_ff),
            self.linear(&name("up"), x, n_ff),
        );
        let hidden: Vec<f64> = gate.iter().zip(up).map(|(g, u)| silu(*g) * u).collect();
        self.linear(&name("down"), &hidden, self.hp.n_embd)
    }

    fn moe(&self, layer: usize, x: &[f64]) -> Vec<f64> {
        let (hp, name) = (self.hp, |n: &str| format!("blk.{layer}.{n}"));
        let scores: Vec<f64> = self
            .linear(&name("ffn_gate_inp.weight"), x, hp.n_expert)
            .into_iter()
            .map(sigmoid)
            .collect();
        let bias = |e: usize| {
            if hp.bias {
                f64::from(self.w[&name("exp_probs_b.bias")][e])
            } else {
                0.0
            }
        };
        let mut select: Vec<f64> = (0..hp.n_expert).map(|e| scores[e] + bias(e)).collect();
        let size = hp.n_expert / hp.n_group;
        let groups: Vec<f64> = select
            .chunks(size)
            .map(|g| best(g, 2).iter().map(|&i| g[i]).sum())
            .collect();
        let open = best(&groups, hp.n_group_used);
        for (e, s) in select.iter_mut().enumerate() {
            if !open.contains(&(e / size)) {
                *s = f64::NEG_INFINITY;
            }
        }
        let chosen = best(&select, hp.n_used);
        let sum: f64 = chosen.iter().map(|&e| scores[e]).sum();
        let mut out = if hp.n_shared > 0 {
            self.ffn(layer, "_shexp", x, hp.n_ff * hp.n_shared)
        } else {
            vec![0.0; hp.n_embd]
        };
        for e in chosen {
            let expert = |n: &str, n_in: usize, n_out: usize, x: &[f64]| {
                let name = name(&format!("ffn_{n}_exps.weight"));
                (self.product)(&name, e, x, n_out)
                    .unwrap_or_else(|| self.matrix(&self.w[&name][e * n_in * n_out..], x, n_out))
            };
            let (gate, up) = (
                expert("gate", hp.n_embd, hp.n_ff, x),
                expert("up", hp.n_embd, hp.n_ff, x),
            );
            let hidden: Vec<f64> = gate.iter().zip(up).map(|(g, u)| silu(*g) * u).collect();
            let weight = scores[e] / sum * f64::from(SCALE);
            out.iter_mut()
                .zip(expert("down", hp.n_ff, hp.n_embd, &hidden))
                .for_each(|(o, d)| *o += weight * d);
        }
        out
    }
}

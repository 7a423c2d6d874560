//! The networks of [`RandomModel`] in plain loops and f64: slow, and written from the formulas.

use std::collections::BTreeMap;

use crate::random_model::{EPS, Experts, MlaShape, RandomModel, Stretch, THETA};

/// Logits of a run.
pub struct Expected {
    /// Of the next token, at each position.
    pub trunk: Vec<Vec<f64>>,
    /// The MTP head's, at each position from the second on.
    pub mtp: Vec<Vec<f64>>,
}

struct Net<'a> {
    hp: &'a RandomModel,
    w: &'a BTreeMap<String, Vec<f32>>,
    layer: usize,
}

/// The network over `tokens`.
pub fn forward(hp: &RandomModel, tokens: &[u32]) -> Expected {
    let values = |(name, shape): (String, Vec<usize>)| {
        let values = hp.values(&name, &shape);
        (name, values)
    };
    let weights: BTreeMap<String, Vec<f32>> = hp.shapes().into_iter().map(values).collect();
    let at = |layer: usize| Net {
        hp,
        w: &weights,
        layer,
    };
    let net = at(0);
    let embedded: Vec<Vec<f64>> = tokens
        .iter()
        .map(|&t| net.row("token_embd.weight", t as usize, hp.n_embd))
        .collect();
    let mut x = embedded.clone();
    for layer in 0..hp.n_layer {
        x = at(layer).block(x, 0);
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
    let logits = |x: &Vec<f64>| net.matrix(&net.w[out], x, hp.n_vocab);
    let trunk = hidden.iter().map(logits).collect();
    let mut mtp = Vec::new();
    if hp.mtp {
        let head = at(hp.n_layer);
        let pairs = (1..tokens.len()).map(|t| {
            let mut pair = head.norm(&head.name("nextn.enorm.weight"), &embedded[t]);
            pair.extend(head.norm(&head.name("nextn.hnorm.weight"), &hidden[t - 1]));
            head.linear("nextn.eh_proj.weight", &pair, hp.n_embd)
        });
        let ahead = head.block(pairs.collect(), 1);
        let norm = head.name(hp.mtp_norm());
        mtp = ahead.iter().map(|x| logits(&head.norm(&norm, x))).collect();
    }
    Expected { trunk, mtp }
}

fn silu(x: f64) -> f64 {
    x / (1.0 + (-x).exp())
}

fn softmax(x: &[f64]) -> Vec<f64> {
    let max = x.iter().copied().fold(f64::MIN, f64::max);
    let powers: Vec<f64> = x.iter().map(|v| (v - max).exp()).collect();
    let sum: f64 = powers.iter().sum();
    powers.iter().map(|p| p / sum).collect()
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn add(a: &[f64], b: &[f64]) -> Vec<f64> {
    a.iter().zip(b).map(|(a, b)| a + b).collect()
}

fn best(scores: &[f64], n: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..scores.len()).collect();
    order.sort_by(|&a, &b| scores[b].total_cmp(&scores[a]));
    order.truncate(n);
    order
}

/// Softmax attention of each query over the keys and values up to its own.
fn attend(q: &[Vec<f64>], k: &[Vec<f64>], v: &[Vec<f64>], scale: f64) -> Vec<Vec<f64>> {
    let one = |(t, q): (usize, &Vec<f64>)| {
        let scores: Vec<f64> = k[..=t].iter().map(|k| dot(q, k) * scale).collect();
        let mut out = vec![0.0; v[0].len()];
        for (weight, v) in softmax(&scores).iter().zip(v) {
            out.iter_mut().zip(v).for_each(|(o, v)| *o += weight * v);
        }
        out
    };
    q.iter().enumerate().map(one).collect()
}

impl Net<'_> {
    fn name(&self, suffix: &str) -> String {
        format!("blk.{}.{suffix}", self.layer)
    }

    fn row(&self, name: &str, row: usize, width: usize) -> Vec<f64> {
        self.w[name][row * width..(row + 1) * width]
            .iter()
            .map(|&v| f64::from(v))
            .collect()
    }

    fn matrix(&self, w: &[f32], x: &[f64], n_out: usize) -> Vec<f64> {
        w.chunks_exact(x.len())
            .take(n_out)
            .map(|row| row.iter().zip(x).map(|(&w, x)| f64::from(w) * x).sum())
            .collect()
    }

    /// A matrix of the block, with its bias if there is one.
    fn linear(&self, suffix: &str, x: &[f64], n_out: usize) -> Vec<f64> {
        let name = self.name(suffix);
        let y = self.matrix(&self.w[&name], x, n_out);
        match self.w.get(&name.replace(".weight", ".bias")) {
            Some(bias) => y.iter().zip(bias).map(|(y, &b)| y + f64::from(b)).collect(),
            None => y,
        }
    }

    fn norm(&self, name: &str, x: &[f64]) -> Vec<f64> {
        let r = (dot(x, x) / x.len() as f64 + f64::from(EPS)).sqrt();
        x.iter()
            .zip(&self.w[name])
            .map(|(x, &w)| x / r * f64::from(w))
            .collect()
    }

    /// The block over a sequence whose first token has position `first`.
    fn block(&self, x: Vec<Vec<f64>>, first: usize) -> Vec<Vec<f64>> {
        let normed = |x: &[Vec<f64>], name: &str| -> Vec<Vec<f64>> {
            let name = self.name(name);
            x.iter().map(|x| self.norm(&name, x)).collect()
        };
        let input = normed(&x, "attn_norm.weight");
        let mixed = match &self.hp.mla {
            Some(mla) => self.latent_attention(mla, &input, first),
            None => self.attention(&input, first),
        };
        let x: Vec<Vec<f64>> = x.iter().zip(&mixed).map(|(x, y)| add(x, y)).collect();
        let input = normed(&x, "ffn_norm.weight");
        let fed = input.iter().map(|x| match self.hp.experts_of(self.layer) {
            Some(experts) => self.experts(experts, x),
            None => self.swiglu("", 0, x, self.hp.n_ff),
        });
        x.iter().zip(fed).map(|(x, y)| add(x, &y)).collect()
    }

    /// Angle and magnitude of pair `i` of `n / 2` at a position.
    fn turn(&self, i: usize, n: usize, position: usize) -> (f64, f64) {
        let base = f64::from(THETA);
        let plain = position as f64 * base.powf(-2.0 * i as f64 / n as f64);
        match self.hp.stretch {
            Stretch::None => (plain, 1.0),
            Stretch::Linear(factor) => (plain / f64::from(factor), 1.0),
            Stretch::Factors => (plain / f64::from(self.w["rope_freqs.weight"][i]), 1.0),
            Stretch::Yarn {
                factor,
                original,
                log_multiplier,
            } => {
                let (factor, original) = (f64::from(factor), f64::from(original));
                let pair_of = |rotations: f64| {
                    n as f64 * (original / (rotations * std::f64::consts::TAU)).ln()
                        / (2.0 * base.ln())
                };
                let low = pair_of(32.0).floor().max(0.0);
                let high = pair_of(1.0).ceil().min(n as f64 - 1.0);
                let keep = 1.0 - ((i as f64 - low) / (high - low).max(0.001)).clamp(0.0, 1.0);
                let size = if log_multiplier == 0.0 {
                    1.0 + 0.1 * factor.ln()
                } else {
                    1.0
                };
                (plain / factor * (1.0 - keep) + plain * keep, size)
            }
        }
    }

    /// Rotates the first `n_rot` of `x`; pairs are `(i, i + n/2)` or neighbours.
    fn rope(&self, x: &mut [f64], position: usize) {
        let n = self.hp.n_rot;
        let halves = !matches!(self.hp.arch, "llama" | "deepseek2");
        for i in 0..n / 2 {
            let (angle, size) = self.turn(i, n, position);
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

    fn attention(&self, x: &[Vec<f64>], first: usize) -> Vec<Vec<f64>> {
        let hp = self.hp;
        let (d, heads, kv) = (hp.head_dim, hp.n_head, hp.n_head_kv);
        let all: Vec<Vec<f64>> = x
            .iter()
            .map(|x| {
                if hp.fused_qkv {
                    return self.linear("attn_qkv.weight", x, (heads + 2 * kv) * d);
                }
                let mut all = self.linear("attn_q.weight", x, heads * d);
                all.extend(self.linear("attn_k.weight", x, kv * d));
                all.extend(self.linear("attn_v.weight", x, kv * d));
                all
            })
            .collect();
        let head = |index: usize, norm: Option<&str>| -> Vec<Vec<f64>> {
            let one = |(t, all): (usize, &Vec<f64>)| {
                let mut head = all[index * d..(index + 1) * d].to_vec();
                if let Some(norm) = norm {
                    if hp.qk_norm() {
                        head = self.norm(&self.name(norm), &head);
                    }
                    self.rope(&mut head, first + t);
                }
                head
            };
            all.iter().enumerate().map(one).collect()
        };
        let mut joined = vec![Vec::new(); x.len()];
        for h in 0..heads {
            let shared = heads + h * kv / heads;
            let q = head(h, Some("attn_q_norm.weight"));
            let k = head(shared, Some("attn_k_norm.weight"));
            let y = attend(&q, &k, &head(shared + kv, None), 1.0 / (d as f64).sqrt());
            joined.iter_mut().zip(y).for_each(|(j, y)| j.extend(y));
        }
        let out = |y: &Vec<f64>| self.linear("attn_output.weight", y, hp.n_embd);
        joined.iter().map(out).collect()
    }

    fn latent_attention(&self, mla: &MlaShape, x: &[Vec<f64>], first: usize) -> Vec<Vec<f64>> {
        let hp = self.hp;
        let (heads, rope, nope) = (hp.n_head, hp.n_rot, mla.nope);
        let key_width = nope + rope;
        let mut scale = 1.0 / (key_width as f64).sqrt();
        if let Stretch::Yarn {
            factor,
            log_multiplier,
            ..
        } = hp.stretch
        {
            // Without a multiplier llama.cpp corrects the scores as if it were 0.1.
            let multiplier = if log_multiplier == 0.0 {
                0.1
            } else {
                log_multiplier
            };
            scale *= (1.0 + f64::from(multiplier) * f64::from(factor).ln()).powi(2);
        }
        let mut queries = Vec::new();
        let (mut latents, mut shared_keys) = (Vec::new(), Vec::new());
        for (t, x) in x.iter().enumerate() {
            queries.push(match mla.q_lora {
                Some(rank) => {
                    let low = self.linear("attn_q_a.weight", x, rank);
                    let low = self.norm(&self.name("attn_q_a_norm.weight"), &low);
                    self.linear("attn_q_b.weight", &low, heads * key_width)
                }
                None => self.linear("attn_q.weight", x, heads * key_width),
            });
            let row = self.linear("attn_kv_a_mqa.weight", x, mla.kv_lora + rope);
            let (latent, key) = row.split_at(mla.kv_lora);
            latents.push(self.norm(&self.name("attn_kv_a_norm.weight"), latent));
            let mut key = key.to_vec();
            self.rope(&mut key, first + t);
            shared_keys.push(key);
        }
        let mut joined = vec![Vec::new(); x.len()];
        for h in 0..heads {
            let mut q = Vec::new();
            let (mut k, mut v) = (Vec::new(), Vec::new());
            for t in 0..x.len() {
                let mut query = queries[t][h * key_width..(h + 1) * key_width].to_vec();
                self.rope(&mut query[nope..], first + t);
                q.push(query);
                let (mut key, value) = self.expand(mla, h, &latents[t]);
                key.extend(&shared_keys[t]);
                k.push(key);
                v.push(value);
            }
            let y = attend(&q, &k, &v, scale);
            joined.iter_mut().zip(y).for_each(|(j, y)| j.extend(y));
        }
        let out = |y: &Vec<f64>| self.linear("attn_output.weight", y, hp.n_embd);
        joined.iter().map(out).collect()
    }

    /// Key (without rotation) and value of one head from the latent.
    fn expand(&self, mla: &MlaShape, h: usize, latent: &[f64]) -> (Vec<f64>, Vec<f64>) {
        let (nope, v_dim, width) = (mla.nope, mla.v_dim, mla.kv_lora);
        if mla.legacy {
            let rows = &self.w[&self.name("attn_kv_b.weight")][h * (nope + v_dim) * width..];
            return (
                self.matrix(rows, latent, nope),
                self.matrix(&rows[nope * width..], latent, v_dim),
            );
        }
        let k_b = &self.w[&self.name("attn_k_b.weight")][h * nope * width..];
        let key = (0..nope)
            .map(|i| {
                (0..width)
                    .map(|c| f64::from(k_b[c * nope + i]) * latent[c])
                    .sum()
            })
            .collect();
        let v_b = &self.w[&self.name("attn_v_b.weight")][h * v_dim * width..];
        (key, self.matrix(v_b, latent, v_dim))
    }

    /// SwiGLU of the matrices `ffn_*{suffix}`, the `index`-th of each.
    fn swiglu(&self, suffix: &str, index: usize, x: &[f64], n_ff: usize) -> Vec<f64> {
        let part = |which: &str, x: &[f64], n_out: usize| {
            let all = &self.w[&self.name(&format!("ffn_{which}{suffix}.weight"))];
            self.matrix(&all[index * x.len() * n_out..], x, n_out)
        };
        let (gate, up) = (part("gate", x, n_ff), part("up", x, n_ff));
        let hidden: Vec<f64> = gate.iter().zip(up).map(|(g, u)| silu(*g) * u).collect();
        part("down", &hidden, self.hp.n_embd)
    }

    fn experts(&self, e: &Experts, x: &[f64]) -> Vec<f64> {
        let products = self.linear("ffn_gate_inp.weight", x, e.n);
        let scores: Vec<f64> = if e.sigmoid {
            products.iter().map(|p| 1.0 / (1.0 + (-p).exp())).collect()
        } else {
            softmax(&products)
        };
        let mut select = scores.clone();
        if e.bias {
            let bias = &self.w[&self.name("exp_probs_b.bias")];
            select
                .iter_mut()
                .zip(bias)
                .for_each(|(s, &b)| *s += f64::from(b));
        }
        if e.groups > 1 {
            let size = e.n / e.groups;
            let sums: Vec<f64> = select
                .chunks(size)
                .map(|g| best(g, 2).iter().map(|&i| g[i]).sum())
                .collect();
            let open = best(&sums, e.groups_used);
            for (i, s) in select.iter_mut().enumerate() {
                if !open.contains(&(i / size)) {
                    *s = f64::NEG_INFINITY;
                }
            }
        }
        let chosen = best(&select, e.used);
        let sum: f64 = chosen.iter().map(|&i| scores[i]).sum();
        let divisor = if e.normalise { sum } else { 1.0 };
        let mut out = vec![0.0; self.hp.n_embd];
        if e.shared > 0 {
            out = self.swiglu("_shexp", 0, x, e.n_ff * e.shared);
        }
        for i in chosen {
            let weight = scores[i] / divisor * f64::from(e.scale);
            let y = self.swiglu("_exps", i, x, e.n_ff);
            out.iter_mut().zip(y).for_each(|(o, y)| *o += weight * y);
        }
        out
    }
}

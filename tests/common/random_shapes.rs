//! The shapes that tests and comparisons with llama.cpp go through.

use crate::random_model::{Experts, MlaShape, RandomModel, Stretch};

const YARN: Stretch = Stretch::Yarn {
    factor: 4.0,
    original: 64,
    log_multiplier: 0.0,
};

/// Architectures whose random models can be made.
pub const ARCHITECTURES: [&str; 6] = [
    "llama",
    "qwen2",
    "qwen3",
    "qwen3moe",
    "bailingmoe2",
    "deepseek2",
];

/// Tiny models of an architecture.
pub fn shapes(arch: &'static str) -> Vec<RandomModel> {
    let base = RandomModel::tiny(arch);
    let mut all = vec![base.clone()];
    let mut add = |name: &'static str, change: &dyn Fn(&mut RandomModel)| {
        let mut shape = base.clone();
        shape.name = name;
        change(&mut shape);
        all.push(shape);
    };
    add("tied", &|m| m.tied = true);
    if base.mla.is_some() {
        latent_shapes(&mut add);
    } else {
        grouped_shapes(arch, &mut add);
    }
    if let Some(e) = &base.experts {
        expert_shapes(e, &mut add);
    }
    match arch {
        "llama" => {
            add("llama3", &|m| m.stretch = Stretch::Factors);
            add("linear", &|m| m.stretch = Stretch::Linear(2.0));
            add("yarn", &|m| m.stretch = YARN);
            add("biases", &|m| m.biases = true);
            let experts = Experts {
                n: 4,
                used: 2,
                n_ff: base.n_ff,
                groups: 1,
                groups_used: 1,
                shared: 0,
                n_dense: 0,
                sigmoid: false,
                bias: false,
                normalise: true,
                scale: 1.0,
            };
            add("mixtral", &|m| m.experts = Some(experts.clone()));
        }
        "qwen3" => add("yarn", &|m| m.stretch = YARN),
        "qwen2" => add("fused", &|m| m.fused_qkv = true),
        _ => {}
    }
    all
}

type Add<'a> = dyn FnMut(&'static str, &dyn Fn(&mut RandomModel)) + 'a;

/// The width of all heads together stays that of the model, which some architectures ask for.
fn grouped_shapes(arch: &str, add: &mut Add<'_>) {
    add("odd-heads", &|m| {
        (m.n_embd, m.n_head, m.n_head_kv) = (96, 3, 3);
        (m.head_dim, m.n_rot) = (32, if m.n_rot < m.head_dim { 16 } else { 32 });
    });
    add("gqa8", &|m| {
        (m.n_embd, m.n_head, m.n_head_kv) = (128, 8, 1);
    });
    add("one-head", &|m| {
        (m.n_head, m.n_head_kv) = (1, 1);
        (m.head_dim, m.n_rot) = (64, if m.n_rot < m.head_dim { 32 } else { 64 });
    });
    if matches!(arch, "qwen3" | "qwen3moe") {
        add("wide-heads", &|m| (m.head_dim, m.n_rot) = (64, 64));
    }
}

fn latent_shapes(add: &mut Add<'_>) {
    let latent = |m: &mut RandomModel, change: &dyn Fn(&mut MlaShape)| {
        if let Some(mla) = &mut m.mla {
            change(mla);
        }
    };
    add("lite", &|m| latent(m, &|mla| mla.q_lora = None));
    add("legacy", &|m| latent(m, &|mla| mla.legacy = true));
    add("odd-heads", &|m| m.n_head = 3);
    add("v3", &|m| {
        m.mtp = true;
        if let Some(e) = &mut m.experts {
            (e.sigmoid, e.bias, e.normalise, e.scale) = (true, true, true, 2.5);
            (e.groups, e.groups_used, e.shared) = (4, 2, 1);
        }
    });
    add("yarn", &|m| {
        m.stretch = Stretch::Yarn {
            factor: 4.0,
            original: 64,
            log_multiplier: 0.0707,
        };
    });
    add("yarn-plain", &|m| m.stretch = YARN);
}

fn expert_shapes(base: &Experts, add: &mut Add<'_>) {
    let experts = |m: &mut RandomModel, change: &dyn Fn(&mut Experts)| {
        if let Some(e) = &mut m.experts {
            change(e);
        }
    };
    add("top1", &|m| {
        experts(m, &|e| {
            (e.used, e.groups, e.groups_used) = (1, 1, 1);
        });
    });
    let grouped = base.groups > 1;
    add("top8", &|m| {
        experts(m, &|e| {
            (e.n, e.used) = (32, 8);
            (e.groups, e.groups_used) = if grouped { (8, 4) } else { (1, 1) };
        });
    });
}

/// A model of realistic width and few layers, for the architectures that have one here.
pub fn wide(arch: &'static str) -> Option<RandomModel> {
    let mut m = RandomModel::tiny(arch);
    (m.name, m.n_vocab, m.n_layer, m.n_embd) = ("wide", 4096, 2, 2048);
    m.mtp = false;
    match arch {
        "llama" => {
            (m.n_head, m.n_head_kv, m.head_dim, m.n_rot, m.n_ff) = (32, 4, 64, 64, 5632);
        }
        "qwen3moe" => {
            (m.n_head, m.n_head_kv, m.head_dim, m.n_rot) = (32, 4, 128, 128);
            let e = m.experts.as_mut()?;
            (e.n, e.used, e.n_ff) = (64, 8, 768);
        }
        "bailingmoe2" => {
            (m.n_head, m.n_head_kv, m.head_dim, m.n_rot, m.n_ff) = (16, 4, 128, 64, 5120);
            let e = m.experts.as_mut()?;
            (e.n, e.used, e.n_ff, e.groups, e.groups_used) = (64, 8, 512, 8, 4);
        }
        "deepseek2" => {
            (m.n_head, m.n_rot, m.n_ff) = (16, 64, 10944);
            let mla = m.mla.as_mut()?;
            (mla.q_lora, mla.kv_lora, mla.nope, mla.v_dim) = (None, 512, 128, 128);
            let e = m.experts.as_mut()?;
            (e.n, e.used, e.n_ff, e.shared) = (64, 6, 1408, 2);
        }
        _ => return None,
    }
    Some(m)
}

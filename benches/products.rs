//! Products with weights: our kernels beside ggml's, type by type and by number of columns, on all cores.
//!
//! `cargo bench --bench products` prints bytes of weights per second; `-- iq4_nl` picks a type, `-- reading` what memory
//! gives at best. Weights of several matrices in turn are larger than any cache, as those of a model are.

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use half::f16;
use oxling::ggml::{
    DType, Device, Graph, GraphError, Matrix, Placement, Scheduler, Slot, StoreBuilder,
};
use oxling::kernels::Rounding;

const WIDTH: u64 = 4096;
const ROWS: u64 = 1024;
/// 1 to 5 MB each: together more than the last cache.
const MATRICES: u64 = 32;
const COLUMNS: [u64; 7] = [1, 2, 4, 8, 16, 64, 512];
/// Experts, and those of a token.
const EXPERTS: (u64, u64) = (64, 8);

/// What is stored, and how it is meant.
struct Kind {
    name: &'static str,
    ty: DType,
    /// Where a block has its numbers of 16 bits.
    scales: &'static [usize],
    planes: bool,
}

const KINDS: [Kind; 9] = [
    Kind::new("iq4_nl", DType::IQ4_NL, &[0]),
    Kind::new("q4_0", DType::Q4_0, &[0]),
    Kind::new("q8_0", DType::Q8_0, &[0]),
    Kind::new("q2_k", DType::Q2_K, &[80, 82]),
    Kind::new("q3_k", DType::Q3_K, &[108]),
    Kind::new("q4_k", DType::Q4_K, &[0, 2]),
    Kind::new("q5_k", DType::Q5_K, &[0, 2]),
    Kind::new("q6_k", DType::Q6_K, &[208]),
    Kind {
        planes: true,
        ..Kind::new("planes", DType::Q1_0, &[0])
    },
];

impl Kind {
    const fn new(name: &'static str, ty: DType, scales: &'static [usize]) -> Self {
        Self {
            name,
            ty,
            scales,
            planes: false,
        }
    }
}

/// A graph that is computed again and again.
struct Work {
    sched: Scheduler,
    graph: Graph,
    /// Where the choices of experts go, and what they are: indices are set before every computation.
    chosen: (Slot, Vec<i32>),
    bytes: u64,
}

impl Work {
    fn run(&mut self) {
        let (slot, ids) = &self.chosen;
        self.sched.set(&self.graph, *slot, ids).expect("indices");
        self.sched.compute(&self.graph).expect("computes");
        black_box(&self.graph);
    }
}

/// Products of all matrices with `n` columns, each on its own or as experts of `n` tokens.
fn work(kind: &Kind, n: u64, own: bool, experts: bool) -> Result<Work, Box<dyn std::error::Error>> {
    let cpu = Device::cpu()?;
    let stored = if kind.planes { 2 * WIDTH } else { WIDTH };
    let (count, each) = if experts {
        (1, EXPERTS.0)
    } else {
        (MATRICES, 1)
    };
    let mut builder = StoreBuilder::new(count as usize + 1, true)?;
    let mut ids = Vec::new();
    for _ in 0..count {
        ids.push(builder.tensor(
            "w",
            kind.ty,
            &[stored, ROWS, each],
            Placement::Alloc(cpu.buffer_type()),
        )?);
    }
    let signs = builder.tensor(
        "signs",
        DType::F32,
        &[WIDTH],
        Placement::Alloc(cpu.buffer_type()),
    )?;
    let store = builder.build()?;
    let bytes = store.bytes_of(ids[0])?;
    let weights = blocks(
        bytes,
        bytes / (stored * ROWS * each / kind.ty.block_size()) as usize,
        kind.scales,
    );
    for id in &ids {
        store.write(*id, 0, &weights)?;
    }
    store.write(signs, 0, bytemuck::cast_slice(&vec![1f32; WIDTH as usize]))?;
    let (mut graph, slots) = Graph::build::<_, GraphError>(512, |g| {
        // ggml multiplies planes with twice the input.
        let width = if kind.planes && !own {
            2 * WIDTH
        } else {
            WIDTH
        };
        let x = g.input("x", DType::F32, &[width, 1, n])?;
        let chosen = g.index_input("chosen", DType::I32, &[EXPERTS.1, n], EXPERTS.0)?;
        let quantized = |m: &Matrix<'_>| m.layout();
        for id in &ids {
            let w = g.stored(&store, *id)?;
            let matrix = own.then(|| Matrix::new(w, kind.planes)).flatten();
            let out = match (matrix, experts) {
                (Some(m), _) => {
                    let signs = kind.planes.then(|| g.stored(&store, signs)).transpose()?;
                    let q = match signs {
                        Some(signs) => g.rotate_and_quantize(x, signs)?,
                        None => g.quantize(x, quantized(&m))?,
                    };
                    if experts {
                        g.expert_products(m, q, chosen, Rounding::Fast)?
                    } else {
                        g.product(m, q, Rounding::Fast)?
                    }
                }
                (None, true) => g.mul_mat_id(w, x, chosen)?,
                (None, false) => g.mul_mat(w, g.reshape(x, &[width as i64, n as i64])?)?,
            };
            g.output("out", out);
        }
        g.expand(chosen);
        Ok([g.keep(x), g.keep(chosen)])
    })?;
    let mut sched = Scheduler::new(&[cpu], 1024)?;
    sched.set_n_threads(std::thread::available_parallelism().map_or(1, usize::from));
    sched.allocate(&mut graph)?;
    let width = if kind.planes && !own {
        2 * WIDTH
    } else {
        WIDTH
    };
    let number = |i: u64| ((i * 37 % 101) as f32 - 50.0) / 50.0;
    let x: Vec<f32> = (0..width * n).map(number).collect();
    sched.set(&graph, slots[0], &x)?;
    let ids = (0..EXPERTS.1 * n).map(|i| (i * 29 % EXPERTS.0) as i32);
    Ok(Work {
        sched,
        graph,
        chosen: (slots[1], ids.collect()),
        bytes: count * bytes as u64,
    })
}

/// Blocks with scales of 0.01 and any codes.
fn blocks(bytes: usize, block: usize, scales: &[usize]) -> Vec<u8> {
    let mut out: Vec<u8> = (0..bytes).map(|i| (i * 31 % 251) as u8).collect();
    for block in out.chunks_exact_mut(block) {
        for at in scales {
            block[*at..at + 2].copy_from_slice(&f16::from_f32(0.01).to_le_bytes());
        }
    }
    out
}

fn products(c: &mut Criterion) {
    for experts in [false, true] {
        let what = if experts { "experts" } else { "matrix" };
        for kind in &KINDS {
            let mut group = c.benchmark_group(format!("{what}/{}", kind.name));
            group.sample_size(10);
            for n in COLUMNS {
                for (whose, own) in [("own", true), ("ggml", false)] {
                    let mut work = work(kind, n, own, experts).expect("a graph");
                    group.throughput(Throughput::Bytes(work.bytes));
                    group.bench_function(BenchmarkId::new(whose, n), |b| b.iter(|| work.run()));
                }
            }
            group.finish();
        }
    }
}

/// What the machine reads at best: numbers larger than any cache, added up by all threads.
fn reading(c: &mut Criterion) {
    const NUMBERS: usize = 1 << 26;
    let numbers = vec![1u64; NUMBERS];
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let mut group = c.benchmark_group("reading");
    group.sample_size(10);
    group.throughput(Throughput::Bytes(8 * NUMBERS as u64));
    for n in [1, threads] {
        let part = NUMBERS.div_ceil(n);
        let sum = |part: &[u64]| part.iter().fold(0, |sum: u64, x| sum.wrapping_add(*x));
        group.bench_function(BenchmarkId::new("threads", n), |b| {
            b.iter(|| {
                std::thread::scope(|scope| {
                    for part in numbers.chunks(part) {
                        scope.spawn(move || black_box(sum(black_box(part))));
                    }
                });
            });
        });
    }
    group.finish();
}

criterion_group!(benches, reading, products);
criterion_main!(benches);

"""Writes the goldens of the MXTQ codec, and the JANGTQ bundle that tests import.

    make_mxtq.py [BUNDLE REFERENCE.safetensors]

Needs the Python packages jang (whose codec makes the goldens), numpy and safetensors.
Goldens, in mxtq/goldens.safetensors:
    codebook.{n}.{bits}          f32 [2^bits]
    signs.{n}.{seed}             f32 [n]
    row.{n}.{bits}.packed        u32, .norm f16 [1], .decoded f32 [n]: a row of weights encoded, and decoded again
BUNDLE is the JANGTQ2 bundle of the demo model, REFERENCE the logits that its decoded weights give (ids_i, logits_i,
mtp_logits_i and greedy_i for prompt i); the first prompts of it are kept.
"""

import pathlib
import shutil
import sys

import mlx.core as mx
import numpy as np
from jang_tools.turboquant.codebook import compute_codebook, quantize_scalar
from jang_tools.turboquant.pipeline import pack_bits, unpack_bits
from jang_tools.turboquant.rotation import generate_random_signs, hadamard_inverse, hadamard_rotate
from safetensors.numpy import load_file, save_file

HERE = pathlib.Path(__file__).parent
MODELS = HERE.parent / "models"

WIDTHS = [128, 192, 256, 512, 768, 1024, 1536, 2048, 4096]
BITS = [1, 2, 3, 4, 8]
SEEDS = [42, 0, 7, 2**40]
SIGNS = 128
ROW_WIDTHS = [128, 256, 1536]
ROW_BITS = [2, 3, 4]
ROW_SEED = 42
PROMPTS = 2


def row(n, bits):
    """One row of weights through jang's encoder and back."""
    weights = np.random.default_rng([n, bits]).standard_normal(n).astype(np.float32) * np.float32(0.02)
    signs = generate_random_signs(n, seed=ROW_SEED)
    book = mx.array(compute_codebook(n, bits), dtype=mx.float32)
    rotated = hadamard_rotate(mx.array(weights), signs)
    norm = mx.sqrt(mx.sum(rotated * rotated))
    codes = quantize_scalar(rotated / norm, book)
    packed, norm = pack_bits(codes, bits), norm.astype(mx.float16)
    scaled = mx.take(book, unpack_bits(packed, bits, n).astype(mx.uint32)) * norm.astype(mx.float32)
    decoded = np.array(hadamard_inverse(scaled, signs))
    off = np.sqrt(np.mean((decoded - weights) ** 2) / np.mean(weights**2))
    assert off < {2: 0.4, 3: 0.25, 4: 0.15}[bits], off
    return {"packed": np.array(packed), "norm": np.array(norm).reshape(1), "decoded": decoded}


def goldens():
    tensors = {}
    for n in WIDTHS:
        for bits in BITS:
            tensors[f"codebook.{n}.{bits}"] = np.array(compute_codebook(n, bits), np.float32)
    for seed in SEEDS:
        tensors[f"signs.{SIGNS}.{seed}"] = np.array(generate_random_signs(SIGNS, seed=seed))
    for n in ROW_WIDTHS:
        for bits in ROW_BITS:
            for part, value in row(n, bits).items():
                tensors[f"row.{n}.{bits}.{part}"] = value
    (HERE / "mxtq").mkdir(exist_ok=True)
    save_file(tensors, HERE / "mxtq" / "goldens.safetensors")


def bundle(source, reference):
    target = MODELS / "tiny-ling-jangtq2"
    target.mkdir(exist_ok=True)
    for file in sorted(source.iterdir()):
        shutil.copyfile(file, target / file.name)
    logits = load_file(reference)
    parts = ("ids", "logits", "mtp_logits", "greedy")
    kept = {f"{part}_{i}": logits[f"{part}_{i}"] for i in range(PROMPTS) for part in parts}
    save_file(kept, MODELS / "tiny-ling-jangtq2.logits.safetensors")


goldens()
if len(sys.argv) == 3:
    bundle(pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]))

"""Makes quantize_types.json: which type llama-quantize gives each tensor of some small models, for every file type.

    python make_quantize_goldens.py PATH/TO/llama-quantize quantize_types.json

Needs the `gguf` package. The models hold only the tensors that file types tell apart; a dry run reads no weights.
"""

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import gguf
import numpy as np

FILE_TYPES = """Q1_0 Q2_0 Q4_0 Q4_1 MXFP4_MOE Q5_0 Q5_1 IQ2_XXS IQ2_XS IQ2_S IQ2_M IQ1_S IQ1_M TQ1_0 TQ2_0 Q2_K Q2_K_S
IQ3_XXS IQ3_S IQ3_M IQ3_XS Q3_K_S Q3_K_M Q3_K_L IQ4_NL IQ4_XS Q4_K_S Q4_K_M Q5_K_S Q5_K_M Q6_K Q8_0 F16 BF16 F32""".split()


def keys(arch, blocks, hidden, heads, heads_kv, **more):
    base = {
        "block_count": blocks,
        "context_length": 128,
        "embedding_length": hidden,
        "feed_forward_length": 2 * hidden,
        "attention.head_count": heads,
        "attention.head_count_kv": heads_kv,
        "attention.layer_norm_rms_epsilon": 1e-6,
        "attention.layer_norm_epsilon": 1e-6,
        "rope.dimension_count": 32,
        "vocab_size": 512,
    }
    base.update({key.replace("__", "."): value for key, value in more.items()})
    return {f"{arch}.{key}": value for key, value in base.items()}


def blocks(n, tensors, start=0):
    return {f"blk.{i}.{name}": dims for i in range(start, n) for name, dims in tensors.items()}


def attention(h, kv):
    return {
        "attn_q.weight": [h, h],
        "attn_k.weight": [h, kv],
        "attn_v.weight": [h, kv],
        "attn_output.weight": [h, h],
    }


def dense(h, f):
    return {"ffn_gate.weight": [h, f], "ffn_up.weight": [h, f], "ffn_down.weight": [f, h]}


def experts(h, f, n):
    return {
        "ffn_gate_inp.weight": [h, n],
        "ffn_gate_exps.weight": [h, f, n],
        "ffn_up_exps.weight": [h, f, n],
        "ffn_down_exps.weight": [f, h, n],
    }


def shared(h, f):
    return {"ffn_gate_shexp.weight": [h, f], "ffn_up_shexp.weight": [h, f], "ffn_down_shexp.weight": [f, h]}


def mla(h):
    return {
        "attn_q_a.weight": [h, 256],
        "attn_q_b.weight": [256, h],
        "attn_kv_a_mqa.weight": [h, 288],
        "attn_k_b.weight": [64, 256, 4],
        "attn_v_b.weight": [256, 64, 4],
        "attn_output.weight": [h, h],
    }


def models():
    ends = {"token_embd.weight": [256, 512], "output.weight": [256, 512], "output_norm.weight": [256]}
    moe = {"expert_used_count": 2, "expert_feed_forward_length": 256}
    yield "llama", keys("llama", 16, 256, 8, 2), ends | blocks(16, attention(256, 64) | dense(256, 512))
    # Rows that do not fit, no output matrix, every head its own key.
    odd = {"token_embd.weight": [288, 512], "blk.0.attn_norm.weight": [288]}
    yield "llama", keys("llama", 6, 288, 9, 9), odd | blocks(6, attention(288, 288) | dense(288, 520))
    yield (
        "llama",
        keys("llama", 9, 256, 8, 2, expert_count=8, **moe),
        ends | blocks(9, attention(256, 64) | experts(256, 512, 8)),
    )
    yield "llama", keys("llama", 80, 256, 8, 1), ends | blocks(80, {"attn_v.weight": [256, 32]})
    yield (
        "qwen3moe",
        keys("qwen3moe", 10, 256, 4, 2, expert_count=16, **moe),
        ends | blocks(10, attention(256, 128) | experts(256, 256, 16)),
    )
    latent = dict(
        attention__q_lora_rank=256,
        attention__kv_lora_rank=256,
        attention__key_length=288,
        attention__value_length=256,
        attention__key_length_mla=96,
        attention__value_length_mla=64,
        leading_dense_block_count=1,
        expert_count=16,
        expert_shared_count=1,
        expert_weights_scale=2.5,
        expert_gating_func=2,
    )
    yield (
        "deepseek2",
        keys("deepseek2", 9, 256, 4, 1, **latent, **moe),
        ends
        | blocks(1, mla(256) | dense(256, 512))
        | blocks(9, mla(256) | experts(256, 256, 16) | shared(256, 256), start=1),
    )
    yield (
        "bailingmoe2",
        keys("bailingmoe2", 9, 256, 4, 1, expert_count=16, expert_shared_count=1, expert_weights_scale=2.5,
             expert_gating_func=2, expert_group_count=4, expert_group_used_count=2, leading_dense_block_count=1,
             expert_shared_feed_forward_length=256, nextn_predict_layers=1, **moe),
        ends
        | blocks(1, {"attn_qkv.weight": [256, 384], "attn_output.weight": [256, 256]} | dense(256, 512))
        | blocks(9, {"attn_qkv.weight": [256, 384], "attn_output.weight": [256, 256], "exp_probs_b.bias": [16]}
                 | experts(256, 256, 16) | shared(256, 256), start=1),
    )
    yield (
        "falcon",
        keys("falcon", 16, 256, 8, 1),
        ends | blocks(16, {"attn_qkv.weight": [256, 320], "attn_output.weight": [256, 256],
                           "ffn_up.weight": [256, 512], "ffn_down.weight": [512, 256]}),
    )


def write(path, arch, metadata, tensors):
    writer = gguf.GGUFWriter(path, arch)
    for key, value in metadata.items():
        if isinstance(value, float):
            writer.add_float32(key, value)
        else:
            writer.add_uint32(key, value)
    for name, dims in tensors.items():
        ty = np.float16 if len(dims) > 1 and "ffn_gate_inp" not in name else np.float32
        writer.add_tensor(name, np.zeros(dims[::-1], dtype=ty))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def write_imatrix(path, tensors):
    writer = gguf.GGUFWriter(path, "")
    writer.kv_data[0].pop("general.architecture", None)
    writer.add_string("general.type", "imatrix")
    writer.add_array("imatrix.datasets", ["text"])
    writer.add_uint32("imatrix.chunk_count", 1)
    writer.add_uint32("imatrix.chunk_size", 512)
    for name, dims in tensors.items():
        if name.startswith("blk.") and len(dims) > 1:
            n = dims[2] if len(dims) > 2 else 1
            writer.add_tensor(f"{name}.in_sum2", np.ones((n, dims[0]), dtype=np.float32))
            writer.add_tensor(f"{name}.counts", np.ones((n, 1), dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


LINE = re.compile(r"^\[ *\d+/ *\d+\] +(\S+) +- .*?type = +(\S+), size = .*?(?:\((\S+)\))?$")


def types(tool, model, file_type, imatrix):
    command = [tool, "--dry-run", *(["--imatrix", str(imatrix)] if imatrix else []), str(model), file_type]
    run = subprocess.run(command, capture_output=True, text=True)
    if "no tensor type fallback" in run.stderr + run.stdout:
        return None
    found = {}
    for line in (run.stdout + run.stderr).splitlines():
        if match := LINE.match(line.strip()):
            found[match[1]] = (match[3] or match[2]).upper()
    if run.returncode != 0 or not found:
        sys.exit(f"{command}: {run.stdout[-2000:]}{run.stderr[-2000:]}")
    return found


def main():
    tool, target = sys.argv[1:]
    letters, cases = {}, []

    def letter(ty):
        return letters.setdefault(ty, chr(ord("a") + len(letters)) if len(letters) < 26 else chr(ord("A") + len(letters) - 26))

    with tempfile.TemporaryDirectory() as folder:
        for arch, metadata, tensors in models():
            model, imatrix = Path(folder) / "model.gguf", Path(folder) / "imatrix.gguf"
            write(model, arch, metadata, tensors)
            write_imatrix(imatrix, tensors)
            case = {"arch": arch, "metadata": metadata, "tensors": tensors, "plain": {}, "imatrix": {}}
            for file_type in FILE_TYPES:
                plain = types(tool, model, file_type, None)
                if plain is None:
                    continue
                case["plain"][file_type] = "".join(letter(plain[name]) for name in tensors)
                with_imatrix = types(tool, model, file_type, imatrix)
                if with_imatrix != plain:
                    case["imatrix"][file_type] = "".join(letter(with_imatrix[name]) for name in tensors)
            cases.append(case)
    text = json.dumps({"types": {v: k for k, v in letters.items()}, "models": cases}, indent=1)
    # Lists of numbers on one line.
    text = re.sub(r"\[\s+([\d,\s]+?)\s+\]", lambda m: "[" + re.sub(r"\s+", " ", m[1]) + "]", text)
    Path(target).write_text(text + "\n")


main()

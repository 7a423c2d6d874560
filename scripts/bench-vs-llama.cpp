#!/usr/bin/env python3
"""Measures oxling and llama.cpp alternately on the same files and prints the ratios.

    scripts/bench-vs-llama.cpp PEER_BIN FILE.gguf ...           # files that both can run
    scripts/bench-vs-llama.cpp PEER_BIN --make DIR              # writes random models first (needs `cargo build --release --examples`)

PEER_BIN holds `llama-bench`. Nothing is built. Each round runs both engines once per test, the order turning from round to
round; a cell is the median of all rounds with the smallest and the largest. Leave the machine alone meanwhile.
"""
import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# Architecture, shape (examples/random-model.rs), type.
MODELS = [
    ("bailingmoe2", "flash", "IQ4_NL"),
    ("bailingmoe2", "bench", "IQ4_NL"),
    ("qwen3moe", "bench", "IQ4_NL"),
    ("llama", "bench", "IQ4_NL"),
    ("bailingmoe2", "bench", "Q8_0"),
    ("bailingmoe2", "bench", "Q4_K"),
]


def tool(path):
    if not os.access(path, os.X_OK):
        sys.exit(f"error: {path} is no program\nhint: cargo build --release --examples; PEER_BIN is the peer's bin folder")
    return path


def make(folder):
    """Writes the random models that are not there yet."""
    writer = tool(ROOT / "target/release/examples/random-model")
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for arch, shape, kind in MODELS:
        file = folder / f"{arch}-{shape}-{kind}.gguf"
        if not file.exists():
            print(f"writing {file.name}", file=sys.stderr)
            part = file.with_suffix(".part")
            subprocess.run([writer, arch, shape, kind, part], check=True)
            part.rename(file)
        files.append(file)
    return files


def rates(command, env):
    """Rates of one run, by test."""
    done = subprocess.run(command, capture_output=True, text=True, env=env)
    if done.returncode:
        sys.exit(f"error: {' '.join(map(str, command))}\n{done.stderr[-2000:]}")
    name = lambda r: " ".join(
        text for text in (
            f"pp{r['n_prompt']}" if r["n_prompt"] else "",
            f"tg{r['n_gen']}" if r["n_gen"] else "",
            f"@ {r['n_depth']}" if r.get("n_depth") else "",
        ) if text
    )
    return {name(r): r["avg_ts"] for r in json.loads(done.stdout)}


def spread(values):
    return f"{statistics.median(values):.1f} ({min(values):.1f} to {max(values):.1f})"


def measure(file, args, engines, env):
    """Rounds of both engines: engine to test to rates."""
    found = {name: {} for name in engines}
    common = ["-m", file, "-p", args.prompt, "-n", args.gen, "-t", str(args.threads), "-r", "1", "-o", "json"]
    for turn in range(args.rounds):
        order = list(engines) if turn % 2 == 0 else list(reversed(engines))
        for name in order:
            for test, rate in rates([*engines[name], *common], env).items():
                found[name].setdefault(test, []).append(rate)
        print(f"{file.name}: round {turn + 1} of {args.rounds}", file=sys.stderr)
    return found


def read_per_token(file, args):
    """Bytes that a token of generation reads."""
    command = [args.oxling, "inspect", file, "-c", args.gen.split(",")[0], "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)["reading"]["contexts"][0]["total"]


def cpu():
    for line in open("/proc/cpuinfo") if os.path.exists("/proc/cpuinfo") else []:
        if line.startswith("model name"):
            return line.split(":")[1].strip()
    return platform.processor() or platform.machine()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("peer_bin", type=Path)
    parser.add_argument("files", nargs="*", type=Path)
    parser.add_argument("--make", type=Path, metavar="DIR")
    parser.add_argument("--oxling", type=Path, default=ROOT / "target/release/oxling")
    parser.add_argument("-p", "--prompt", default="512,2048")
    parser.add_argument("-n", "--gen", default="64")
    parser.add_argument("-t", "--threads", type=int, default=os.cpu_count())
    parser.add_argument("-r", "--rounds", type=int, default=5)
    args = parser.parse_args()
    files = args.files + (make(args.make) if args.make else [])
    if not files:
        parser.error("no files: name some, or --make DIR")
    engines = {
        "oxling": [tool(args.oxling), "bench"],
        "llama.cpp": [tool(args.peer_bin / "llama-bench")],
    }
    env = dict(os.environ, LD_LIBRARY_PATH=str(args.peer_bin))
    version = subprocess.run([args.oxling, "--version"], capture_output=True, text=True).stdout.split("\n")[0]
    print(f"{cpu()}, {args.threads} threads; {version}; rounds: {args.rounds}; t/s: median (smallest to largest)\n")
    print("| model | size | test | oxling | llama.cpp | ratio | oxling reads |\n| --- | ---: | --- | ---: | ---: | ---: | ---: |")
    for file in files:
        found = measure(file, args, engines, env)
        per_token = read_per_token(file, args)
        for test, ours in found["oxling"].items():
            theirs = found["llama.cpp"][test]
            ratio = statistics.median(ours) / statistics.median(theirs)
            size = f"{file.stat().st_size / 2**30:.2f} GiB"
            reads = f"{statistics.median(ours) * per_token / 1e9:.1f} GB/s" if test.startswith("tg") else ""
            cells = [file.stem, size, test, spread(ours), spread(theirs), f"**{ratio:.2f}**", reads]
            print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()

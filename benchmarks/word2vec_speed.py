"""Words a second of word2vec beside gensim's, on one text with the same settings and threads.

    python benchmarks/word2vec_speed.py TEXT.txt -o word2vec_speed.json --threads 2 --gensim-path FOLDER

Both train on the same lines of the same vocabulary; what is timed is the training alone, without reading the text or
counting words. Rounds of the two alternate and the best of each counts. Words are those of the text, before
subsampling. gensim need not be installed: --gensim-path names a folder that holds it (pip install --target FOLDER).
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import sys
import time
from datetime import date
from pathlib import Path
from typing import Any

import torch

from genlab import data
from genlab.bench.step import git_commit
from genlab.config import load_config
from genlab.data.word_blocks import WordBlocks
from genlab.ops import HierarchicalSoftmax, NegativeSampling, keep_probabilities, word2vec_step
from genlab.trainers.facts import environment_facts

CASES = [
    ("skip_gram", "negative_sampling"),
    ("skip_gram", "hierarchical_softmax"),
    ("cbow", "negative_sampling"),
    ("cbow", "hierarchical_softmax"),
]
RATE = {"skip_gram": 0.025, "cbow": 0.05}


def main() -> None:
    options = parse_options()
    torch.set_num_threads(options.threads)
    if options.gensim_path is not None:
        sys.path.append(str(options.gensim_path))
    settings = [f"data.root={options.text}", "data.name=text", "data.split=all", "data.vocabulary_part=split"]
    config = load_config("word2vec_tiny", [*settings, "data.min_count=5", "data.unit=whitespace"])
    blocks = WordBlocks(data.build(config.data, "all"), 10_000)
    rows = []
    for architecture, objective in CASES:
        rows.append(compare(options, blocks, architecture, objective))
        print(json.dumps(rows[-1]), flush=True)
    facts = environment_facts(config, torch.device("cpu"))
    del facts["command"]  # with the places of this machine's files
    content = {
        "bench": "word2vec_speed",
        "commit": git_commit(),
        "date": str(date.today()),
        "command": " ".join(["python benchmarks/word2vec_speed.py", *(Path(word).name for word in sys.argv[1:])]),
        "machine": facts,
        "gensim": gensim_version(),
        "text": {"file": options.text.name, "words": len(blocks.words), "vocabulary": len(blocks.counts)},
        "settings": {"dim": options.dim, "window": 5, "negatives": 5, "subsample": 1e-3, "threads": options.threads},
        "rows": rows,
    }
    if options.output is not None:
        options.output.write_text(json.dumps(content, indent=1) + "\n")


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("text", type=Path, help="words between spaces, a sentence a line")
    parser.add_argument("-o", "--output", type=Path)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--dim", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--gensim-path", type=Path, help="folder of `pip install --target`")
    return parser.parse_args()


def gensim_version() -> str | None:
    if importlib.util.find_spec("gensim") is None:
        return None
    import gensim

    return gensim.__version__


def compare(options: argparse.Namespace, blocks: WordBlocks, architecture: str, objective: str) -> dict[str, Any]:
    arms = {"genlab": genlab_round(options, blocks, architecture, objective)}
    if gensim_version() is not None:
        arms["gensim"] = gensim_round(options, blocks, architecture, objective)
    best = dict.fromkeys(arms, 0.0)
    for _ in range(options.rounds):
        for name, arm in arms.items():
            best[name] = max(best[name], len(blocks.words) / arm())
    row: dict[str, Any] = {"architecture": architecture, "objective": objective}
    row |= {f"{name}_words_per_second": round(speed) for name, speed in best.items()}
    if "gensim" in best:
        row["ratio"] = round(best["genlab"] / best["gensim"], 2)
    return row


def genlab_round(options: argparse.Namespace, blocks: WordBlocks, architecture: str, objective: str) -> Any:
    """A function that trains one pass, block by block as the trainer does, and gives its seconds."""
    words, sampled = len(blocks.counts), objective == "negative_sampling"
    inputs = (torch.rand(words, options.dim) - 0.5) / options.dim
    outputs = torch.zeros(words if sampled else words - 1, options.dim)
    goal = (NegativeSampling if sampled else HierarchicalSoftmax).from_counts(blocks.counts)
    keep = keep_probabilities(blocks.counts, 1e-3)
    parts = [blocks.fetch([number]) for number in range(len(blocks))]

    def run() -> float:
        began = time.perf_counter()
        for part in parts:
            word2vec_step(
                inputs, outputs, part["words"], part["starts"], goal, lr=RATE[architecture], keep=keep,
                architecture=architecture, position=int(part["position"]), threads=0, impl="native",
            )  # fmt: skip
        return time.perf_counter() - began

    return run


def gensim_round(options: argparse.Namespace, blocks: WordBlocks, architecture: str, objective: str) -> Any:
    """The same of gensim, with its queue of jobs over lists of words."""
    from gensim.models import Word2Vec

    starts, words = blocks.starts.tolist(), [str(word) for word in blocks.words]
    lines = [words[first:last] for first, last in zip(starts[:-1], starts[1:], strict=True)]
    sampled = objective == "negative_sampling"
    model = Word2Vec(
        vector_size=options.dim, window=5, min_count=1, sample=1e-3, workers=options.threads, alpha=RATE[architecture],
        sg=int(architecture == "skip_gram"), hs=int(not sampled), negative=5 if sampled else 0, epochs=1,
    )  # fmt: skip
    model.build_vocab(lines)

    def run() -> float:
        began = time.perf_counter()
        model.train(lines, total_examples=len(lines), epochs=1)
        return time.perf_counter() - began

    return run


if __name__ == "__main__":
    main()

"""word2vec's loops for every instruction set of this machine: what is picked here is only the widest of them."""

from __future__ import annotations

import ctypes
import platform

import pytest
import torch
from emulation_harness import CSRC, build

from genlab.ops import HierarchicalSoftmax, NegativeSampling, keep_probabilities, word2vec_step

SETS = ("baseline", "avx2", "avx512")
SOURCE = """
#include <vector>
#include "cpu/isa/target.h"
#include "cpu/word2vec_rows.h"

using namespace genlab;

extern "C" __attribute__((visibility("default"))) double run(
    int set, int64_t vocabulary, int64_t d, int64_t negatives, int cbow, int64_t length, const int32_t* words,
    const float* keep, const int64_t* noise, const int64_t* path_starts, const int32_t* path_nodes,
    const uint8_t* path_codes, float* inputs, float* outputs) {
  if ((set == 1 && !cpu::runs_avx2()) || (set == 2 && !cpu::runs_avx512())) return -1;
  const int64_t starts[2] = {0, length}, targets = 64;
  Word2vecParams p{};
  p.sentences = 1, p.vocabulary = vocabulary, p.d = d, p.window = 4, p.negatives = negatives;
  p.targets = targets, p.key = 3, p.rate = 0.05f;
  p.cbow = cbow, p.words = words, p.starts = starts, p.keep = keep, p.noise = noise;
  p.path_starts = path_starts, p.path_nodes = path_nodes, p.path_codes = path_codes;
  p.inputs = inputs, p.outputs = outputs;
  std::vector<int32_t> kept(length), names(targets);
  std::vector<int64_t> positions(length);
  std::vector<float*> rows(2 * targets);
  std::vector<float> numbers(6 * targets + 2 * d);
  float* at = numbers.data();
  const cpu::Word2vecScratch scratch{
      kept.data(), positions.data(), rows.data(), names.data(), at, at + 2 * targets, at + 4 * targets,
      at + 5 * targets,
      at + 6 * targets, at + 6 * targets + d, targets, nullptr};
  const cpu::Word2vecTrain train = set == 0 ? cpu::baseline::word2vec_train()
                                   : set == 1 ? cpu::avx2::word2vec_train() : cpu::avx512::word2vec_train();
  Word2vecTotals totals{};
  train(p, 0, 1, scratch, totals);
  return totals.loss;
}
"""


@pytest.fixture(scope="module")
def library() -> ctypes.CDLL:
    if platform.machine() not in ("x86_64", "AMD64"):
        pytest.skip("one instruction set only")
    loaded = ctypes.CDLL(str(build(SOURCE, beside=[CSRC / "cpu" / f"word2vec_{name}.cpp" for name in SETS])))
    loaded.run.restype = ctypes.c_double
    return loaded


@pytest.mark.parametrize("d", [5, 16, 100])
@pytest.mark.parametrize("sampled", [True, False], ids=["negative_sampling", "hierarchical_softmax"])
@pytest.mark.parametrize("architecture", ["skip_gram", "cbow"])
@pytest.mark.parametrize("instructions", SETS)
def test_each_instruction_set_does_what_is_written_out(library, instructions, architecture, sampled, d):
    words, length = 40, 150
    text = torch.multinomial(1 / torch.arange(1.0, words + 1), length, replacement=True).to(torch.int32)
    counts = torch.bincount(text, minlength=words)
    keep = keep_probabilities(counts, 2e-2)
    tables = NegativeSampling.from_counts(counts, 7) if sampled else HierarchicalSoftmax.from_counts(counts)
    x, y = torch.randn(words, d) / 5, torch.randn(words - (not sampled), d) / 5
    wanted = (x.clone(), y.clone())
    loss = word2vec_step(
        *wanted, text, torch.tensor([0, length]), tables, lr=0.05, window=4, keep=keep, key=3,
        architecture=architecture, impl="reference",
    ).loss  # fmt: skip
    paths = (None,) * 3 if sampled else (tables.path_starts, tables.path_nodes, tables.path_codes)
    given = (text, keep, tables.noise if sampled else None, *paths, x, y)
    found = library.run(
        SETS.index(instructions), *map(ctypes.c_int64, (words, d, 7 if sampled else 0)), int(architecture == "cbow"),
        ctypes.c_int64(length), *(ctypes.c_void_p(None if t is None else t.data_ptr()) for t in given),
    )  # fmt: skip
    if found < 0:
        pytest.skip(f"this processor has no {instructions}")
    assert found == pytest.approx(loss, rel=1e-5)
    torch.testing.assert_close((x, y), wanted, rtol=1e-5, atol=2e-6)

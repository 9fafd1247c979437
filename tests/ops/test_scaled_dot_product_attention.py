"""scaled_dot_product_attention: values, gradients, masks, dropout, registration, PyTorch's own samples and refusals."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from attention_samples import SAMPLES, attention, boolean_mask, sample
from helpers import check_compiles, check_op, run_with_gradients

from genlab import _extension, ops
from genlab.ops import attention_reference, attention_tuning, implementation

IMPLEMENTATIONS = ["torch", "reference", *(["native"] if _extension.available() else [])]
native = pytest.mark.skipif(not _extension.available(), reason="genlab._C is not built")
op_db = pytest.importorskip("torch.testing._internal.common_methods_invocations").op_db
OP = "scaled_dot_product_attention"


@pytest.mark.parametrize("given", SAMPLES, ids=str)
@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
def test_agrees_with_the_float64_reference(impl, given):
    check_op(attention, given, impl=impl, dtypes=(torch.float32, torch.float64), second=impl == "reference")


# The tiny ones are left out: of few values the largest error is a matter of luck in rounding.
@native
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("given", SAMPLES[7:], ids=str)
def test_low_precision_errs_at_most_twice_as_much_as_torch(given, dtype):
    check_op(attention, given, impl="native", dtypes=(dtype,))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("impl", [i for i in IMPLEMENTATIONS if i != "torch"])
def test_torch_samples(impl, dtype):
    info = next(op for op in op_db if op.name == f"nn.functional.{OP}")
    count = 0
    for given in info.sample_inputs("cpu", dtype, requires_grad=True):
        mask = given.kwargs.get("attn_mask")
        leaves = [given.input, *given.args, *([] if mask is None else [mask])]
        drops = given.kwargs["dropout_p"] > 0
        peer, extra = F.scaled_dot_product_attention, {}
        if drops:  # the numbers that torch draws are its own: beside the definition with ours
            peer, extra = ops.scaled_dot_product_attention, {"impl": "reference"}
        results = []
        for function, more in ((peer, extra), (ops.scaled_dot_product_attention, {"impl": impl})):
            torch.manual_seed(1)
            output = function(given.input, *given.args, **given.kwargs, **more)
            results.append((output.detach(), *torch.autograd.grad(output.sum(), leaves)))
        for found, expected in zip(*results, strict=True):
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=5e-5 if dtype == torch.float32 else 1e-10)
        count += 1
    assert count >= 25


@native
@pytest.mark.parametrize("boolean", [False, True])
def test_a_query_without_keys_gives_zeros_and_no_gradient(boolean):
    q, k, v = (torch.randn(2, 2, 40, 16, requires_grad=True) for _ in range(3))
    mask = torch.ones(40, 40, dtype=torch.bool)
    mask[7] = mask[39] = False
    mask = mask if boolean else torch.zeros(40, 40).masked_fill(~mask, -torch.inf)
    for impl in IMPLEMENTATIONS:
        output = ops.scaled_dot_product_attention(q, k, v, mask, impl=impl)
        grads = torch.autograd.grad(output.square().sum(), (q, k, v))
        assert all(tensor.isfinite().all() for tensor in (output, *grads))
        assert not output[:, :, [7, 39]].any() and not grads[0][:, :, [7, 39]].any()
        assert output[:, :, 8].any() and grads[0][:, :, 8].any()


@native
def test_padding_skips_keys_whatever_they_hold():
    q, k, v = (torch.randn(3, 2, 10, 16) for _ in range(3))
    mask = torch.ones(3, 1, 1, 10, dtype=torch.bool)
    mask[0, ..., 6:], mask[1, ..., :3], mask[2] = False, False, False
    expected = ops.scaled_dot_product_attention(q, k, v, mask, impl="reference")
    k[0, :, 6:], v[0, :, 6:] = torch.inf, torch.nan  # memory that was never written
    found = ops.scaled_dot_product_attention(q, k, v, mask, impl="native")
    torch.testing.assert_close(found[:2], expected[:2])
    assert not found[2].any()


@native
@pytest.mark.parametrize("impl", ["native", "reference"])
def test_a_nan_reaches_its_row_only(impl):
    q, k, v = (torch.randn(1, 1, 30, 16) for _ in range(3))
    q[0, 0, 4, 3] = torch.nan
    output = ops.scaled_dot_product_attention(q, k, v, impl=impl)
    assert output[0, 0, 4].isnan().all() and output.isnan().sum() == 16


@native
def test_large_scores_do_not_overflow():
    q, k, v = (torch.randn(1, 2, 50, 32) for _ in range(3))
    expected = ops.scaled_dot_product_attention(q.double() * 300, k.double() * 300, v.double(), impl="reference")
    found = ops.scaled_dot_product_attention(q * 300, k * 300, v, impl="native")
    torch.testing.assert_close(found.double(), expected, rtol=1e-3, atol=2e-2)


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
@pytest.mark.parametrize("sizes", [(0, 2, 5, 6), (2, 2, 0, 6), (2, 2, 5, 0), (2, 0, 5, 6)], ids=str)
def test_empty_sizes_work_as_torchs_do(impl, sizes):
    n, h, queries, keys = sizes
    q = torch.randn(n, h, queries, 16, requires_grad=True)
    k, v = (torch.randn(n, h, keys, 16, requires_grad=True) for _ in range(2))
    for causal in (False, True):
        output = ops.scaled_dot_product_attention(q, k, v, is_causal=causal, impl=impl)
        assert output.shape == q.shape and not output.any()
        assert not any(grad.any() for grad in torch.autograd.grad(output.sum(), (q, k, v)))


# -- dropout -----------------------------------------------------------------------------------------------------------


def test_the_generator_is_philox():
    """The known answers of Random123's philox4x32-10."""
    answers = {0: "6627e8d5 e169c58d bc57ac4c 9b00dbd8", 0xFFFFFFFF: "408f276d 41c83b0e a20bc7c6 6d5451fd"}
    for number, answer in answers.items():
        word = torch.tensor(number)
        found = attention_reference._philox((word,) * 4, word, word)
        assert " ".join(f"{int(part):08x}" for part in found) == answer


@native
@pytest.mark.parametrize("sizes", [((2, 3, 40, 16), (2, 3, 70, 16)), ((1, 2, 140, 16), (1, 1, 530, 16))], ids=str)
@pytest.mark.parametrize("p", [0.1, 0.5, 1.0])
def test_dropout_drops_the_same_weights_forward_backward_and_by_definition(p, sizes):
    given = sample(*sizes, dropout_p=p, enable_gqa=True)
    results = []
    for impl in ("native", "reference"):
        torch.manual_seed(3)
        results.append(run_with_gradients(attention, given.make(torch.float32, "cpu"), given.arguments, impl))
    for found, expected in zip(*results, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    assert results[0][0].any() == (p < 1)


@native
def test_dropout_follows_torchs_generator_and_keeps_the_mean():
    q, k, v = (torch.randn(2, 2, 64, 16) for _ in range(3))
    runs = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        runs.append(ops.scaled_dot_product_attention(q, k, v, dropout_p=0.3, impl="native"))
    assert torch.equal(runs[0], runs[1]) and not torch.equal(runs[0], runs[2])
    kept = attention_reference.keep_mask(torch.tensor([5, 6]), (2, 2, 100, 103), 0.3).float()
    assert abs(kept.mean().item() - 0.7) < 0.01 and abs(kept.mean((0, 1, 2)).std().item()) < 0.05
    ones = ops.scaled_dot_product_attention(q, k, torch.ones_like(v), dropout_p=0.3, impl="native")
    assert abs(ones.mean().item() - 1) < 0.02


@native
def test_gradients_are_those_of_the_dropped_weights():
    tensors = [torch.randn(1, 2, 6, 4, dtype=torch.float64, requires_grad=True) for _ in range(3)]

    def call(*given):
        torch.manual_seed(0)
        return ops.scaled_dot_product_attention(*given, dropout_p=0.4, impl="native")

    assert torch.autograd.gradcheck(call, tensors, fast_mode=True)


# -- what PyTorch asks of an op ----------------------------------------------------------------------------------------


@native
@pytest.mark.parametrize("given", [SAMPLES[2], SAMPLES[7]], ids=str)
def test_compiles_without_a_break(given):
    check_compiles(attention, given, "native")


@native
@pytest.mark.parametrize("memory", ["plain", "heads_in_rows"])
@pytest.mark.parametrize("case", ["plain", "numbers", "dropout"])
def test_the_registered_ops_pass_opcheck(case, memory):
    q, k, v, mask = sample(
        (2, 4, 6, 8), (2, 2, 5, 8), 12, numbers=(2, 4, 6, 5) if case == "numbers" else None, memory=memory
    ).make(torch.float32, "cpu")
    seed, p = (torch.tensor([3, 4]), 0.5) if case == "dropout" else (None, 0.0)
    rest = (p, case == "plain", 0.3, True)
    namespace = torch.ops.genlab
    leaves = [None if t is None else t.requires_grad_() for t in (q, k, v, mask)]
    torch.library.opcheck(namespace.scaled_dot_product_attention, (*leaves, seed, *rest))
    tensors = [None if t is None else t.detach() for t in leaves]
    output, lse = namespace.scaled_dot_product_attention(*tensors, seed, *rest)
    assert output.shape == (2, 4, 6, 12) and lse.shape == (2, 4, 6)
    q, k, v, mask = tensors
    torch.library.opcheck(
        namespace.scaled_dot_product_attention_backward,
        (torch.randn_like(output), q, k, v, output, lse, mask, seed, *rest, [True, True, True, mask is not None]),
        test_utils=("test_schema", "test_faketensor", "test_aot_dispatch_dynamic"),
    )


@native
def test_autocast_runs_in_its_dtype():
    q, k, v = (torch.randn(1, 2, 20, 16, requires_grad=True) for _ in range(3))
    with torch.autocast("cpu", torch.bfloat16):
        found = ops.scaled_dot_product_attention(q, k.bfloat16(), v, torch.randn(20, 20).bfloat16(), impl="native")
        peer = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        ours = ops.scaled_dot_product_attention(q, k, v, is_causal=True, impl="native")
    assert found.dtype == ours.dtype == torch.bfloat16
    torch.testing.assert_close(ours, peer, rtol=2e-2, atol=2e-2)
    assert torch.autograd.grad(ours.sum(), q)[0].dtype == torch.float32


@native
def test_a_second_derivative_names_what_has_one():
    q, k, v = (torch.randn(1, 1, 4, 4, requires_grad=True) for _ in range(3))
    (grad,) = torch.autograd.grad(
        ops.scaled_dot_product_attention(q, k, v, impl="native").square().sum(), q, create_graph=True
    )
    with pytest.raises(NotImplementedError, match='no second derivative; use impl="reference", or impl="torch"'):
        torch.autograd.grad(grad.sum(), q)


@native
@pytest.mark.parametrize("given", [SAMPLES[7], SAMPLES[15], SAMPLES[14]], ids=str)
def test_the_number_of_threads_changes_no_bit(given):
    tensors = given.make(torch.float32, "cpu")
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            results.append(run_with_gradients(attention, tensors, given.arguments, "native"))
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


LESSER_PROCESSOR = """
import torch
from attention_samples import SAMPLES, attention
from helpers import check_values

assert torch.backends.cpu.get_cpu_capability() == {capability!r}
for given in SAMPLES[6:13]:
    for dtype in (torch.float32, torch.float64, torch.bfloat16, torch.float16):
        if dtype.itemsize > 2 or given.terms > 40:
            check_values(attention, given, dtype, "native")
"""


@native
@pytest.mark.parametrize(("variable", "capability"), [("avx2", "AVX2"), ("default", "DEFAULT")])
def test_lesser_processors_compute_the_same(variable, capability):
    folder = Path(__file__).parent
    environment = {**os.environ, "ATEN_CPU_CAPABILITY": variable}
    environment["PYTHONPATH"] = os.pathsep.join([str(folder), str(folder.parent), *sys.path])
    command = [sys.executable, "-c", LESSER_PROCESSOR.format(capability=capability)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]


@native
def test_heads_in_rows_stay_there_and_nothing_is_copied():
    x = torch.randn(2, 10, 3, 4, 16)
    q, k, v = (part.transpose(1, 2) for part in x.unbind(2))
    output = ops.scaled_dot_product_attention(q, k, v, impl="native")
    assert output.transpose(1, 2).is_contiguous()
    torch.testing.assert_close(output, F.scaled_dot_product_attention(q, k, v), rtol=1e-4, atol=1e-5)


# -- refusals ----------------------------------------------------------------------------------------------------------

Q = torch.randn(2, 4, 5, 16, generator=torch.Generator().manual_seed(0))
M = torch.ones(5, 5)
REFUSALS = {
    "rank": ((Q[0, 0, 0], Q, Q), {}, RuntimeError, r"expected query of shape \(..., length, columns\), got \(16\)"),
    "head_dim": ((Q, Q[..., :8], Q), {}, RuntimeError, "expected key with the query's 16 columns"),
    "dtype": (
        (Q, Q.double(), Q),
        {},
        RuntimeError,
        "key of the query's dtype torch.float32, got torch.float64",
    ),
    "device": ((Q, Q, Q.to("meta")), {}, RuntimeError, "expected value on the query's device cpu, got meta"),
    "integer": ((Q.long(), Q.long(), Q.long()), {}, RuntimeError, "expected a floating point query"),
    "heads": ((Q, Q[:, :2], Q[:, :2]), {}, RuntimeError, "whose heads fit each other.*enable_gqa=True"),
    "groups": ((Q, Q[:, :3], Q[:, :3]), {"enable_gqa": True}, RuntimeError, "to divide the query's.*got 3 and 4"),
    "no_tensor": (([1], Q, Q), {}, TypeError, "expected query to be a tensor, got list"),
    "mask_dtype": ((Q, Q, Q, M.long()), {}, RuntimeError, "expected attn_mask of dtype torch.bool"),
    "mask_wide": ((Q, Q, Q, M.double()), {}, RuntimeError, "attn_mask of dtype torch.bool .* got torch.float64"),
    "mask_shape": ((Q, Q, Q, M[:4]), {}, RuntimeError, r"broadcasts to \(2, 4, 5, 5\), got \(4, 5\)"),
    "mask_rank": ((Q, Q, Q, M[0]), {}, IndexError, "attn_mask of two or more dimensions"),
    "mask_larger": ((Q[:1], Q[:1], Q[:1], torch.ones(3, 4, 5, 5)), {}, RuntimeError, r"broadcasts to \(1, 4, 5, 5\)"),
    "mask_and_causal": (
        (Q, Q, Q, M),
        {"is_causal": True},
        RuntimeError,
        "expected attn_mask or is_causal=True, got both",
    ),
    "dropout": ((Q, Q, Q), {"dropout_p": 1.5}, RuntimeError, "expected dropout_p between 0 and 1, got 1.5"),
    "negative": ((Q, Q, Q), {"dropout_p": -1.0}, RuntimeError, "expected dropout_p between 0 and 1, got -1.0"),
    "scale": ((Q, Q, Q), {"scale": "a"}, TypeError, "expected scale to be a number, got 'a'"),
}


@pytest.mark.parametrize("impl", ["auto", "native"])
@pytest.mark.parametrize("name", REFUSALS)
def test_refuses_what_torch_refuses_with_its_error(name, impl):
    arguments, keywords, error, message = REFUSALS[name]
    with pytest.raises(error):
        F.scaled_dot_product_attention(*arguments, **keywords)
    with pytest.raises(error, match=message) as caught:
        ops.scaled_dot_product_attention(*arguments, **keywords, impl=impl)
    assert str(caught.value).startswith(f"{OP}: ")


def test_refuses_values_of_another_length_than_keys():
    with pytest.raises(
        RuntimeError, match="expected value with the key's 5 rows"
    ):  # which torch's flash kernel reads past
        ops.scaled_dot_product_attention(Q, Q, Q[:, :, :3])


@native
def test_native_refuses_dims_it_has_no_kernel_for():
    wide = torch.randn(1, 1, 3, 257)
    with pytest.raises(NotImplementedError, match="expected head and value dims from 1 to 256 on cpu, got 257 and 257"):
        ops.scaled_dot_product_attention(wide, wide, wide, impl="native")
    torch.testing.assert_close(
        ops.scaled_dot_product_attention(wide, wide, wide), F.scaled_dot_product_attention(wide, wide, wide)
    )
    with pytest.raises(ValueError, match="expected impl to be one of"):
        ops.scaled_dot_product_attention(Q, Q, Q, impl="mine")


def test_auto_runs_natively_where_that_is_quicker(monkeypatch):
    monkeypatch.setattr(attention_tuning, "_HAS_AVX512", True)
    choose = lambda q, k: implementation.choose(OP, "auto", q, k, k, None, 0.0, False)  # noqa: E731
    quicker = "native" if _extension.available() else "torch"
    big, one, wide = (torch.randn(size) for size in ((4, 8, 128, 64), (64, 8, 1, 64), (4, 8, 128, 200)))
    assert choose(big, big) == choose(big.bfloat16(), big.bfloat16()) == quicker
    assert choose(one, big) == choose(wide, wide) == choose(big[:1, :1], big[:1, :1]) == "torch"
    assert choose(big[:1, :1].bfloat16(), big[:1, :1].bfloat16()) == choose(wide.half(), wide.half()) == quicker
    assert choose(big.double(), big.double()) == "torch"
    monkeypatch.setattr(attention_tuning, "_HAS_AVX512", False)
    assert choose(big, big) == "torch"


def test_is_listed_with_reasons():
    rows = {(row.device, row.dtype): row for row in implementation.describe() if row.op == OP}
    assert len(rows) == 8 and all(row.reason for row in rows.values())
    assert rows["cuda", "float16"].auto == "torch"


def test_boolean_masks_of_the_samples_leave_out_rows_and_keys():
    mask = boolean_mask((4, 5))
    assert not mask[0].any() and not mask[:, -1].any() and mask[1:].any()

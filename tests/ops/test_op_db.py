"""PyTorch's own sample inputs for its convolutions, run through the native kernels."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from genlab import ops

op_db = pytest.importorskip("torch.testing._internal.common_methods_invocations").op_db

CASES = {
    "nn.functional.conv1d": (F.conv1d, ops.conv1d),
    "nn.functional.conv2d": (F.conv2d, ops.conv2d),
    "nn.functional.conv_transpose2d": (F.conv_transpose2d, ops.conv_transpose2d),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("name", CASES)
def test_torch_samples(name, dtype):
    theirs, ours = CASES[name]
    info = next(op for op in op_db if op.name == name)
    count = 0
    for sample in info.sample_inputs("cpu", dtype, requires_grad=True):
        tensors = [sample.input, *(a for a in sample.args if isinstance(a, torch.Tensor))]
        rest = [a for a in sample.args if not isinstance(a, torch.Tensor)]
        kwargs = dict(sample.kwargs)
        if isinstance(kwargs.get("bias"), torch.Tensor):
            tensors.append(kwargs.pop("bias"))
        expected = theirs(*tensors, *rest, **kwargs)
        found = ours(*tensors, *rest, **kwargs, impl="native")
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
        wanted = [t for t in tensors if t.requires_grad]
        for a, e in zip(
            torch.autograd.grad(found.sum(), wanted), torch.autograd.grad(expected.sum(), wanted), strict=True
        ):
            torch.testing.assert_close(a, e, rtol=1e-4, atol=1e-4)
        count += 1
    assert count >= 5


@pytest.mark.parametrize("impl", ["native", "auto"])
@pytest.mark.parametrize("name", ["nn.functional.conv1d", "nn.functional.conv2d"])  # the others have no such inputs
def test_torch_error_inputs_are_refused(name, impl):
    info = next(op for op in op_db if op.name == name)
    inputs = [error.sample_input for error in info.error_inputs("cpu")]
    assert len(inputs) >= 5
    for sample in inputs:
        with pytest.raises((RuntimeError, ValueError, TypeError)) as caught:
            CASES[name][1](sample.input, *sample.args, **sample.kwargs, impl=impl)
        assert str(caught.value).startswith(f"{name.rsplit('.')[-1]}: ")

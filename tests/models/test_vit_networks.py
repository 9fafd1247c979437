"""The Vision Transformer: torchvision's outputs from its weights, longer sequences, and where it looks."""

from __future__ import annotations

import pytest
import torch
from torchvision.models.vision_transformer import VisionTransformer as Twin

from genlab.models.vit import VIT_SIZES, VisionTransformer


def small(**changes) -> VisionTransformer:
    settings = {"image_shape": (3, 16, 16), "num_classes": 5, "patch": 4, "depth": 3, "width": 24, "heads": 3}
    return VisionTransformer(**{**settings, "mlp_width": 48, **changes})


def unlike_at_first(network: torch.nn.Module) -> torch.nn.Module:
    """The class token, the head and biases begin at 0, which would hide what is done with them."""
    for parameter in network.parameters():
        if parameter.abs().max() < 1e-4:
            torch.nn.init.normal_(parameter, 0, 0.3)
    return network.eval()


def test_torchvisions_weights_give_torchvisions_outputs():
    twin = unlike_at_first(Twin(16, 4, 3, 3, 24, 48, num_classes=5))
    network = small().eval()
    network.load_state_dict(twin.state_dict())
    images = torch.randn(2, 3, 16, 16)
    torch.testing.assert_close(network(images), twin(images), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("size", "twin"), [("base", "vit_b_16"), ("large", "vit_l_16")])
def test_the_papers_sizes_have_torchvisions_parameters(size, twin):
    from torchvision import models

    with torch.device("meta"):
        ours, theirs = VisionTransformer((3, 224, 224), 1000, *VIT_SIZES[size]), getattr(models, twin)()
    assert {k: v.shape for k, v in ours.state_dict().items()} == {k: v.shape for k, v in theirs.state_dict().items()}


def test_a_larger_picture_has_interpolated_positions_and_its_own_size_the_trained_ones():
    network = unlike_at_first(small())
    assert network.positions(16, 16) is network.encoder.pos_embedding
    assert network(torch.randn(2, 3, 24, 32)).shape == (2, 5)
    # Positions that vary linearly along the rows stay linear between the outer patches' centres.
    with torch.no_grad():
        ramp = torch.arange(4.0)[:, None].expand(4, 4).reshape(1, 16, 1).expand(1, 16, 24)
        network.encoder.pos_embedding[:, 1:] = ramp
    doubled = network.positions(32, 32)
    assert torch.equal(doubled[:, :1], network.encoder.pos_embedding[:, :1])
    rows = doubled[0, 1:, 0].unflatten(0, (8, 8))
    torch.testing.assert_close(rows, rows[:, :1].expand(8, 8))
    inner = rows[2:6, 0]
    torch.testing.assert_close(inner, torch.tensor([0.75, 1.25, 1.75, 2.25]), atol=0.12, rtol=0)


def test_without_positions_the_order_of_patches_does_not_matter():
    network = unlike_at_first(small())
    images = torch.randn(2, 3, 16, 16)
    swapped = torch.cat([images[..., 8:], images[..., :8]], dim=3)
    assert not torch.allclose(network(images), network(swapped), atol=1e-4)
    with torch.no_grad():
        network.encoder.pos_embedding[:, 1:] = 0
    torch.testing.assert_close(network(images), network(swapped), rtol=1e-4, atol=1e-5)


def test_attention_maps_are_those_of_the_forward_pass_and_sum_to_one():
    network = unlike_at_first(small())
    images = torch.randn(2, 3, 16, 16)
    maps = network.attention_maps(images)
    assert [tuple(weights.shape) for weights in maps] == [(2, 3, 17, 17)] * 3
    for weights in maps:
        torch.testing.assert_close(weights.sum(-1), torch.ones(2, 3, 17))
    # The first block's output by hand from its weights.
    block, tokens = network.encoder.layers[0], network.tokens(images)
    values = torch.nn.functional.linear(
        block.ln_1(tokens), block.self_attention.in_proj_weight[48:], block.self_attention.in_proj_bias[48:]
    )
    heads = values.unflatten(2, (3, 8)).transpose(1, 2)
    attended = block.self_attention.out_proj((maps[0] @ heads).transpose(1, 2).flatten(2))
    hidden = tokens + attended
    torch.testing.assert_close(block(tokens), hidden + block.mlp(block.ln_2(hidden)), rtol=1e-4, atol=1e-5)


def test_rollout_of_uniform_attention_is_uniform_over_patches():
    network = small()
    with torch.no_grad():
        for block in network.encoder.layers:
            block.self_attention.in_proj_weight[:48] = 0  # queries and keys are alike
            block.self_attention.in_proj_bias[:48] = 0
    rollout = network.attention_rollout(torch.randn(1, 3, 16, 24))
    assert rollout.shape == (1, 4, 6)
    torch.testing.assert_close(rollout, rollout.mean().expand_as(rollout))
    assert 0 < rollout.sum().item() < 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"image_shape": (3, 18, 16)}, "multiples of the patch, 4 px, got 18x16"),
     ({"image_shape": (3, 16, 0)}, "multiples of the patch"),
     ({"heads": 5}, "expected a width that 5 heads divide, got 24")],
)  # fmt: skip
def test_sizes_that_do_not_divide_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        small(**changes)


def test_a_picture_that_is_not_made_of_patches_is_refused():
    with pytest.raises(ValueError, match="expected sides that are multiples of 4 px, got 18x16"):
        small()(torch.randn(1, 3, 18, 16))

"""WGAN-GP's residual networks: sizes of the paper, blocks against plain torch, no mixing of samples in the critic."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from genlab.models.wgan_gp_resnet import CriticBlock, UpBlock, WganGpCritic, WganGpGenerator


def count(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def conv(c_in: int, c_out: int, side: int, bias: bool = True) -> int:
    return c_in * c_out * side**2 + bias * c_out


@pytest.mark.parametrize("size", [32, 64])
@pytest.mark.parametrize("channels", [1, 3])
def test_images_come_out_in_range_and_one_score_each(size, channels):
    images = WganGpGenerator(size, channels, latent_dim=5, base_channels=4)(torch.randn(3, 5))
    assert images.shape == (3, channels, size, size)
    assert images.abs().max() <= 1
    critic = WganGpCritic(size, channels, base_channels=4)
    assert critic(images).shape == (3,)
    assert critic.features(images).shape == (3, critic.head.in_features)


def test_the_cifar_networks_have_the_sizes_of_the_papers_table():
    """128 channels everywhere; three up-sampling blocks against two down-sampling and two plain ones."""
    up = 2 * conv(128, 128, 3) - 128 + conv(128, 128, 1) + 4 * 128
    generator = (128 + 1) * 128 * 16 + 3 * up + 2 * 128 + conv(128, 3, 3)
    assert count(WganGpGenerator(32, 3)) == generator
    first = conv(3, 128, 3) + conv(128, 128, 3) + conv(3, 128, 1)
    down, plain = 2 * conv(128, 128, 3) + conv(128, 128, 1), 2 * conv(128, 128, 3)
    assert count(WganGpCritic(32, 3)) == first + down + 2 * plain + 128 + 1


@pytest.mark.parametrize(("size", "gain"), [(32, 1.0), (64, 2**0.5)])
def test_the_layer_that_makes_the_image_begins_as_in_the_script_of_its_size(size, gain):
    weight = WganGpGenerator(size, 3, base_channels=64).to_image.weight
    bound = gain * (6 / (9 * (64 + 3))) ** 0.5
    assert 0.98 * bound < weight.abs().max().item() <= bound


def test_the_64_px_networks_widen_inwards():
    generator, critic = WganGpGenerator(64, 3, base_channels=64), WganGpCritic(64, 3, base_channels=64)
    assert [block.conv1.in_channels for block in generator.blocks] == [512, 512, 256, 128]
    assert [block.conv2.out_channels for block in generator.blocks] == [512, 256, 128, 64]
    first, *blocks = critic.blocks
    assert [first.out_channels, *(block.conv2.out_channels for block in blocks)] == [64, 128, 256, 512, 512]
    assert critic.head.in_features == 512 * 4 * 4


def test_an_up_block_is_the_one_of_the_authors_code_in_plain_torch():
    torch.manual_seed(0)
    block, x = UpBlock(4, 6), torch.randn(3, 4, 5, 5)

    def normalised(value: torch.Tensor) -> torch.Tensor:
        return F.relu(F.batch_norm(value, None, None, training=True))

    def doubled(value: torch.Tensor) -> torch.Tensor:
        return value.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)

    hidden = F.conv2d(doubled(normalised(x)), block.conv1.weight, padding=1)
    hidden = F.conv2d(normalised(hidden), block.conv2.weight, block.conv2.bias, padding=1)
    shortcut = F.conv2d(doubled(x), block.shortcut.weight, block.shortcut.bias)
    torch.testing.assert_close(block(x), hidden + shortcut, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("layer_norm", [False, True])
@pytest.mark.parametrize(("down", "c_out"), [(True, 6), (True, 4), (False, 4)])
def test_a_critic_block_is_the_one_of_the_authors_code_in_plain_torch(layer_norm, down, c_out):
    torch.manual_seed(0)
    block, x = CriticBlock(4, c_out, down=down, layer_norm=layer_norm), torch.randn(3, 4, 6, 6)

    def activated(value: torch.Tensor) -> torch.Tensor:
        return F.relu(F.layer_norm(value, value.shape[1:]) if layer_norm else value)

    hidden = F.conv2d(activated(x), block.conv1.weight, block.conv1.bias, padding=1)
    hidden = F.conv2d(activated(hidden), block.conv2.weight, block.conv2.bias, padding=1)
    shortcut = F.conv2d(x, block.shortcut.weight, block.shortcut.bias) if down else x
    expected = F.avg_pool2d(hidden + shortcut, 2) if down else hidden + shortcut
    torch.testing.assert_close(block(x), expected, rtol=1e-4, atol=1e-5)


def test_the_critics_first_block_does_not_clip_the_image_at_zero():
    torch.manual_seed(0)
    critic = WganGpCritic(32, 1, base_channels=4)
    images = -torch.rand(2, 1, 32, 32)
    assert not torch.allclose(critic(images), critic(2 * images))


@pytest.mark.parametrize("size", [32, 64])
def test_the_critic_judges_each_sample_on_its_own(size):
    torch.manual_seed(0)
    critic, images = WganGpCritic(size, 3, base_channels=4), torch.randn(4, 3, size, size)
    alone = torch.cat([critic(image[None]) for image in images])
    torch.testing.assert_close(critic(images), alone, rtol=1e-4, atol=1e-5)
    assert not any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in critic.modules())


@pytest.mark.parametrize("size", [32, 64])
def test_a_gradient_penalty_reaches_every_weight_of_the_critic(size):
    from genlab.regularizers import gradient_penalty

    torch.manual_seed(0)
    critic = WganGpCritic(size, 1, base_channels=2)
    real, fake = torch.randn(2, 2, 1, size, size)
    gradient_penalty(critic, real, fake, torch.rand(2, 1, 1, 1)).backward()
    dead = [
        name
        for name, p in critic.named_parameters()
        if name.endswith("weight") and (p.grad is None or not p.grad.any())
    ]
    assert dead == []


def test_initial_weights_have_the_variance_of_the_code():
    generator = WganGpGenerator(32, 3)
    block = generator.blocks[0]
    fans = 9 * (128 + 128)
    assert block.conv1.weight.var().item() == pytest.approx(4 / fans, rel=0.05)
    assert block.shortcut.weight.var().item() == pytest.approx(2 / 256, rel=0.05)
    assert not block.conv2.bias.any()


def test_a_size_without_an_architecture_is_refused():
    for network in (WganGpGenerator, WganGpCritic):
        with pytest.raises(ValueError, match="expected image_size to be 32 or 64, got 28"):
            network(28, 3)

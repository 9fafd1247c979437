"""The U-Net: the paper's sizes, skip connections that carry the picture, and dropout that is the noise."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from genlab.models.unet import UnetGenerator
from genlab.nn import BatchNormAct2d, Conv2d, ConvTranspose2d, InstanceNormAct2d


def noise_of(generator: UnetGenerator, count: int = 1) -> list[torch.Tensor]:
    return [torch.rand(count, *shape) for shape in generator.noise_shapes]


@pytest.mark.parametrize("size", [32, 64, 128, 256, 512])
def test_pictures_come_out_at_their_size_from_a_bottleneck_of_one_pixel(size):
    generator = UnetGenerator(size, 3, base_channels=1)
    maps = []
    generator.encoder[-1].register_forward_hook(lambda module, args, output: maps.append(output))
    images = generator(torch.randn(1, 3, size, size), noise_of(generator))
    assert images.shape == (1, 3, size, size)
    assert images.abs().max() <= 1
    assert maps[0].shape[2:] == (1, 1)


def test_the_256_px_network_is_that_of_the_paper():
    generator = UnetGenerator(256, 3)
    assert sum(p.numel() for p in generator.parameters()) == 54_414_531  # as in the authors' code
    down = [layer for layer in generator.encoder.modules() if isinstance(layer, Conv2d)]
    up = [layer for layer in generator.decoder.modules() if isinstance(layer, ConvTranspose2d)]
    assert [layer.out_channels for layer in down] == [64, 128, 256, 512, 512, 512, 512, 512]
    assert [layer.out_channels for layer in up] == [512, 512, 512, 512, 256, 128, 64, 3]
    assert [layer.in_channels for layer in up] == [512, 1024, 1024, 1024, 1024, 512, 256, 128]
    assert generator.noise_shapes == [(512, 2, 2), (512, 4, 4), (512, 8, 8)]
    norms = [layer for layer in generator.modules() if isinstance(layer, BatchNormAct2d)]
    assert len(norms) == 6 + 7  # neither the first layer nor the bottleneck nor the output


def test_the_numbers_are_those_of_the_layers_written_out():
    """Against the paper's order: norm, dropout, concatenation with the encoder's map before its activation, ReLU."""
    generator = UnetGenerator(32, 3, base_channels=2)
    images, noise = torch.randn(2, 3, 32, 32), noise_of(generator, 2)

    def norm(layer: nn.Module, x: torch.Tensor) -> torch.Tensor:
        return F.batch_norm(x, None, None, layer.weight, layer.bias, training=True)

    first, *middle, last = generator.encoder
    maps = [F.conv2d(images, first.weight, first.bias, 2, 1)]
    for convolution, normalization in middle:
        maps.append(norm(normalization, F.conv2d(F.leaky_relu(maps[-1], 0.2), convolution.weight, None, 2, 1)))
    hidden = F.conv2d(F.leaky_relu(maps[-1], 0.2), last.weight, last.bias, 2, 1)
    for index, (convolution, normalization) in enumerate(generator.decoder[:-1]):
        hidden = norm(normalization, F.conv_transpose2d(F.relu(hidden), convolution.weight, None, 2, 1))
        if index < 3:
            hidden = torch.where(noise[index] >= 0.5, hidden * 2, 0)
        hidden = torch.cat([hidden, maps[-1 - index]], 1)
    out = generator.decoder[-1]
    expected = torch.tanh(F.conv_transpose2d(F.relu(hidden), out.weight, out.bias, 2, 1))
    torch.testing.assert_close(generator(images, noise), expected)


def test_every_skip_connection_carries_the_picture_past_the_bottleneck():
    """With the bottleneck and all but one skip cut, the output still follows the input through that one."""
    for level in range(4):
        generator = UnetGenerator(32, 3, base_channels=2, normalization="instance").double()
        with torch.no_grad():
            generator.encoder[-1].weight.zero_()
            for index in range(1, 5):  # decoder layer i reads the encoder's map number 4 - i
                layer = generator.decoder[index] if index == 4 else generator.decoder[index][0]
                if 4 - index != level:
                    layer.weight[layer.in_channels // 2 :].zero_()
        first, second = (generator(torch.randn(1, 3, 32, 32, dtype=torch.float64)) for _ in range(2))
        assert (first - second).abs().max() > 1e-9, level
    with torch.no_grad():
        for index in range(1, 5):
            layer = generator.decoder[index] if index == 4 else generator.decoder[index][0]
            layer.weight[layer.in_channels // 2 :].zero_()
    first, second = (generator(torch.randn(1, 3, 32, 32, dtype=torch.float64)) for _ in range(2))
    assert torch.equal(first, second)


def test_dropout_is_the_noise_that_is_handed_in():
    generator = UnetGenerator(64, 3, base_channels=4).eval()
    images, noise = torch.randn(2, 3, 64, 64), noise_of(generator, 2)
    assert torch.equal(generator(images, noise), generator(images, noise))
    assert not torch.allclose(generator(images, noise), generator(images, noise_of(generator, 2)))
    kept = [torch.ones_like(values) for values in noise]
    torch.manual_seed(1)
    assert torch.equal(generator(images), generator(images)), "without noise nothing is put out"
    assert not torch.allclose(generator(images, kept), generator(images)), "what is kept is scaled by 1 / (1 - p)"
    assert UnetGenerator(64, 3, base_channels=4, dropout=0).noise_shapes == []


def test_half_of_the_features_are_put_out_and_their_mean_is_kept():
    generator = UnetGenerator(32, 1, base_channels=16)
    seen = []
    generator.decoder[1].register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    images, noise = torch.randn(8, 1, 32, 32), noise_of(generator, 8)
    generator(images)
    generator(images, noise)
    whole, dropped = (hidden[:, :128] for hidden in seen)
    live = whole > 0
    assert (dropped[live] > 0).float().mean().item() == pytest.approx(0.5, abs=0.05)
    assert dropped.mean().item() == pytest.approx(whole.mean().item(), rel=0.1)


def test_statistics_at_test_time_are_the_pictures_own_unless_running_ones_are_asked_for():
    images = torch.randn(4, 3, 32, 32)
    own = UnetGenerator(32, 3, base_channels=2)
    assert torch.equal(own(images), own.eval()(images))
    assert not any("running" in name for name in own.state_dict())
    running = UnetGenerator(32, 3, base_channels=2, running_statistics=True)
    assert not torch.allclose(running(images), running.eval()(images))
    assert torch.allclose(running(images)[:1], running(images[:1]), atol=1e-6), "evaluation does not mix samples"


def test_a_batch_of_one_with_batch_norm_is_instance_norm():
    batch = UnetGenerator(32, 3, base_channels=2)
    instance = UnetGenerator(32, 3, base_channels=2, normalization="instance")
    instance.load_state_dict(batch.state_dict())
    assert any(isinstance(layer, InstanceNormAct2d) for layer in instance.modules())
    image = torch.randn(1, 3, 32, 32)
    torch.testing.assert_close(batch(image), instance(image))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: UnetGenerator(96, 3), "square of 32, 64, 128, 256, 512 px, got 96x96"),
        (lambda: UnetGenerator(32, 3, base_channels=1)(torch.zeros(1, 3, 32, 48)), "got 32x48"),
        (lambda: UnetGenerator(32, 3, dropout=1.0), r"dropout in \[0, 1\), got 1.0"),
        (lambda: UnetGenerator(32, 3, normalization="layer"), "batch or instance, got 'layer'"),
        (
            lambda: UnetGenerator(32, 3, base_channels=1)(torch.zeros(1, 3, 32, 32), [torch.zeros(1)]),
            "3 tensors of noi",
        ),
    ],
)
def test_what_does_not_fit_is_refused(build, message):
    with pytest.raises(ValueError, match=message):
        build()

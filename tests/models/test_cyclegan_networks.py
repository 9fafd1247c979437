"""CycleGAN's generator: the paper's layers, every size, and no mixing of samples."""

from __future__ import annotations

import pytest
import torch

from genlab.models.cyclegan import ResidualBlock, ResnetGenerator, blocks_for
from genlab.nn import Conv2d, ConvTranspose2d, InstanceNormAct2d


@pytest.mark.parametrize("size", [(32, 32), (64, 64), (20, 48), (128, 128), (256, 256)])
def test_pictures_come_out_at_the_size_they_went_in(size):
    images = ResnetGenerator(3, base_channels=2, blocks=1)(torch.randn(2, 3, *size))
    assert images.shape == (2, 3, *size)
    assert images.abs().max() <= 1


@pytest.mark.parametrize(("blocks", "parameters"), [(9, 11_378_179), (6, 7_837_699)])
def test_the_networks_have_the_sizes_of_the_authors_code(blocks, parameters):
    """The authors count biases in front of the normalisations too, which take them out again."""
    generator = ResnetGenerator(3, blocks=blocks)
    idle = sum(norm.num_features for norm in generator.modules() if isinstance(norm, InstanceNormAct2d))
    assert sum(p.numel() for p in generator.parameters()) + idle == parameters


def test_the_layers_are_those_of_the_papers_notation():
    layers = list(ResnetGenerator(3, blocks=6).layers)
    kinds = {Conv2d: "c", ConvTranspose2d: "u", InstanceNormAct2d: "n", ResidualBlock: "R"}
    assert "".join(kinds[type(layer)] for layer in layers) == "cncncn" + "R" * 6 + "ununc"
    convolutions = [layer for layer in layers if isinstance(layer, Conv2d)]
    assert [(c.out_channels, c.kernel_size[0], c.stride[0], c.padding_mode) for c in convolutions] == [
        (64, 7, 1, "reflect"), (128, 3, 2, "zeros"), (256, 3, 2, "zeros"), (3, 7, 1, "reflect"),
    ]  # fmt: skip
    block = layers[6]
    assert (block.conv1.padding_mode, block.conv2.padding_mode) == ("reflect", "reflect")
    assert (block.norm1.activation, block.norm2.activation) == ("relu", None)


def test_a_block_whose_second_convolution_is_zero_gives_its_input_back():
    block = ResidualBlock(4)
    torch.nn.init.zeros_(block.conv2.weight)
    images = torch.randn(2, 4, 8, 8)
    torch.testing.assert_close(block(images), images)


def test_samples_of_a_batch_do_not_mix():
    generator = ResnetGenerator(3, base_channels=4, blocks=2)
    images = torch.randn(3, 3, 32, 32)
    together = generator(images)
    for index in range(3):
        torch.testing.assert_close(together[index : index + 1], generator(images[index : index + 1]))


@pytest.mark.parametrize("size", [(12, 12), (30, 30), (32, 34)])
def test_a_size_that_cannot_be_given_back_is_refused(size):
    with pytest.raises(ValueError, match=rf"at least 16 px in multiples of 4, got {size[0]}x{size[1]}"):
        ResnetGenerator(3, base_channels=2, blocks=1)(torch.randn(1, 3, *size))


def test_the_paper_uses_nine_blocks_from_256_px_on():
    assert [blocks_for(size) for size in (32, 128, 255, 256, 512)] == [6, 6, 6, 9, 9]


def test_noise_puts_a_share_of_each_blocks_features_out_and_scales_the_others():
    block = ResidualBlock(4, dropout=0.25)
    images, noise = torch.randn(2, 4, 8, 8), torch.rand(2, 4, 8, 8)
    hidden = block.norm1(block.conv1(images))
    expected = block.norm2(block.conv2(torch.where(noise >= 0.25, hidden / 0.75, 0.0))) + images
    torch.testing.assert_close(block(images, noise), expected, rtol=1e-4, atol=1e-5)
    generator = ResnetGenerator(3, 2, 3, image_size=(16, 24), dropout=0.5)
    assert generator.noise_shapes == [(8, 4, 6)] * 3
    images = torch.randn(2, 3, 16, 24)
    kept = [torch.ones(2, *shape) for shape in generator.noise_shapes]
    assert not torch.allclose(generator(images, kept), generator(images))  # all are kept, and doubled
    with pytest.raises(ValueError, match="3 tensors of noise or none, got 1"):
        generator(images, kept[:1])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"dropout": 1.0, "image_size": (16, 16)}, r"dropout in \[0, 1\), got 1.0"),
        ({"dropout": 0.5}, "expected image_size with dropout"),
        ({"normalization": "layer"}, "batch or instance, got 'layer'"),
    ],
)
def test_settings_that_cannot_be_built_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        ResnetGenerator(3, 2, 1, **settings)


def test_batch_and_instance_normalisation_are_one_thing_for_a_picture_alone():
    batch, instance = (ResnetGenerator(3, 2, 1, normalization=kind, affine=True) for kind in ("batch", "instance"))
    instance.load_state_dict(batch.state_dict())
    images = torch.randn(1, 3, 16, 16)
    torch.testing.assert_close(batch(images), instance(images), rtol=1e-4, atol=1e-5)

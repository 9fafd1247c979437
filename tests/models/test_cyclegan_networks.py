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

"""PatchGAN: the patch that a logit sees, measured by gradients, and the layers of the paper."""

from __future__ import annotations

import pytest
import torch

from genlab.models.patchgan import HALVINGS, PatchDiscriminator, check_field, full_field
from genlab.nn import BatchNormAct2d, Conv2d, InstanceNormAct2d


def seen_extent(discriminator: PatchDiscriminator, size: int) -> tuple[int, int]:
    """(height, width) of the pixels that move the logit in the middle of the map."""
    images = torch.randn(1, 3, size, size, requires_grad=True)
    logits = discriminator(images)
    row, column = logits.shape[2] // 2, logits.shape[3] // 2
    logits[0, 0, row, column].backward()
    moved = images.grad[0].abs().sum(0) > 0
    rows, columns = moved.any(1).nonzero().flatten(), moved.any(0).nonzero().flatten()
    return int(rows[-1] - rows[0] + 1), int(columns[-1] - columns[0] + 1)


@pytest.mark.parametrize(("field", "size"), [(1, 16), (16, 48), (34, 96), (70, 160), (142, 320), (286, 640)])
def test_a_logit_sees_a_patch_of_exactly_the_named_size(field, size):
    """Without normalisation, whose statistics would tie all patches together."""
    assert seen_extent(PatchDiscriminator(3, field, base_channels=2, normalization="none"), size) == (field, field)


def test_the_full_field_covers_the_picture_and_the_next_smaller_does_not():
    for size in (16, 17, 64, 70, 71, 128, 256, 512):
        field = full_field(size, size // 2)
        assert field >= size
        smaller = [other for other in HALVINGS if other < field]
        assert max(smaller) < size
    assert full_field(256, 256) == 286  # the paper's ImageGAN
    with pytest.raises(ValueError, match="at most 574 px, got 600x64"):
        full_field(600, 64)


def layers_of(discriminator: PatchDiscriminator) -> list[tuple[int, int, int]]:
    convolutions = [layer for layer in discriminator.layers if isinstance(layer, Conv2d)]
    return [(layer.out_channels, layer.kernel_size[0], layer.stride[0]) for layer in convolutions]


def test_the_layers_are_those_of_the_appendix():
    assert layers_of(PatchDiscriminator(6, 70)) == [(64, 4, 2), (128, 4, 2), (256, 4, 2), (512, 4, 1), (1, 4, 1)]
    assert layers_of(PatchDiscriminator(6, 16)) == [(64, 4, 2), (128, 4, 1), (1, 4, 1)]
    assert layers_of(PatchDiscriminator(6, 1)) == [(64, 1, 1), (128, 1, 1), (1, 1, 1)]
    widths = [64, 128, 256, 512, 512, 512]
    assert layers_of(PatchDiscriminator(6, 286)) == [*((w, 4, 2) for w in widths[:-1]), (512, 4, 1), (1, 4, 1)]
    assert sum(p.numel() for p in PatchDiscriminator(6, 70).parameters()) == 2_768_705  # as in the authors' code


@pytest.mark.parametrize(("name", "kind"), [("batch", BatchNormAct2d), ("instance", InstanceNormAct2d), ("none", None)])
def test_the_first_layer_and_the_logits_are_never_normalised(name, kind):
    layers = list(PatchDiscriminator(3, 70, base_channels=2, normalization=name).layers)
    norms = [index for index, layer in enumerate(layers) if not isinstance(layer, Conv2d)]
    assert all(isinstance(layers[index], kind) for index in norms)
    assert norms == ([] if kind is None else [2, 4, 6])
    slopes = [layer.negative_slope for layer in layers if layer.activation == "leaky_relu"]
    assert slopes == [0.2] * 4
    assert layers[-1].activation is None


def test_a_pair_is_judged_by_both_pictures():
    discriminator = PatchDiscriminator(6, 16, base_channels=2)
    first, second, other = (torch.randn(2, 3, 32, 32) for _ in range(3))
    logits = discriminator(first, second)
    assert not torch.allclose(logits, discriminator(first, other))
    assert not torch.allclose(logits, discriminator(other, second))
    torch.testing.assert_close(logits, discriminator(torch.cat([second, first], 1)))


@pytest.mark.parametrize(("field", "smallest"), [(1, 1), (16, 6), (70, 24), (286, 96)])
def test_the_smallest_size_leaves_one_logit_and_a_smaller_one_is_refused(field, smallest):
    check_field(field, smallest, smallest)
    discriminator = PatchDiscriminator(3, field, base_channels=2, normalization="none")
    assert discriminator(torch.randn(1, 3, smallest, smallest)).shape == (1, 1, 1, 1)
    if smallest > 1:
        with pytest.raises(ValueError, match=f"at least {smallest} px for a receptive field of {field}"):
            check_field(field, smallest - 1, 256)


def test_what_is_not_offered_is_refused():
    with pytest.raises(ValueError, match="receptive field of 1, 16, 34, 70, 142, 286, 574 px, got 64"):
        PatchDiscriminator(3, 64)
    with pytest.raises(ValueError, match="batch, instance or none, got 'layer'"):
        PatchDiscriminator(3, 70, normalization="layer")

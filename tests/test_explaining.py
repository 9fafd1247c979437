"""What a classifier looks at: gradients and maps by hand, on networks whose evidence is known."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from genlab import explaining
from genlab.errors import UserError
from genlab.models.lenet import SmallCnn
from genlab.models.vit import VisionTransformer


class Corner(nn.Module):
    """Class 1 counts what is bright in the upper left quarter, class 0 what is dark there."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 2, 3, padding=1)
        self.fc = nn.Linear(2, 2, bias=False)
        with torch.no_grad():
            self.conv.weight.zero_()
            self.conv.bias.zero_()
            self.conv.weight[0, 0, 1, 1], self.conv.weight[1, 0, 1, 1] = 1.0, -1.0
            self.fc.weight.copy_(torch.tensor([[-1.0, 1.0], [1.0, -1.0]]))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        maps = self.conv(images)
        return self.fc(maps[:, :, :4, :4].mean(dim=(2, 3)))


def test_saliency_is_the_gradient_of_the_chosen_logit():
    found = explaining.saliency(Corner(), torch.randn(2, 1, 8, 8), torch.tensor([0, 1]))
    expected = torch.zeros(8, 8)
    expected[:4, :4] = 2 / 16
    torch.testing.assert_close(found, expected.expand(2, 8, 8))


def test_grad_cam_is_the_formula_and_differs_between_classes():
    network = Corner()
    network.requires_grad_(False)  # as averaged weights are
    images = torch.zeros(1, 1, 8, 8)
    images[0, 0, 2, 2], images[0, 0, 6, 6] = 1.0, -1.0
    bright = explaining.grad_cam(network, images, torch.tensor([1]))
    dark = explaining.grad_cam(network, images, torch.tensor([0]))
    assert bright.shape == (1, 8, 8)
    assert np.unravel_index(int(bright.argmax()), (8, 8)) == (2, 2)
    assert np.unravel_index(int(dark.argmax()), (8, 8)) == (6, 6)
    assert bright.max() == 1
    assert bright[0, 6, 6] == 0
    nothing = explaining.grad_cam(network, torch.zeros(1, 1, 8, 8), torch.tensor([1]))
    assert not nothing.any()


def test_grad_cam_enlarges_the_last_map_that_has_places():
    network = SmallCnn((1, 16, 16), 3, 4, stages=2).eval()
    found = explaining.grad_cam(network, torch.randn(2, 1, 16, 16), torch.tensor([0, 2]))
    assert found.shape == (2, 16, 16)
    assert 0 <= found.min() <= found.max() <= 1
    with pytest.raises(UserError, match="expected a network with a convolution whose map has more than one pixel"):
        vit = VisionTransformer((1, 8, 8), 3, 4, 1, 8, 2, 8)
        explaining.grad_cam(vit, torch.randn(1, 1, 8, 8), torch.tensor([0]))
    with pytest.raises(UserError, match="expected a network whose first layer sees pixels, got none"):
        explaining.first_filters(nn.Linear(3, 3), (1, 16, 16))
    dense = nn.Sequential(nn.Flatten(), nn.Linear(12, 5))
    filters = explaining.first_filters(dense, (3, 2, 2))
    assert filters.shape == (5, 3, 2, 2)
    largest = dense[1].weight[2].abs().max().detach()
    torch.testing.assert_close(filters[2].flatten() * largest, dense[1].weight[2].detach())


def test_filters_and_maps_are_the_networks():
    network = SmallCnn((3, 16, 16), 3, 4, stages=2).eval()
    weights = network.features[0].weight
    filters = explaining.first_filters(network, (3, 16, 16))
    assert filters.shape == (4, 3, 3, 3)
    torch.testing.assert_close(filters[1] * weights[1].abs().max().detach(), weights[1].detach())
    image = torch.randn(1, 3, 16, 16)
    maps = explaining.feature_maps(network, image)
    assert [tuple(value.shape[1:]) for value in maps.values()] == [(1, 16, 16), (1, 8, 8), (1, 8, 8), (1, 4, 4)]
    first = network.features[0](image)[0].detach()
    expected = (first[2] - first[2].min()) / (first[2].max() - first[2].min()) * 2 - 1
    torch.testing.assert_close(maps["features.0"][2, 0], expected)
    assert not network.features[0]._forward_hooks


def test_pictures_under_heat_keep_their_colours_where_it_is_cold():
    images = torch.linspace(-1, 1, 3 * 16).view(1, 3, 4, 4)
    assert torch.equal(explaining.overlaid(images, torch.zeros(1, 4, 4), 0.5), explaining.to_uint8(images))
    hot = explaining.overlaid(images, torch.ones(1, 4, 4), 1.0)
    assert torch.equal(hot, explaining.heat(torch.ones(1, 4, 4)))
    grey = explaining.explanation_grid(torch.zeros(3, 1, 8, 8), [explaining.heat(torch.rand(3, 8, 8))], scale=1)
    assert grey.shape == (3, 2 * 10 + 2, 3 * 10 + 2)


def test_clusters_lie_apart_in_the_plane_and_one_seed_gives_one_picture():
    torch.manual_seed(0)
    codes = torch.cat([torch.randn(30, 8) * 0.1 + 4 * number for number in range(3)])
    plane = explaining.tsne_plane(codes)
    centres = np.stack([plane[30 * k : 30 * k + 30].mean(0) for k in range(3)])
    spread = max(plane[30 * k : 30 * k + 30].std() for k in range(3))
    apart = min(np.linalg.norm(centres[a] - centres[b]) for a, b in ((0, 1), (0, 2), (1, 2)))
    assert apart > 1.5 * spread
    labels = torch.arange(3).repeat_interleave(30)
    pictures = [explaining.tsne_picture(codes, labels, ("a", "b", "c")) for _ in range(2)]
    assert torch.equal(*pictures)
    with pytest.raises(UserError, match="t-SNE: expected at least 5 images, got 4"):
        explaining.tsne_plane(codes[:4])


def test_maps_of_one_pixel_are_stretched_together():
    found = explaining.stretched_together(torch.tensor([1.0, 3.0, 2.0])[:, None, None, None])
    assert found.flatten().tolist() == [-1, 1, 0] and found.shape == (3, 1, 1, 1)

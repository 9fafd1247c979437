"""The peers of `genlab bench step` among classifiers of pictures: torch's modules, torchvision's networks.

The order of their layers is that of the lab's (`copy_in_order`); ResNet and ViT have its parameters' names too.
"""

from __future__ import annotations

from torch import Tensor, nn


class PlainLeNet5(nn.Module):
    """LeNet-5 with each squashing function as a module of its own (`genlab.models.lenet` has the paper's differences).

    Args:
        image_shape: (C, H, W) of at least 28 px.
        num_classes: outputs.
    """

    def __init__(self, image_shape: tuple[int, int, int], num_classes: int) -> None:
        super().__init__()
        channels, *sides = image_shape
        padding = 2 if min(sides) < 32 else 0
        height, width = (((side + 2 * padding - 4) // 2 - 4) // 2 - 4 for side in sides)
        self.c1 = nn.Conv2d(channels, 6, 5, padding=padding)
        self.c3, self.c5 = nn.Conv2d(6, 16, 5), nn.Conv2d(16, 120, 5)
        self.f6, self.output = nn.Linear(120 * height * width, 84), nn.Linear(84, num_classes)
        self.squash, self.pool = nn.Tanh(), nn.AvgPool2d(2)

    def forward(self, images: Tensor) -> Tensor:
        """(N, C, H, W) to logits (N, num_classes)."""
        maps = self.pool(self.squash(self.c1(images)))
        maps = self.squash(self.c5(self.pool(self.squash(self.c3(maps)))))
        return self.output(self.squash(self.f6(maps.flatten(1))))


def build_resnet18(image_channels: int, num_classes: int) -> nn.Module:
    """torchvision's ResNet-18 with the usual stem for 32 px: 3x3 of stride 1, no pooling."""
    from torchvision.models import resnet18

    network = resnet18(num_classes=num_classes)
    network.conv1 = nn.Conv2d(image_channels, 64, 3, padding=1, bias=False)
    network.maxpool = nn.Identity()
    return network


def build_vit(size: int, num_classes: int, patch: int, depth: int, width: int, heads: int, mlp_width: int) -> nn.Module:
    """torchvision's Vision Transformer, whose blocks hold torch.nn.MultiheadAttention; RGB pictures of `size` px."""
    from torchvision.models import VisionTransformer

    return VisionTransformer(size, patch, depth, heads, width, mlp_width, num_classes=num_classes)

"""The peer of `genlab bench step`: DCGAN as it is usually written in plain torch.

Conv2d, BatchNorm2d and activations as modules of their own, contiguous tensors, eager mode, and the usual step: the
discriminator's gradients are computed in the generator's update too and thrown away by the next zero_grad.
"""

from __future__ import annotations

import itertools

import torch
from torch import Tensor, nn

STAGES_BY_SIZE = {28: 2, 32: 3, 64: 4, 128: 5}  # image size -> stages of stride 2


def build_generator(size: int, channels: int, latent_dim: int, base_channels: int) -> nn.Sequential:
    """(N, latent_dim, 1, 1) to (N, channels, size, size)."""
    widths = [base_channels * 2**depth for depth in range(STAGES_BY_SIZE[size])][::-1]
    side = size // 2 ** STAGES_BY_SIZE[size]
    layers: list[nn.Module] = [
        nn.ConvTranspose2d(latent_dim, widths[0], side, bias=False),
        nn.BatchNorm2d(widths[0]),
        nn.ReLU(inplace=True),
    ]
    for c_in, c_out in itertools.pairwise(widths):
        layers += [
            nn.ConvTranspose2d(c_in, c_out, 4, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(c_out),
            nn.ReLU(inplace=True),
        ]
    return nn.Sequential(*layers, nn.ConvTranspose2d(widths[-1], channels, 4, stride=2, padding=1), nn.Tanh())


def build_discriminator(size: int, channels: int, base_channels: int) -> nn.Sequential:
    """(N, channels, size, size) to logits (N, 1, 1, 1)."""
    widths = [base_channels * 2**depth for depth in range(STAGES_BY_SIZE[size])]
    layers: list[nn.Module] = [nn.Conv2d(channels, widths[0], 4, stride=2, padding=1), nn.LeakyReLU(0.2, inplace=True)]
    for c_in, c_out in itertools.pairwise(widths):
        layers += [
            nn.Conv2d(c_in, c_out, 4, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(c_out),
            nn.LeakyReLU(0.2, inplace=True),
        ]
    return nn.Sequential(*layers, nn.Conv2d(widths[-1], 1, size // 2 ** STAGES_BY_SIZE[size]))


def copy_in_order(source: nn.Module, target: nn.Module) -> None:
    """Copies every parameter and buffer by position: the same layers in the same order have other names.

    Raises:
        ValueError: the two do not have the same shapes in the same order.
    """
    ours, theirs = list(source.state_dict().values()), list(target.state_dict().values())
    if [value.shape for value in ours] != [value.shape for value in theirs]:
        raise ValueError("copy_in_order: expected networks of the same shapes in the same order")
    with torch.no_grad():
        for ours_value, theirs_value in zip(ours, theirs, strict=True):
            theirs_value.copy_(ours_value)


class PlainDcgan:
    """Both networks, both optimisers and the step."""

    def __init__(
        self, size: int, channels: int, latent_dim: int, base_channels: int, *, lr: float, betas: tuple[float, float],
        precision: str, device: torch.device,
    ) -> None:  # fmt: skip
        self.generator = build_generator(size, channels, latent_dim, base_channels).to(device)
        self.discriminator = build_discriminator(size, channels, base_channels).to(device)
        self.optimizer_g = torch.optim.Adam(self.generator.parameters(), lr=lr, betas=betas)
        self.optimizer_d = torch.optim.Adam(self.discriminator.parameters(), lr=lr, betas=betas)
        self.criterion = nn.BCEWithLogitsLoss()
        self.precision = precision
        self.device = device

    def autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16-mixed")

    def step(self, real: Tensor, z: Tensor) -> dict[str, Tensor]:
        """One update of each network on real images (N, C, H, W) and noise (N, latent_dim)."""
        ones, zeros = torch.ones(len(real), device=self.device), torch.zeros(len(real), device=self.device)
        self.discriminator.zero_grad()
        with self.autocast():
            real_logits = self.discriminator(real).flatten()
        loss_real = self.criterion(real_logits.float(), ones)
        loss_real.backward()
        with self.autocast():
            fake = self.generator(z[:, :, None, None])
            fake_logits = self.discriminator(fake.detach()).flatten()
        loss_fake = self.criterion(fake_logits.float(), zeros)
        loss_fake.backward()
        self.optimizer_d.step()

        self.generator.zero_grad()
        with self.autocast():
            logits = self.discriminator(fake).flatten()
        loss_g = self.criterion(logits.float(), ones)
        loss_g.backward()
        self.optimizer_g.step()
        return {"loss_d": (loss_real + loss_fake).detach(), "loss_g": loss_g.detach()}

"""A small DCGAN trained by native and by torch ops from one seed has the same losses, gradient penalty included."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from genlab import nn, ops


def train(impl: str, steps: int) -> list[float]:
    torch.manual_seed(0)
    generator = torch.nn.Sequential(
        nn.ConvTranspose2d(8, 16, 4, bias=False), nn.BatchNormAct2d(16, activation="relu"),
        nn.ConvTranspose2d(16, 8, 4, 2, 1, bias=False), nn.BatchNormAct2d(8, activation="relu"),
        nn.ConvTranspose2d(8, 1, 4, 2, 1, activation="tanh"),
    )  # fmt: skip
    discriminator = torch.nn.Sequential(
        nn.Conv2d(1, 8, 4, 2, 1, activation="leaky_relu"), nn.Conv2d(8, 16, 4, 2, 1, bias=False),
        nn.BatchNormAct2d(16, activation="leaky_relu"), nn.Conv2d(16, 1, 4),
    )  # fmt: skip
    for network in (generator, discriminator):
        nn.init.normal_init(network)
    optimizers = [torch.optim.SGD(network.parameters(), 0.05) for network in (generator, discriminator)]
    real = torch.rand(6, 1, 16, 16) * 2 - 1
    losses = []
    with ops.default_impl(impl):
        for _ in range(steps):
            fake = generator(torch.randn(6, 8, 1, 1))
            mixed = (real + fake.detach()).div(2).requires_grad_()
            (gradient,) = torch.autograd.grad(discriminator(mixed).sum(), mixed, create_graph=True)
            penalty = (gradient.flatten(1).norm(dim=1) - 1).pow(2).mean()
            loss_d = F.softplus(-discriminator(real)).mean() + F.softplus(discriminator(fake.detach())).mean() + penalty
            optimizers[1].zero_grad()
            loss_d.backward()
            optimizers[1].step()
            loss_g = F.softplus(-discriminator(fake)).mean()
            optimizers[0].zero_grad()
            loss_g.backward()
            optimizers[0].step()
            losses += [loss_d.item(), loss_g.item()]
    return losses


def test_native_and_torch_ops_train_alike():
    native, torch_ops = train("native", 30), train("torch", 30)
    torch.testing.assert_close(torch.tensor(native), torch.tensor(torch_ops), rtol=1e-4, atol=1e-6)
    assert native[-2] != native[0]

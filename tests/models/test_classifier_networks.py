"""Classifiers: torchvision's weights give torchvision's outputs; every network learns from its least picture."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torchvision import models as torchvision_models

from genlab.models import MODELS
from genlab.models.classifiers import CLASSIFIERS, ClassifierModelConfig, build_classifier
from genlab.models.context_net import ContextModule
from genlab.models.dense_classifier import DenseClassifier, PixelDropout
from genlab.models.googlenet import GoogLeNet
from genlab.models.lenet import LeNet5, MaxoutChannels, SmallCnn, convolution_layers
from genlab.models.mobilenet import MobileNet, MobileNetV2
from genlab.models.normalization import map_normalization, unit_normalization
from genlab.models.resnet import BasicBlock, ResNet
from genlab.models.vgg import VGG_LAYERS, AlexNet, Vgg
from genlab.nn.dropout import DROPOUTS

TWINS = {
    "alexnet": (lambda: AlexNet(3, 7), lambda: torchvision_models.alexnet(num_classes=7), 64),
    "vgg11": (lambda: Vgg(11, 3, 7), lambda: torchvision_models.vgg11(num_classes=7), 32),
    "vgg11_bn": (lambda: Vgg(11, 3, 7, batch_norm=True), lambda: torchvision_models.vgg11_bn(num_classes=7), 32),
    "googlenet": (
        lambda: GoogLeNet(3, 7, auxiliary=True),
        lambda: torchvision_models.googlenet(num_classes=7, init_weights=False, aux_logits=True),
        32,
    ),
    "resnet18": (lambda: ResNet(18, 3, 7), lambda: torchvision_models.resnet18(num_classes=7), 40),
    "resnet50": (lambda: ResNet(50, 3, 7), lambda: torchvision_models.resnet50(num_classes=7), 32),
    "resnext50_32x4d": (
        lambda: ResNet(50, 3, 7, groups=32, group_width=4),
        lambda: torchvision_models.resnext50_32x4d(num_classes=7),
        32,
    ),
    "mobilenet_v2": (lambda: MobileNetV2(3, 7), lambda: torchvision_models.mobilenet_v2(num_classes=7), 32),
}


def unlike_at_first(network: nn.Module) -> nn.Module:
    """Running statistics, scales and shifts as after a training: at their initial values they hide mistakes."""
    draws = torch.Generator().manual_seed(1)
    for name, value in [*network.named_buffers(), *network.named_parameters()]:
        if "running_mean" in name or (value.dim() == 1 and name.endswith("bias")):
            nn.init.normal_(value, 0, 0.1, generator=draws)
        elif "running_var" in name or (value.dim() == 1 and name.endswith("weight")):
            nn.init.uniform_(value, 0.6, 1.6, generator=draws)
    return network


@pytest.mark.parametrize("name", TWINS)
def test_torchvisions_weights_give_torchvisions_outputs(name):
    build, build_twin, side = TWINS[name]
    twin = unlike_at_first(build_twin()).eval()
    network = build().eval()
    network.load_state_dict(twin.state_dict())
    images = torch.randn(2, 3, side, side)
    with torch.no_grad():
        expected = twin(images)
        torch.testing.assert_close(network(images), expected, rtol=1e-4, atol=1e-4 * expected.abs().max().item())


@pytest.mark.parametrize(("depth", "small_names"), [(34, "resnet34"), (101, "resnet101"), (152, "resnet152")])
def test_deeper_residual_networks_have_torchvisions_parameters(depth, small_names):
    with torch.device("meta"):
        ours, theirs = ResNet(depth), getattr(torchvision_models, small_names)()
    assert [(k, v.shape) for k, v in ours.state_dict().items()] == [
        (k, v.shape) for k, v in theirs.state_dict().items()
    ]


@pytest.mark.parametrize("depth", VGG_LAYERS)
def test_vgg_has_as_many_layers_as_its_name_says(depth):
    with torch.device("meta"):
        ours, theirs = Vgg(depth), getattr(torchvision_models, f"vgg{depth}")()
    assert [(k, v.shape) for k, v in ours.state_dict().items()] == [
        (k, v.shape) for k, v in theirs.state_dict().items()
    ]
    assert sum(isinstance(module, (nn.Conv2d, nn.Linear)) for module in ours.modules()) == depth


QUICK = [
    name
    for name in CLASSIFIERS
    if name not in {"resnet101", "resnet152", "resnext101_32x8d", "vgg19", "vgg16", "vit_base", "vit_large"}
]


@pytest.mark.parametrize("name", QUICK)
def test_the_small_form_takes_its_least_picture_and_gives_every_parameter_a_gradient(name):
    side = max(CLASSIFIERS.get(name).least[1], 4)
    config = ClassifierModelConfig(network=name, form="small", width=0.25, auxiliary=True, patch=2)
    network = build_classifier((3, side, side), 5, config).train()
    outputs = network(torch.randn(4, 3, side, side))
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    assert all(logits.shape == (4, 5) for logits in outputs)
    sum(logits.logsumexp(1).sum() - logits[:, 0].sum() for logits in outputs).backward()
    without = [key for key, parameter in network.named_parameters() if parameter.grad is None]
    assert without == []


@pytest.mark.parametrize("name", [name for name in CLASSIFIERS if CLASSIFIERS.get(name).least[1] > 1])
def test_a_picture_smaller_than_the_field_allows_is_refused(name):
    least = CLASSIFIERS.get(name).least[1]
    with pytest.raises(ValueError, match=rf"expected pictures of at least {least} px.* got {least - 1}x40"):
        build_classifier((3, least - 1, 40), 5, ClassifierModelConfig(network=name, form="small"))


@pytest.mark.parametrize(("name", "least"), [("alexnet", 63), ("googlenet", 15)])
def test_the_large_forms_run_at_their_least_side_and_their_own_layers_refuse_less(name, least):
    config = ClassifierModelConfig(network=name, form="large")
    network = build_classifier((3, least, least), 5, config).eval()
    assert network(torch.zeros(1, 3, least, least)).shape == (1, 5)
    with pytest.raises(ValueError, match=f"at least {least} px"):
        build_classifier((3, least - 1, least), 5, config)
    if name == "alexnet":
        with pytest.raises((RuntimeError, ValueError)):
            network(torch.zeros(1, 3, least - 1, least - 1))


def test_auto_takes_the_small_form_below_64_px_only():
    sizes = {side: build_classifier((3, side, side), 5, ClassifierModelConfig(network="resnet18")) for side in (32, 64)}
    assert sizes[32].conv1.kernel_size == (3, 3)
    assert sizes[64].conv1.kernel_size == (7, 7)
    assert sizes[32].layer4(sizes[32].layer3(torch.zeros(1, 128, 16, 16))).shape[2:] == (4, 4)


def test_lenet_has_the_papers_sizes():
    network = LeNet5((1, 32, 32), 10)
    counts = {name: sum(p.numel() for p in layer.parameters()) for name, layer in network.features.named_children()}
    assert counts == {"0": 156, "1": 0, "2": 2416, "3": 0, "4": 48120}  # C3 with every connection: 2416, not 1516
    assert network.classifier[1].weight.shape == (84, 120)
    maps = torch.zeros(1, 1, 28, 28)
    sides = []
    for layer in LeNet5((1, 28, 28), 10).features:
        maps = layer(maps)
        sides.append(maps.shape[-1])
    assert sides == [28, 14, 10, 5, 1]


def weights_of(layers: list[nn.Module]) -> int:
    return sum(layer.weight.numel() for layer in layers if isinstance(layer, nn.Conv2d))


def test_factors_need_two_thirds_and_a_ninth_of_the_products():
    whole = weights_of(convolution_layers(96, 96, "plain"))
    assert weights_of(convolution_layers(96, 96, "factorized")) == whole * 2 // 3
    assert weights_of(convolution_layers(96, 96, "separable")) / whole == pytest.approx(1 / 9 + 1 / 96)
    for kind in ("plain", "factorized", "separable"):
        layers = nn.Sequential(*convolution_layers(3, 8, kind, stride=2))
        assert layers(torch.randn(2, 3, 9, 7)).shape == (2, 8, 5, 4)


@pytest.mark.parametrize(
    ("kind", "axes"), [("batch", (0, 3, 4)), ("layer", (1, 2, 3, 4)), ("instance", (3, 4)), ("group", (2, 3, 4))]
)
def test_each_normalisation_takes_its_statistics_where_its_paper_says(kind, axes):
    maps = torch.randn(3, 48, 5, 4) * 3 + 1
    layers = nn.Sequential(*map_normalization(kind, 48, None)).train()
    grouped = maps.unflatten(1, (16, 3) if kind in ("group", "layer") else (48, 1))  # 48 channels: 16 groups of 3
    mean, variance = grouped.mean(axes, keepdim=True), grouped.var(axes, unbiased=False, keepdim=True)
    expected = ((grouped - mean) / (variance + 1e-5).sqrt()).flatten(1, 2)
    torch.testing.assert_close(layers(maps), expected, rtol=1e-4, atol=1e-5)
    assert sum(parameter.numel() for parameter in layers.parameters()) == 96  # a scale and a shift for each channel
    active = nn.Sequential(*map_normalization(kind, 48, "relu")).train()
    torch.testing.assert_close(active(maps), expected.relu(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["batch", "layer", "instance", "group", "none"])
@pytest.mark.parametrize("convolution", ["plain", "factorized", "separable"])
def test_every_normalisation_and_maxout_reach_every_weight_of_the_small_cnn(kind, convolution):
    for activation in ("sigmoid", "maxout"):
        network = SmallCnn((1, 9, 9), 4, 8, convolution=convolution, normalization=kind, activation=activation)
        network(torch.randn(3, 1, 9, 9)).logsumexp(1).sum().backward()
        assert [name for name, parameter in network.named_parameters() if parameter.grad is None] == []


def test_normalisations_of_one_pixel_and_of_single_units_are_refused():
    SmallCnn((1, 9, 9), 4, 8, normalization="instance")
    with pytest.raises(ValueError, match="expected pictures of at least 9 px, got 8x8; .*another normalization"):
        SmallCnn((1, 8, 8), 4, 8, normalization="instance")
    with pytest.raises(ValueError, match="expected batch, layer, group or none .* got 'instance'"):
        unit_normalization("instance", 8, None)
    with pytest.raises(ValueError, match="maxout: expected normalization none, got batch"):
        DenseClassifier((1, 4, 4), 4, (8,), activation="maxout", normalization="batch")


def test_maxout_units_are_the_largest_of_their_pieces():
    network = DenseClassifier((1, 2, 2), 3, (5,), activation="maxout", pieces=4, dropout=0.0)
    images = torch.randn(7, 1, 2, 2)
    maps = images.flatten(1) @ network.classifier[1].linear.weight.T + network.classifier[1].linear.bias
    units = torch.stack([maps[:, 4 * unit : 4 * unit + 4].max(1).values for unit in range(5)], dim=1)
    torch.testing.assert_close(network(images), network.classifier[-1](units))
    channels = torch.arange(12.0).view(1, 6, 1, 2)
    assert MaxoutChannels(3)(channels).flatten().tolist() == [4, 5, 10, 11]


def test_pixels_that_are_left_out_are_black():
    pixels = torch.full((2000,), 0.5)
    seen = PixelDropout(0.25).train()(pixels)
    assert set(seen.tolist()) == {-1.0, 1.0}  # of intensities 0.75 / 0.75
    assert (seen == -1).float().mean().item() == pytest.approx(0.25, abs=0.05)
    assert torch.equal(PixelDropout(0.25).eval()(pixels), pixels)


def test_settings_that_a_network_does_not_have_are_told():
    def unused(**settings) -> list[str]:
        return ClassifierModelConfig(**settings).unused

    assert unused(network="lenet5", base_channels=8, dropout=0.5) == ["base_channels", "dropout"]
    assert unused(network="vgg11", squeeze=True, batch_norm=True) == ["squeeze"]
    assert unused(network="resnet18", squeeze=True, normalization="group", hidden=[3]) == ["hidden", "normalization"]
    assert unused(network="mlp", activation="maxout", hidden=[3], pieces=2) == []
    for name in CLASSIFIERS:
        assert unused(network=name) == []


def test_squeeze_and_excitation_scales_whole_channels_by_what_the_means_say():
    block = BasicBlock(16, 16, 1, 1, 64, True).eval()
    nn.init.zeros_(block.se.expand.weight)
    nn.init.constant_(block.se.expand.bias, -1e4)  # a gate of 0 leaves the shortcut alone
    images = torch.randn(2, 16, 5, 5)
    torch.testing.assert_close(block(images), images.relu())
    nn.init.constant_(block.se.expand.bias, 1e4)  # and one of 1 the plain block
    block.se, block.bn2.activation = None, "relu"
    plain = block(images)
    with_gate = BasicBlock(16, 16, 1, 1, 64, True).eval()
    with_gate.load_state_dict({**with_gate.state_dict(), **block.state_dict()})
    nn.init.zeros_(with_gate.se.expand.weight)
    nn.init.constant_(with_gate.se.expand.bias, 1e4)
    torch.testing.assert_close(with_gate(images), plain)


def test_the_context_module_begins_as_the_identity_and_sees_67_pixels():
    module = ContextModule(3)
    maps = torch.rand(1, 3, 70, 70)
    torch.testing.assert_close(module(maps), maps)
    for layer in module.layers:
        nn.init.ones_(layer.weight)
    far = torch.zeros(1, 3, 141, 141)
    far[0, 0, 70, 70] = 1
    reached = module(far)[0, 0].nonzero()
    assert (reached.amax(0) - reached.amin(0) + 1).tolist() == [67, 67]


def test_grouped_residual_networks_below_50_layers_are_refused():
    with pytest.raises(ValueError, match="expected groups only in networks of bottleneck blocks"):
        ResNet(18, groups=32, group_width=4)


@pytest.mark.parametrize("kind", ["dropout", "spatial", "gaussian", "annealed", "drop_connect", "max_pool"])
def test_every_kind_of_dropout_finds_its_place_and_keeps_the_weights_names(kind):
    plain = build_classifier((3, 32, 32), 4, ClassifierModelConfig(network="alexnet"))
    other = build_classifier((3, 32, 32), 4, ClassifierModelConfig(network="alexnet", dropout_kind=kind, dropout=0.3))
    other.load_state_dict(plain.state_dict())
    rates = [module.p for module in other.modules() if isinstance(module, DROPOUTS)]
    assert len(rates) == (3 if kind in ("max_pool", "spatial") else 2)
    assert set(rates) == {0.3}
    images = torch.randn(2, 3, 32, 32)
    other.train()
    assert not torch.equal(other(images), other(images))
    if kind != "max_pool":  # which pools by weights at test
        torch.testing.assert_close(other.eval()(images), plain.eval()(images))


def test_a_network_without_a_place_for_dropout_says_so():
    with pytest.raises(ValueError, match="expected a network with dropout, .* got one without a place for 'gaussian'"):
        build_classifier((1, 28, 28), 4, ClassifierModelConfig(network="lenet5", dropout_kind="gaussian"))


def test_all_units_of_a_constant_start_stay_alike():
    network = build_classifier((1, 28, 28), 4, ClassifierModelConfig(network="lenet5", init="constant"))
    images, labels = torch.randn(8, 1, 28, 28), torch.arange(8) % 4
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(network(images), labels).backward()
        optimizer.step()
    weights = network.features[2].weight
    torch.testing.assert_close(weights, weights[:1].expand_as(weights))


def test_the_networks_are_listed():
    kinds = {LeNet5, SmallCnn, AlexNet, Vgg, GoogLeNet, ResNet, MobileNet, MobileNetV2}
    assert kinds <= {MODELS.get(name) for name in MODELS}

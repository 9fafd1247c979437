"""The captioner: attention is the paper's, the hard one's gradient is unbiased, and decoding is what training sees."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from genlab.attention_losses import attention_entropy, doubly_stochastic, reinforced
from genlab.models.beam_search import beam_search, greedy_search
from genlab.models.captioning import Captioner, Draws, VisualAttention, draw_places
from genlab.models.captioning_encoder import ImageEncoder
from genlab.models.classifiers import CLASSIFIERS, ClassifierModelConfig, build_classifier

BEGIN, END = 2, 3


def encoder(grid: int = 4, **settings: object) -> ImageEncoder:
    small = {"network": "small_cnn", "base_channels": 4, "stages": 2, "dropout": 0.0, **settings}
    return ImageEncoder((3, 16, 16), ClassifierModelConfig(**small), grid)


def captioner(attention: str = "soft", grid: int = 4, **settings: object) -> Captioner:
    sizes = {"embedding": 6, "hidden": 8, "attention_size": 5, **settings}
    network = Captioner(encoder(grid), 9, attention=attention, **sizes)
    for parameter in network.parameters():
        parameter.data.mul_(2)  # far enough from zero that weights are not all alike
    return network


def pictures(count: int = 3) -> torch.Tensor:
    return torch.rand(count, 3, 16, 16) * 2 - 1


BEFORE = torch.tensor([[2, 4, 5, 6], [2, 8, 8, 3], [2, 7, 4, 3]])


def test_weights_are_softmax_of_the_papers_mlp():
    attention = VisualAttention(7, 5, 4)
    maps, hidden = torch.randn(2, 6, 7), torch.randn(2, 5)
    weights = attention(hidden, attention.key(maps))
    torch.testing.assert_close(weights.sum(1), torch.ones(2))
    w, b, u = attention.key.weight, attention.key.bias, attention.query.weight
    v = attention.score.weight[0]
    for n in range(2):
        scores = torch.stack([v @ torch.tanh(w @ maps[n, i] + b + u @ hidden[n]) for i in range(6)])
        torch.testing.assert_close(weights[n], scores.exp() / scores.exp().sum())


@pytest.mark.parametrize("kind", ["soft", "hard", "none"])
def test_a_pass_is_the_papers_equations(kind):
    """Word by word with torch's own LSTM cell: initial state, attention, gate and deep output layer."""
    network = captioner(kind, glimpse="argmax").eval()
    images = pictures()
    reading = network(images, BEFORE)
    a = network.encoder.layers(images).flatten(2).transpose(1, 2)
    h, c = network.first_hidden(a.mean(1)), network.first_cell(a.mean(1))
    cell = nn.LSTMCell(6 + a.shape[2], 8)
    cell.load_state_dict({name.removesuffix("_l0"): value for name, value in network.decoder.state_dict().items()})
    for t in range(BEFORE.shape[1]):
        word, beta = network.words(BEFORE[:, t]), torch.sigmoid(network.gate(h))
        if kind == "none":
            z = a.mean(1)
        else:
            scores = network.attention.score(torch.tanh(network.attention.key(a) + network.attention.query(h)[:, None]))
            alpha = scores[..., 0].softmax(1)
            torch.testing.assert_close(reading.weights[:, t], alpha)
            z = (alpha[..., None] * a).sum(1) if kind == "soft" else a[torch.arange(3), alpha.argmax(1)]
        z = beta * z
        h, c = cell(torch.cat([word, z], 1), (h, c))
        logits = network.output(word + network.of_hidden(h) + network.of_context(z))
        torch.testing.assert_close(reading.logits[:, t], logits, rtol=1e-4, atol=1e-5)
    assert (reading.weights is None) == (kind == "none")
    assert reading.log_chosen is None


def test_places_are_drawn_as_often_as_their_weights_say():
    weights = torch.tensor([[0.1, 0.0, 0.6, 0.3]]).expand(20_000, -1)
    counts = torch.bincount(draw_places(weights, torch.rand(20_000)), minlength=4) / 20_000
    torch.testing.assert_close(counts, weights[0], atol=0.012, rtol=0)
    assert counts[1] == 0
    edges = draw_places(torch.tensor([[0.5, 0.5]] * 3), torch.tensor([0.0, 0.5, 1 - 2**-24]))
    assert edges.tolist() == [0, 1, 1]


def test_soft_attention_is_what_hard_attention_has_in_expectation_for_one_word():
    network = captioner("hard", glimpse="expected").eval()
    images, before = pictures(), BEFORE[:, :1]
    expected = torch.ones(3, dtype=torch.bool)
    drawn = network(images, before, Draws(torch.rand(3, 1), expected))
    torch.testing.assert_close(drawn.logits, network(images, before).logits)
    assert drawn.log_chosen.eq(0).all()


def test_the_gradient_by_reinforce_is_unbiased_against_all_paths_of_attention():
    """Its mean over all draws is the gradient of sum_s p(s | a) log p(y | s, a) (equation 10), for any baseline."""
    network = captioner("hard", grid=4, gate=False).double().eval()
    network.encoder.requires_grad_(False)
    paths = torch.cartesian_prod(*[torch.arange(network.encoder.rows * network.encoder.columns)] * 2)
    images = pictures(1).double().expand(len(paths), -1, -1, -1)
    before, target = (torch.tensor([row]).expand(len(paths), -1) for row in ([2, 4], [4, 5]))
    never, inside = torch.zeros(len(paths), dtype=torch.bool), torch.ones(len(paths), 2, dtype=torch.bool)
    weights = [p for p in network.parameters() if p.requires_grad]

    def gradient(value: torch.Tensor) -> torch.Tensor:
        found = torch.autograd.grad(value, weights, allow_unused=True, materialize_grads=True, retain_graph=True)
        return torch.cat([part.flatten() for part in found])

    uniform = torch.zeros(len(paths), 2, dtype=torch.float64)
    for t in range(2):  # a uniform number in the middle of the interval of the place that a path has at t
        alpha = network(images, before, Draws(uniform, never)).weights[:, t].detach().double()
        own = alpha.gather(1, paths[:, t : t + 1])[:, 0]
        uniform[:, t] = alpha.cumsum(1).gather(1, paths[:, t : t + 1])[:, 0] - own / 2
    reading = network(images, before, Draws(uniform, never))
    torch.testing.assert_close(reading.log_chosen, reading.weights.gather(2, paths[:, :, None])[:, :, 0].log())
    log_likelihood = reading.logits.log_softmax(2).gather(2, target[:, :, None])[:, :, 0].sum(1)
    p = reading.log_chosen.sum(1).exp()
    assert p.sum().item() == pytest.approx(1, rel=1e-5)

    wanted = gradient((p * log_likelihood).sum())
    for baseline in (0.0, -7.5):
        lesson = reinforced(reading.log_chosen, inside, log_likelihood, torch.tensor(baseline))
        torch.testing.assert_close(
            gradient((p.detach() * (log_likelihood + lesson)).sum()), wanted, rtol=1e-4, atol=1e-6
        )
    plain = gradient((p.detach() * log_likelihood).sum())
    assert (plain - wanted).norm() > 1e-3 * wanted.norm()  # without the second term it would be another gradient


def test_the_doubly_stochastic_term_and_the_entropy_are_sums_over_words_that_are_no_padding():
    weights = torch.tensor([[[0.7, 0.2, 0.1], [0.5, 0.25, 0.25], [0.0, 0.0, 1.0]]])
    inside = torch.tensor([[True, True, False]])
    expected = (1 - 1.2) ** 2 + (1 - 0.45) ** 2 + (1 - 0.35) ** 2
    assert doubly_stochastic(weights, inside).tolist() == pytest.approx([expected])
    entropies = torch.distributions.Categorical(weights[0]).entropy()
    assert attention_entropy(weights, inside).tolist() == pytest.approx([float(entropies[:2].sum())])
    even = torch.full((1, 3, 3), 1 / 3)
    assert doubly_stochastic(even, torch.ones(1, 3, dtype=torch.bool)).tolist() == pytest.approx([0.0], abs=1e-6)


@pytest.mark.parametrize("kind", ["soft", "hard", "none"])
def test_decoding_word_by_word_gives_what_training_sees(kind):
    network = captioner(kind).eval()
    images = pictures()
    with torch.no_grad():
        whole, state = network(images, BEFORE).logits, network.begin(images)
        for t in range(BEFORE.shape[1]):
            logits, state = network.step(BEFORE[:, t], state)
            torch.testing.assert_close(logits, whole[:, t], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["soft", "hard", "none"])
def test_one_beam_is_the_greedy_choice_and_more_find_no_less_likely_captions(kind):
    network, images = captioner(kind).eval(), pictures(6)
    lengths = torch.ones(6, dtype=torch.int64)

    def likelihood(row: list[int], image: torch.Tensor) -> float:
        said = torch.tensor([[*row, END]])[:, :7]
        before = torch.cat([torch.tensor([[BEGIN]]), said[:, :-1]], 1)
        return float(network(image[None], before).logits.log_softmax(2).gather(2, said[:, :, None]).sum())

    with torch.no_grad():
        greedy = greedy_search(network, images, lengths, BEGIN, END, 7)
        assert beam_search(network, images, lengths, BEGIN, END, beam=1, longest=7, alpha=0.0) == greedy
        wide = beam_search(network, images, lengths, BEGIN, END, beam=20, longest=7, alpha=0.0)
        for image, one, many in zip(images, greedy, wide, strict=True):
            assert likelihood(many, image) >= likelihood(one, image) - 1e-4


def test_padding_does_not_change_what_is_read():
    network, images = captioner().eval(), pictures()
    padded = torch.cat([BEFORE, torch.zeros(3, 2, dtype=torch.int64)], 1)
    torch.testing.assert_close(network(images, padded).logits[:, :4], network(images, BEFORE).logits)


NETWORKS = ["lenet5", "small_cnn", "alexnet", "vgg11", "googlenet", "resnet18", "resnet50", "mobilenet", "mobilenet_v2",
            "context", "vit_cifar"]  # fmt: skip


@pytest.mark.parametrize("name", NETWORKS)
def test_any_classifier_sees_for_the_captioner(name):
    """Its places are the map of the classifier itself, and its head's weights are left out."""
    config = ClassifierModelConfig(network=name, width=0.25, base_channels=8, depth=1)
    part = ImageEncoder((3, 32, 32), config, 4).eval()
    classifier = build_classifier((3, 32, 32), 1, config).eval()
    size = sum(p.numel() for p in classifier.parameters())
    part.load_classifier(classifier)
    images = torch.rand(2, 3, 32, 32)
    found = part(images)
    assert found.shape == (2, part.rows * part.columns, part.channels)
    assert min(part.rows, part.columns) >= 4
    last = [module for module in classifier.modules() if type(module) is type(part.layers[-1])]
    seen: list[torch.Tensor] = []
    hooks = [module.register_forward_hook(lambda m, i, output: seen.append(output)) for module in last]
    if name != "vit_cifar":  # whose map is made of tokens, tested below
        classifier(images)
        maps = [output.flatten(2).transpose(1, 2) for output in seen if output.dim() == 4]
        assert any(m.shape == found.shape and torch.equal(m, found) for m in maps)
    for hook in hooks:
        hook.remove()
    assert sum(p.numel() for p in part.parameters()) < size


def test_a_transformers_places_are_its_patches():
    config = ClassifierModelConfig(network="vit_cifar", depth=1, patch=8)
    part = ImageEncoder((3, 32, 32), config, 4).eval()
    images = torch.rand(1, 3, 32, 32)
    changed = images.clone()
    changed[:, :, 8:16, 24:32] = 0  # row 1, column 3
    moved = (part(images) - part(changed)).abs().sum(2)[0]
    assert int(moved.argmax()) == 1 * 4 + 3


def test_a_finer_grid_takes_an_earlier_map_and_one_that_is_too_fine_is_refused():
    depths = [encoder(grid).rows for grid in (1, 4, 5, 8, 16)]
    assert depths == [4, 4, 8, 8, 16]
    with pytest.raises(ValueError, match="expected a map of at least 17 places a side, got 16 at most from 16x16 px"):
        encoder(17)


def test_a_frozen_encoder_keeps_weights_and_batch_statistics():
    config = ClassifierModelConfig(network="small_cnn", base_channels=4, stages=2)
    network = Captioner(ImageEncoder((3, 16, 16), config, 4, frozen=True), 9, 6, 8, 5)
    before = {name: value.clone() for name, value in network.encoder.state_dict().items()}
    network.train()
    network(pictures(), BEFORE).logits.sum().backward()
    assert all(torch.equal(value, before[name]) for name, value in network.encoder.state_dict().items())
    assert all(parameter.grad is None for parameter in network.encoder.parameters())
    assert network.words.weight.grad is not None
    assert not network.encoder.training and network.decoder.training


def test_every_kind_of_classifier_is_among_those_tested():
    families = {name.rstrip("0123456789").split("_")[0].rstrip("0123456789") for name in CLASSIFIERS.names()}
    tested = {name.rstrip("0123456789").split("_")[0].rstrip("0123456789") for name in NETWORKS}
    assert families - tested == {"resnext", "mlp"}, "a resnet with groups, and dense layers, which have no places"

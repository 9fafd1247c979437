"""Language models: nothing sees what comes after, pieces are read like the whole, sampling is as asked."""

from __future__ import annotations

import pytest
import torch

from genlab.errors import UserError
from genlab.models.language_models import CausalTransformer, FeedForwardLanguageModel, RecurrentLanguageModel
from genlab.models.transformer import Attention, Block, sinusoids
from genlab.text_sampling import Sampling, generate_tokens

VOCABULARY = 11


def model(name: str) -> torch.nn.Module:
    made = {
        "rnn": lambda: RecurrentLanguageModel(VOCABULARY, 6, "rnn", 7, 2),
        "lstm": lambda: RecurrentLanguageModel(VOCABULARY, 7, "lstm", 7, 2, tie=True),
        "gru": lambda: RecurrentLanguageModel(VOCABULARY, 6, "gru", 7, 1),
        "feedforward": lambda: FeedForwardLanguageModel(VOCABULARY, 6, 4, 9),
        "transformer": lambda: CausalTransformer(VOCABULARY, 8, 2, 2, positions=16),
    }
    network = made[name]().eval()
    with torch.no_grad():  # larger than at the start, so that a wrong mask shows
        for parameter in network.parameters():
            parameter.mul_(3)
    return network


NAMES = ("rnn", "lstm", "gru", "feedforward", "transformer")


@pytest.mark.parametrize("name", NAMES)
def test_a_text_read_in_pieces_has_the_logits_of_the_text_read_at_once(name):
    net, tokens = model(name), torch.randint(VOCABULARY, (3, 12))
    start = net.start(3, tokens.device)
    whole, _ = net(tokens, start)
    state, parts = start, []
    for piece in tokens.split([5, 1, 1, 4, 1], 1):
        logits, state = net(piece, state)
        parts.append(logits)
    torch.testing.assert_close(torch.cat(parts, 1), whole, rtol=1e-4, atol=1e-5)


def test_the_cached_transformer_equals_the_uncached_one():
    net, tokens = model("transformer"), torch.randint(VOCABULARY, (2, 9))
    uncached, nothing = net(tokens)
    cached, state = net(tokens, net.start(2, tokens.device))
    assert nothing == () and state[0].shape == (2, 2, 2, 9, 4)
    torch.testing.assert_close(cached, uncached, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_nothing_sees_what_comes_after(name):
    net, tokens = model(name), torch.randint(VOCABULARY, (1, 10))
    other = tokens.clone()
    other[0, 6] = (other[0, 6] + 1) % VOCABULARY
    first, second = (net(text, net.start(1, text.device))[0] for text in (tokens, other))
    assert torch.equal(first[:, :6], second[:, :6])
    assert (first[:, 6] - second[:, 6]).abs().max() > 1e-4


def test_the_feedforward_model_sees_its_context_and_no_more():
    net, tokens = model("feedforward"), torch.randint(VOCABULARY, (1, 8))
    other = tokens.clone()
    other[0, 3] = (other[0, 3] + 1) % VOCABULARY
    first, second = (net(text, net.start(1, text.device))[0] for text in (tokens, other))
    moved = (first - second).abs().amax(2)[0] > 1e-6
    assert moved.tolist() == [False] * 3 + [True] * 4 + [False]


def test_bengios_model_is_his_equation():
    net, words = model("feedforward"), torch.randint(VOCABULARY, (1, 4))
    x = net.embedding(words).flatten()
    expected = (
        net.output.bias
        + net.direct.weight @ x
        + net.output.weight @ torch.tanh(net.hidden.weight @ x + net.hidden.bias)
    )
    torch.testing.assert_close(net(words, net.start(1, words.device))[0][0, -1], expected)


def test_tied_rows_are_one_parameter():
    net = RecurrentLanguageModel(5, 4, hidden=4, tie=True)
    assert net.output.weight is net.embedding.weight
    with pytest.raises(ValueError, match="expected hidden = embedding, got 3 and 4"):
        RecurrentLanguageModel(5, 4, hidden=3, tie=True)


def test_a_text_longer_than_the_places_is_refused_with_both_lengths():
    net = model("transformer")
    with pytest.raises(ValueError, match="expected at most 16 tokens, the places that the model has, got 17"):
        net(torch.zeros(1, 17, dtype=torch.int64))
    _, state = net(torch.zeros(1, 10, dtype=torch.int64), net.start(1, torch.device("cpu")))
    with pytest.raises(ValueError, match="got 17"):
        net(torch.zeros(1, 7, dtype=torch.int64), state)


def test_places_are_the_papers_sines_and_cosines():
    table = sinusoids(50, 8)
    for place, dim in ((3, 0), (7, 2), (49, 6)):
        angle = torch.tensor(place / 10_000 ** (dim / 8), dtype=torch.float64)
        assert table[place, dim].item() == pytest.approx(angle.sin().item(), abs=1e-6)
        assert table[place, dim + 1].item() == pytest.approx(angle.cos().item(), abs=1e-6)


def test_attention_is_torchs_and_its_weights_sum_to_one():
    ours, twin = Attention(8, 2), torch.nn.MultiheadAttention(8, 2, batch_first=True)
    with torch.no_grad():
        twin.in_proj_weight.copy_(torch.cat([ours.query.weight, ours.key.weight, ours.value.weight]))
        twin.in_proj_bias.copy_(torch.cat([ours.query.bias, ours.key.bias, ours.value.bias]))
        twin.out_proj.load_state_dict(ours.out.state_dict())
    source, mask = torch.randn(3, 5, 8), torch.rand(3, 1, 1, 5) < 0.7
    mask[..., 0] = True
    mixed = ours(source, ours.project(source), mask)
    expected, weights = twin(source, source, source, key_padding_mask=~mask[:, 0, 0], average_attn_weights=False)
    torch.testing.assert_close(mixed, expected)
    torch.testing.assert_close(ours.weights(source, ours.project(source), mask), weights)


@pytest.mark.parametrize("pre_norm", [False, True])
def test_a_block_is_torchs_layer(pre_norm):
    ours = Block(8, 2, 16, pre_norm=pre_norm)
    twin = torch.nn.TransformerEncoderLayer(8, 2, 16, 0.0, batch_first=True, norm_first=pre_norm)
    with torch.no_grad():
        a = ours.attention
        twin.self_attn.in_proj_weight.copy_(torch.cat([a.query.weight, a.key.weight, a.value.weight]))
        twin.self_attn.in_proj_bias.copy_(torch.cat([a.query.bias, a.key.bias, a.value.bias]))
        twin.self_attn.out_proj.load_state_dict(a.out.state_dict())
        twin.linear1.load_state_dict(ours.enter.state_dict())
        twin.linear2.load_state_dict(ours.leave.state_dict())
    source = torch.randn(2, 6, 8)
    torch.testing.assert_close(ours(source)[0], twin(source), rtol=1e-4, atol=1e-5)


LOGITS = torch.tensor([[2.0, 1.0, 0.0, -1.0]])


def test_temperature_flattens_and_zero_takes_the_likeliest():
    torch.testing.assert_close(Sampling(2.0).probabilities(LOGITS), (LOGITS.double() / 2).softmax(1))
    assert Sampling(0).probabilities(LOGITS).tolist() == [[1, 0, 0, 0]]


def test_top_k_and_top_p_cut_the_tail_and_share_it_out():
    shares = LOGITS.double().softmax(1)[0]
    top = Sampling(top_k=2).probabilities(LOGITS)[0]
    torch.testing.assert_close(top[:2], shares[:2] / shares[:2].sum())
    assert not top[2:].any()
    for p, kept in ((0.5, 1), (float(shares[0]) + 0.01, 2), (0.999999, 4), (1.0, 4)):
        assert int((Sampling(top_p=p).probabilities(LOGITS) > 0).sum()) == kept


@pytest.mark.parametrize(("settings", "message"), [
    ({"temperature": -1.0}, "temperature: expected a number of at least 0"),
    ({"temperature": float("nan")}, "temperature"),
    ({"top_k": 0}, "top-k: expected at least 1, got 0"),
    ({"top_p": 0.0}, "top-p: expected above 0 and at most 1"),
    ({"top_p": 1.5}, "top-p"),
])  # fmt: skip
def test_sampling_that_makes_no_sense_is_refused(settings, message):
    with pytest.raises(UserError, match=message):
        Sampling(**settings)


@pytest.mark.parametrize("name", NAMES)
def test_texts_are_drawn_from_the_generator_alone_and_the_likeliest_is_the_uncached_argmax(name):
    net, prompt = model(name), torch.randint(VOCABULARY, (2, 3))
    with torch.no_grad():
        first, again, other = (
            generate_tokens(net, prompt, 9, Sampling(), torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)
        )
        assert torch.equal(first, again) and not torch.equal(first, other)
        greedy = generate_tokens(net, prompt, 9, Sampling(0), torch.Generator())
        text = prompt
        for step in range(9):
            logits, _ = net(text, net.start(2, text.device))
            assert torch.equal(greedy[:, step], logits[:, -1].argmax(1))
            text = torch.cat([text, greedy[:, step : step + 1]], 1)
        assert not (generate_tokens(net, prompt, 30, Sampling(5.0), torch.Generator(), [4, 5]) == 4).any()


def test_a_transformer_writes_on_when_its_places_are_full():
    with torch.no_grad():
        made = generate_tokens(
            model("transformer"), torch.zeros(1, 16, dtype=torch.int64), 40, Sampling(), torch.Generator()
        )
    assert made.shape == (1, 40)


def test_one_product_gives_the_queries_keys_and_values_that_three_give():
    torch.manual_seed(0)
    attention = Attention(8, 2).double()
    for length in (1, 5):  # a step of decoding takes them one by one
        source = torch.randn(3, length, 8, dtype=torch.float64, requires_grad=True)
        query, pair = attention.project_itself(source)
        torch.testing.assert_close(query, attention._split(attention.query(source)), rtol=1e-12, atol=1e-14)
        for found, expected in zip(pair, attention.project(source), strict=True):
            torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-14)
        joined = torch.autograd.grad(attention.mix(query, pair).sum(), [source, attention.key.weight])
        apart = torch.autograd.grad(attention(source, attention.project(source)).sum(), [source, attention.key.weight])
        torch.testing.assert_close(joined, apart, rtol=1e-10, atol=1e-12)

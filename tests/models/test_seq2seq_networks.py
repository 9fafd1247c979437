"""Sequence to sequence: decoding by steps is training's forward pass, padding changes nothing, beams find the best."""

from __future__ import annotations

import itertools

import pytest
import torch

from genlab.models.beam_search import beam_search, greedy_search, length_penalty
from genlab.models.seq2seq import AttentionScore, RecurrentSeq2Seq, TransformerSeq2Seq

VOCABULARY, BEGIN, END = 9, 1, 2
NAMES = ("dot", "additive", "none", "transformer")


def model(name: str, vocabulary: int = VOCABULARY) -> torch.nn.Module:
    if name == "transformer":
        network = TransformerSeq2Seq(7, vocabulary, 8, 2, 2, positions=24, dropout=0.0)
    else:
        network = RecurrentSeq2Seq(7, vocabulary, 6, 8, 2, attention=name)
    with torch.no_grad():  # larger than at the start, so that choices are clear
        for parameter in network.parameters():
            parameter.mul_(1.7)
    return network.eval()


def batch() -> tuple[torch.Tensor, torch.Tensor]:
    source = torch.randint(1, 7, (3, 6))
    lengths = torch.tensor([6, 3, 1])
    return source * (torch.arange(6) < lengths[:, None]), lengths


@pytest.mark.parametrize("name", NAMES)
def test_decoding_step_by_step_gives_the_logits_of_training(name):
    net, (source, lengths) = model(name), batch()
    target = torch.randint(VOCABULARY, (3, 5))
    whole, state, parts = net(source, lengths, target), net.begin(source, lengths), []
    for token in target.T:
        logits, state = net.step(token, state)
        parts.append(logits)
    torch.testing.assert_close(torch.stack(parts, 1), whole, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_padding_and_the_rest_of_the_batch_change_nothing(name):
    net, (source, lengths) = model(name), batch()
    target = torch.randint(VOCABULARY, (3, 4))
    together = net(torch.nn.functional.pad(source, (0, 3)), lengths, target)
    for row, length in enumerate(lengths.tolist()):
        alone = net(source[row : row + 1, :length], lengths[row : row + 1], target[row : row + 1])
        torch.testing.assert_close(together[row], alone[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_one_beam_is_the_greedy_choice(name):
    net, (source, lengths) = model(name), batch()
    with torch.no_grad():
        for alpha in (0.0, 0.6, 1.0):
            found = beam_search(net, source, lengths, BEGIN, END, beam=1, longest=12, alpha=alpha)
            assert found == greedy_search(net, source, lengths, BEGIN, END, 12)


@pytest.mark.parametrize("name", ["dot", "transformer"])
def test_a_wide_beam_finds_the_best_of_all_sequences(name):
    """4 tokens, at most 3 of them: all hypotheses can be counted out."""
    net, (source, lengths) = model(name, vocabulary=4), batch()
    with torch.no_grad():
        found = beam_search(net, source, lengths, BEGIN, END, beam=40, longest=3, alpha=0.6)
        for row in range(3):
            scored = {}
            for size in range(4):
                for text in itertools.product((0, 1, 3), repeat=size):
                    ended = [*text, END] if size < 3 else list(text)
                    given = torch.tensor([[BEGIN, *ended[:-1]]])
                    logs = net(source[row : row + 1], lengths[row : row + 1], given)[0].log_softmax(1)
                    total = sum(float(logs[i, token]) for i, token in enumerate(ended))
                    scored[text] = total / length_penalty(len(ended), 0.6)
            assert tuple(found[row]) == max(scored, key=scored.get)


def test_a_sentence_is_decoded_alike_in_any_batch():
    net, (source, lengths) = model("transformer"), batch()
    with torch.no_grad():
        together = beam_search(net, source, lengths, BEGIN, END, beam=3, longest=10)
        for row, length in enumerate(lengths.tolist()):
            (alone,) = beam_search(
                net, source[row : row + 1, :length], lengths[row : row + 1], BEGIN, END, beam=3, longest=10
            )
            assert alone == together[row]


@pytest.mark.parametrize("name", ["dot", "additive", "transformer"])
def test_attention_sums_to_one_over_the_source_and_sees_no_padding(name):
    net, (source, lengths) = model(name), batch()
    weights = net.attention_map(source, lengths, torch.randint(VOCABULARY, (3, 4)))
    assert weights.shape == (3, 4, 6)
    torch.testing.assert_close(weights.sum(2), torch.ones(3, 4))
    assert not weights[1, :, 3:].any() and not weights[2, :, 1:].any()


def test_the_scores_are_luongs_and_bahdanaus():
    states, memory, inside = torch.randn(1, 2, 4), torch.randn(1, 3, 4), torch.ones(1, 3, dtype=torch.bool)
    dot, additive = AttentionScore("dot", 4), AttentionScore("additive", 4)
    for t, s in itertools.product(range(2), range(3)):
        expected = (states[0, t] @ memory[0].T).softmax(0)[s]
        torch.testing.assert_close(dot(states, memory, inside)[0, t, s], expected)
        each = torch.stack([additive.score((additive.query(states[0, t]) + additive.key(m)).tanh()) for m in memory[0]])
        torch.testing.assert_close(additive(states, memory, inside)[0, t, s], each[:, 0].softmax(0)[s])


def test_without_attention_there_is_no_map_and_the_first_state_holds_the_source():
    net, (source, lengths) = model("none"), batch()
    assert net.attention_map(source, lengths, torch.zeros(3, 2, dtype=torch.int64)) is None
    hidden = net.begin(source, lengths)[0]
    other = source.clone()
    other[0, 0] = other[0, 0] % 6 + 1
    assert (net.begin(other, lengths)[0][0] - hidden[0]).abs().max() > 1e-4


def test_a_sentence_longer_than_the_places_is_refused():
    net = model("transformer")
    with pytest.raises(ValueError, match="sentence: expected at most 24 tokens, the places that the model has, got 25"):
        net.begin(torch.ones(1, 25, dtype=torch.int64), torch.tensor([25]))

"""Networks on sentences: logits do not depend on the padding, and the parts are what the papers say."""

from __future__ import annotations

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from genlab.models.recurrences import build_recurrent, rows_state, run_recurrent, state_rows, zero_state
from genlab.models.recurrent import RecurrentClassifier
from genlab.models.sentence_cnn import TextCnn, TimeDelayNetwork
from genlab.models.transformer import TransformerClassifier
from genlab.models.word_embedding import CHANNELS, WordEmbedding
from genlab.word_vectors import WordVectors

VOCABULARY, CLASSES = 20, 3


def network(name: str) -> torch.nn.Module:
    embedding = WordEmbedding(VOCABULARY, 6, padding=0)
    made = {
        "text_cnn": lambda: TextCnn(embedding, CLASSES, (2, 3, 4), 5),
        "tdnn": lambda: TimeDelayNetwork(embedding, CLASSES, (8, 7), (3, 3), (1, 2)),
        "rnn": lambda: RecurrentClassifier(embedding, CLASSES, "rnn", 5, 2, pooling="last"),
        "lstm": lambda: RecurrentClassifier(embedding, CLASSES, "lstm", 5, 2, pooling="max"),
        "gru": lambda: RecurrentClassifier(embedding, CLASSES, "gru", 5, 1, bidirectional=False, pooling="mean"),
    }
    if name == "transformer":
        return TransformerClassifier(embedding, CLASSES, 2, 2, 12, positions=20).eval()
    return made[name]().eval()


NAMES = ("text_cnn", "tdnn", "rnn", "lstm", "gru", "transformer")


@pytest.mark.parametrize("name", NAMES)
def test_logits_do_not_depend_on_the_padding_or_the_rest_of_the_batch(name):
    net, lengths = network(name), torch.tensor([1, 4, 9])
    tokens = torch.zeros(3, 9, dtype=torch.int64)
    for row, length in enumerate(lengths):
        tokens[row, :length] = torch.randint(1, VOCABULARY, (int(length),))
    together = net(tokens, lengths)
    alone = torch.cat([net(tokens[i : i + 1, : int(n)], lengths[i : i + 1]) for i, n in enumerate(lengths)])
    wider = net(torch.nn.functional.pad(tokens, (0, 5)), lengths)
    torch.testing.assert_close(together, alone)
    torch.testing.assert_close(together, wider)
    assert (together[1] - together[2]).abs().max() > 1e-4


@pytest.mark.parametrize("name", NAMES)
def test_the_order_of_the_words_matters(name):
    net = network(name)
    tokens = torch.tensor([[3, 7, 5, 2, 9]])
    length = torch.tensor([5])
    assert (net(tokens, length) - net(tokens.flip(1), length)).abs().max() > 1e-4


def test_the_text_cnn_is_kims_convolution_max_and_linear_layer():
    net, sentence = network("text_cnn"), torch.tensor([[4, 8, 15]])
    words = torch.nn.functional.pad(net.embedding(sentence)[0], (0, 0, 3, 3))  # 3 zero words on either side
    features = []
    for layer in net.convolutions:
        width = layer.kernel_size[0]
        windows = torch.stack([words[i : i + width].T for i in range(len(words) - width + 1)])  # (windows, E, width)
        answers = (windows[:, None] * layer.weight[None]).sum((2, 3)) + layer.bias
        features.append(answers.relu().amax(0))
    expected = net.output(torch.cat(features))
    torch.testing.assert_close(net(sentence, torch.tensor([3]))[0], expected)


def test_rows_of_the_last_layer_are_kept_short_and_short_ones_left_alone():
    net = network("text_cnn")
    with torch.no_grad():
        net.output.weight[0] *= 100
        before = net.output.weight.clone()
    net.limit_rows(3.0)
    assert net.output.weight[0].detach().norm().item() == pytest.approx(3.0, rel=1e-3)
    assert torch.equal(net.output.weight[1:], before[1:])


@pytest.mark.parametrize("channels", CHANNELS)
def test_embeddings_are_fixed_tuned_or_both(channels):
    embedding = WordEmbedding(4, 3, channels, padding=0)
    given = WordVectors(("b", "c"), torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]))
    embedding.load(given, ["<pad>", "a", "b", "c"])
    vectors = embedding(torch.tensor([[0, 1, 2]]))
    assert vectors.shape == (1, 3, 6 if channels == "multichannel" else 3)
    assert not vectors[0, 0].any() and vectors[0, 1].any()
    assert torch.equal(vectors[0, 2, :3], given.vectors[0])
    vectors.sum().backward() if channels != "static" else None
    assert (embedding.weight.grad is None) == (channels == "static") and len(list(embedding.parameters())) == 1
    assert (embedding.given is None) == (channels != "multichannel")
    with pytest.raises(ValueError, match="expected vectors of 3 numbers, got 2"):
        embedding.load(WordVectors(("b",), torch.ones(1, 2)), ["b"] * 4)
    with pytest.raises(ValueError, match="expected vectors of some of the 4 tokens, got none"):
        embedding.load(WordVectors(("d",), torch.ones(1, 3)), ["<pad>", "a", "b", "c"])


@pytest.mark.parametrize("kind", ["rnn", "lstm", "gru"])
def test_a_recurrent_state_goes_on_where_it_was(kind):
    net = build_recurrent(kind, 4, 5, 2)
    inputs = torch.randn(3, 8, 4)
    whole, _ = run_recurrent(net, inputs)
    first, state = run_recurrent(net, inputs[:, :5], rows_state(zero_state(net, 3, inputs.device)))
    rows = state_rows(state)
    assert all(row.shape == (3, 2, 5) for row in rows)
    second, _ = run_recurrent(net, inputs[:, 5:], rows_state(rows))
    torch.testing.assert_close(torch.cat([first, second], 1), whole)


def test_lengths_on_a_gpu_come_to_the_host_which_packs_by_them():
    """Tensors without data say that they are on a GPU: none is needed."""
    seen = []
    with FakeTensorMode():
        inputs, lengths = torch.empty(2, 5, 4, device="cuda"), torch.ones(2, dtype=torch.int64, device="cuda")
        run_recurrent(lambda *arguments: seen.append(arguments), inputs, None, lengths)
    ((given, _, read),) = seen
    assert (given.device.type, read.device.type) == ("cuda", "cpu")

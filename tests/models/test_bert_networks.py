"""BERT's networks: the published layout and arithmetic, tied output, and no influence of padding."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor

from genlab.errors import CheckpointError
from genlab.models.bert import SIZES, Bert, BertClassifier, BertPretraining, enclosed, without_decay
from genlab.models.bert_weights import from_transformers, read_weights, shape_of, to_transformers

VOCABULARY, WIDTH, LAYERS, HEADS, HIDDEN, PLACES = 23, 12, 2, 3, 20, 16


def pretraining() -> BertPretraining:
    return BertPretraining(Bert(VOCABULARY, WIDTH, LAYERS, HEADS, HIDDEN, PLACES, initial_std=0.2)).eval()


def sentences(count: int = 4, width: int = 10) -> tuple[Tensor, Tensor, Tensor]:
    lengths = torch.tensor([width, width - 3, 4, 3])[:count]
    tokens = torch.randint(5, VOCABULARY, (count, width))
    tokens[torch.arange(width)[None] >= lengths[:, None]] = 0
    segments = (torch.arange(width)[None] >= lengths[:, None] // 2).long() * (tokens != 0)
    return tokens, lengths, segments


def published_forward(w: dict[str, Tensor], tokens: Tensor, lengths: Tensor, segments: Tensor) -> tuple[Tensor, Tensor]:
    """The two heads of transformers' BertForPreTraining in plain arithmetic, from weights under its names."""

    def linear(x: Tensor, name: str) -> Tensor:
        return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]

    def norm(x: Tensor, name: str) -> Tensor:
        centred = x - x.mean(-1, keepdim=True)
        scaled = centred / (centred.square().mean(-1, keepdim=True) + 1e-12).sqrt()
        return scaled * w[f"{name}.weight"] + w[f"{name}.bias"]

    def gelu(x: Tensor) -> Tensor:
        return x * 0.5 * (1 + torch.erf(x / math.sqrt(2)))

    at = "bert.embeddings."
    state = w[f"{at}word_embeddings.weight"][tokens] + w[f"{at}position_embeddings.weight"][: tokens.shape[1]]
    state = norm(state + w[f"{at}token_type_embeddings.weight"][segments], f"{at}LayerNorm")
    hidden = torch.arange(tokens.shape[1])[None, None, None] >= lengths[:, None, None, None]
    for layer in range(LAYERS):
        at = f"bert.encoder.layer.{layer}."
        query, key, value = (
            linear(state, f"{at}attention.self.{part}").view(*state.shape[:2], HEADS, -1).transpose(1, 2)
            for part in ("query", "key", "value")
        )
        scores = query @ key.transpose(-1, -2) / math.sqrt(WIDTH / HEADS)
        mixed = (scores.masked_fill(hidden, -1e9).softmax(-1) @ value).transpose(1, 2).flatten(2)
        state = norm(state + linear(mixed, f"{at}attention.output.dense"), f"{at}attention.output.LayerNorm")
        inner = gelu(linear(state, f"{at}intermediate.dense"))
        state = norm(state + linear(inner, f"{at}output.dense"), f"{at}output.LayerNorm")
    pooled = linear(state[:, 0], "bert.pooler.dense").tanh()
    told = norm(gelu(linear(state, "cls.predictions.transform.dense")), "cls.predictions.transform.LayerNorm")
    words = told @ w["cls.predictions.decoder.weight"].T + w["cls.predictions.bias"]
    return words, linear(pooled, "cls.seq_relationship")


def test_logits_are_those_of_the_published_layout_from_its_own_weights():
    net, (tokens, lengths, segments) = pretraining(), sentences()
    for parameter in net.parameters():  # norms and biases other than 1 and 0, so that none can be mixed up
        parameter.data += 0.1 * torch.randn_like(parameter)
    places = torch.arange(10).expand(4, -1)
    words, follows = net(tokens, lengths, segments, places)
    expected_words, expected_follows = published_forward(to_transformers(net.state_dict()), tokens, lengths, segments)
    inside = torch.arange(10)[None] < lengths[:, None]
    torch.testing.assert_close(words[inside], expected_words[inside], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(follows, expected_follows, rtol=1e-4, atol=1e-5)


def test_names_go_there_and_back_and_old_ones_and_those_without_prefix_are_read():
    state = pretraining().state_dict()
    theirs = to_transformers(state)
    assert theirs["cls.predictions.decoder.weight"].data_ptr() == theirs[
        "bert.embeddings.word_embeddings.weight"
    ].data_ptr()  # fmt: skip
    back = from_transformers(theirs)
    assert back.keys() == state.keys() and all(torch.equal(back[name], state[name]) for name in state)
    encoder = {name.removeprefix("bert."): value for name, value in theirs.items() if name.startswith("bert.")}
    old = {
        name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): value
        for name, value in encoder.items()
    }
    old["embeddings.position_ids"] = torch.arange(PLACES)
    for published in (encoder, old):
        found = from_transformers(published)
        assert found.keys() == {name for name in state if name.startswith("bert.")}
        assert all(torch.equal(found[name], state[name]) for name in found)
    assert shape_of(back) == {
        "width": WIDTH, "layers": LAYERS, "feedforward": HIDDEN, "positions": PLACES, "vocabulary": VOCABULARY,
    }  # fmt: skip


def test_files_of_weights_are_read_and_others_refused_in_one_line(tmp_path):
    state = pretraining().state_dict()
    theirs = {name: value.clone() for name, value in to_transformers(state).items()}
    save_file(theirs, tmp_path / "model.safetensors")
    torch.save(theirs, tmp_path / "pytorch_model.bin")
    for name in ("model.safetensors", "pytorch_model.bin"):
        assert torch.equal(
            read_weights(tmp_path / name)["bert.blocks.1.enter.weight"], state["bert.blocks.1.enter.weight"]
        )
    (tmp_path / "broken.safetensors").write_bytes(b"nonsense")
    torch.save({"model": print}, tmp_path / "code.bin")  # a pickle that names something other than tensors
    save_file({"encoder.0.weight": torch.zeros(2)}, tmp_path / "other.safetensors")
    del theirs["bert.encoder.layer.0.attention.self.key.weight"]
    save_file(theirs, tmp_path / "part.safetensors")
    for name, message in (
        ("none.safetensors", "no such file"),
        ("broken.safetensors", "expected a file of tensors"),
        ("code.bin", "expected a file of tensors"),
        ("other.safetensors", "expected the weights of a BERT, got 'bert.encoder.0.weight'"),
        ("part.safetensors", "expected query, key and value of layer 0, got query, value"),
    ):
        with pytest.raises(CheckpointError, match=message) as failure:
            read_weights(tmp_path / name)
        assert name in str(failure.value) and "\n" not in str(failure.value)


def test_padding_has_no_influence_on_what_tokens_mean():
    net, (tokens, lengths, segments) = pretraining(), sentences()
    state, summary = net.bert(tokens, lengths, segments)
    wide, wide_summary = net.bert(*(F.pad(t, (0, 5)) if t.dim() == 2 else t for t in (tokens, lengths, segments)))
    inside = torch.arange(10)[None] < lengths[:, None]
    torch.testing.assert_close(state[inside], wide[:, :10][inside])
    torch.testing.assert_close(summary, wide_summary)
    other = tokens.masked_fill(~inside, 7)
    torch.testing.assert_close(net.bert(other, lengths, segments)[0][inside], state[inside])
    alone = net.bert(tokens[2:3, :4], lengths[2:3], segments[2:3, :4])[1]
    torch.testing.assert_close(alone, summary[2:3])


def test_each_token_sees_both_sides_its_place_and_its_segment():
    net, (tokens, lengths, segments) = pretraining(), sentences(1)
    state = net.bert(tokens, lengths, segments)[0][0]
    for changed in (0, 9):
        other = tokens.clone()
        other[0, changed] = 5 if tokens[0, changed] != 5 else 6
        assert (net.bert(other, lengths, segments)[0][0, 4] - state[4]).abs().max() > 1e-4
    assert (net.bert(tokens, lengths, 1 - segments)[0][0] - state).abs().max() > 1e-3
    same = torch.full_like(tokens, 7)
    assert (net.bert(same, lengths)[0][0, 1] - net.bert(same, lengths)[0][0, 2]).abs().max() > 1e-3
    torch.testing.assert_close(net.bert(tokens, lengths)[0], net.bert(tokens, lengths, torch.zeros_like(tokens))[0])


def test_the_output_layer_is_the_tokens_vectors():
    net, (tokens, lengths, segments) = pretraining(), sentences()
    assert not any(value.shape == (VOCABULARY, WIDTH) for name, value in net.named_parameters() if "tokens" not in name)
    tokens.clamp_(max=21)  # so that the last token's vector gets its gradient from the output alone
    net(tokens, lengths, segments, torch.ones(4, 1, dtype=torch.int64))[0][..., 22].sum().backward()
    assert net.bert.tokens.weight.grad[22].abs().max() > 0


def test_only_the_given_places_go_through_the_output_layer():
    net, (tokens, lengths, segments) = pretraining(), sentences()
    places = torch.tensor([[1, 2], [2, 1], [0, 3], [1, 1]])
    some = net(tokens, lengths, segments, places)[0]
    every = net(tokens, lengths, segments, torch.arange(10).expand(4, -1))[0]
    assert some.shape == (4, 2, VOCABULARY)
    torch.testing.assert_close(some, every.gather(1, places[:, :, None].expand(-1, -1, VOCABULARY)))


def test_a_classifier_puts_cls_and_sep_around_each_sentence():
    tokens, lengths = torch.tensor([[7, 8, 9], [6, 0, 0]]), torch.tensor([3, 1])
    whole, longer = enclosed(tokens, lengths, 2, 3)
    assert whole.tolist() == [[2, 7, 8, 9, 3], [2, 6, 3, 0, 3]] and longer.tolist() == [5, 3]
    net = BertClassifier(Bert(VOCABULARY, WIDTH, 1, HEADS, HIDDEN, PLACES, initial_std=0.2), 2, 2, 3).eval()
    torch.testing.assert_close(net(tokens, lengths)[1:], net(tokens[1:, :1], lengths[1:]))
    summary = net.bert(torch.tensor([[2, 6, 3]]), torch.tensor([3]))[1]
    torch.testing.assert_close(net(tokens, lengths)[1:], net.output(summary))


def test_longer_than_the_table_of_places_is_refused():
    net = pretraining()
    with pytest.raises(ValueError, match="bert: expected at most 16 tokens, the places that the model has, got 17"):
        net.bert(torch.ones(1, 17, dtype=torch.int64), torch.tensor([17]))


def test_biases_and_normalisations_do_not_decay_and_every_matrix_does():
    net = pretraining()
    spared = without_decay(net)
    assert {name for name, _ in net.named_parameters() if "norm" in name or name.endswith("bias")} == spared
    assert all(parameter.dim() == 2 for name, parameter in net.named_parameters() if name not in spared)


def test_base_has_the_papers_110_million_weights_and_starts_with_its_deviation():
    layers, width = SIZES["base"]
    with torch.device("meta"):
        count = sum(p.numel() for p in Bert(30_522, width, layers, width // 64, 4 * width, 512).parameters())
    assert count == 109_482_240  # bert-base-uncased
    bert = Bert(2000, 128, 1, 2, 512, 64)
    for weight in (bert.tokens.weight, bert.blocks[0].attention.in_proj_weight, bert.blocks[0].enter.weight):
        assert float(weight.detach().std()) == pytest.approx(0.02 * 0.88, rel=0.05)  # of a normal cut at 2 deviations
        assert float(weight.detach().abs().max()) <= 0.04

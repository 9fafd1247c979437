"""The models that `genlab bench step` trains: the lab's and torch's own modules take the same steps."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from genlab.bench.arms import COMPILED, COMPILED_TEXT, FUSED, LAB, PLAIN, PLAIN_TUNED, arms_of, make_stepper
from genlab.bench.plain_sequences import PlainRecurrentModel, copy_around_blocks
from genlab.bench.step import StepSettings
from genlab.bench.supervised import make_batch, make_trainer
from genlab.bench.workloads import CHARACTERS, PAD, WORDS, WORKLOADS
from genlab.cli.bench import NAMES, TRAINED

TEXT = [name for name, workload in WORKLOADS.items() if workload.length]


def small(name: str, precision: str = "fp32") -> StepSettings:
    workload = WORKLOADS[name]
    return StepSettings(
        workload=name, size=workload.size, channels=workload.channels, length=min(workload.length, 6),
        width=min(workload.width, 8), batch=3, precision=precision, threads=1,
    )  # fmt: skip


@pytest.mark.parametrize("name", WORKLOADS)
def test_torchs_modules_take_the_labs_steps(name: str) -> None:
    ours, theirs = make_stepper(LAB, small(name)), make_stepper(PLAIN, small(name))
    # One update lies between the losses: a clip, a decay or a rate that differs would show in the second.
    for tolerance in (1e-5, 1e-2):
        torch.testing.assert_close(theirs()["loss"], ours()["loss"], rtol=tolerance, atol=0)


@pytest.mark.parametrize("name", TEXT)
def test_models_of_text_stay_with_torchs_for_five_updates(name: str) -> None:
    ours, theirs = make_stepper(LAB, small(name)), make_stepper(PLAIN, small(name))
    losses = torch.tensor([[ours()["loss"], theirs()["loss"]] for _ in range(5)])
    torch.testing.assert_close(losses[:, 0], losses[:, 1], rtol=1e-3, atol=0)
    assert losses[-1, 0] < losses[0, 0], "the batch is learnt"


@pytest.mark.parametrize("name", ["lenet5_mnist", "vit_cifar10", "gru_characters", "transformer_multi30k"])
def test_mixed_precision_gives_torchs_loss_to_the_digits_that_bfloat16_has(name: str) -> None:
    settings = small(name, "bf16-mixed")
    expected = make_stepper(LAB, settings)()["loss"]
    torch.testing.assert_close(make_stepper(PLAIN, settings)()["loss"], expected, rtol=2e-2, atol=0)
    exact = make_stepper(LAB, small(name))()["loss"]
    assert expected != exact, "bfloat16 was used"


def test_channels_last_gives_the_same_loss() -> None:
    settings = small("lenet5_mnist")
    torch.testing.assert_close(
        make_stepper(PLAIN_TUNED, settings)(), make_stepper(PLAIN, settings)(), rtol=1e-4, atol=0
    )


def test_sizes_are_those_of_the_presets() -> None:
    sizes = {"lenet5_mnist": 61_706, "resnet18_cifar10": 11_173_962, "vit_cifar10": 2_693_578}
    for name, expected in sizes.items():
        (network,) = make_trainer(WORKLOADS[name], small(name)).networks.values()
        assert sum(p.numel() for p in network.parameters()) == expected


def test_sentences_of_a_pair_are_padded_behind_their_length() -> None:
    batch = make_batch(WORKLOADS["transformer_multi30k"], dataclasses.replace(small("transformer_multi30k"), batch=20))
    for key, words in WORDS.items():
        lengths = batch[f"{key}_length"]
        assert lengths.max() == 6 and lengths.min() == 4
        assert torch.equal((batch[key] != PAD).sum(1), lengths) and batch[key].max() < words


def test_a_recurrent_peer_goes_on_from_its_state() -> None:
    torch.manual_seed(0)
    plain = PlainRecurrentModel(CHARACTERS, 4, "lstm", 4, 1)
    tokens = torch.randint(CHARACTERS, (2, 6))
    whole = plain(tokens)
    plain._state = None
    parts = torch.cat([plain(tokens[:, :3]), plain(tokens[:, 3:])], 1)
    torch.testing.assert_close(parts, whole)


def test_copying_between_networks_that_share_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="share names, got none"):
        copy_around_blocks(torch.nn.Linear(2, 2), torch.nn.ParameterList())


def test_only_pictures_have_an_arm_in_channels_last() -> None:
    assert PLAIN_TUNED in arms_of("resnet18_cifar10", True) and COMPILED in arms_of("resnet18_cifar10", True)
    assert PLAIN_TUNED not in arms_of("gru_characters", True) and COMPILED_TEXT in arms_of("gru_characters", True)
    assert COMPILED_TEXT not in arms_of("gru_characters", False) and FUSED not in arms_of("lenet5_mnist", True)


def test_the_command_line_knows_every_workload() -> None:
    assert set(TRAINED) == set(WORKLOADS) and len(set(NAMES)) == len(NAMES)

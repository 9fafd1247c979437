"""Live diagnosis: what the numbers of a training say about its health, in plain words.

At each log interval the loop adds vital signs to the row of the log - gradient norms, diversity of the samples - and
asks the trainer for findings. A finding that holds for `patience` intervals in a row is told once, as an event

    {"event": "diagnosis", "what": "collapse", "step": 1200, "text": "..."}

and again only after an interval that did not show it. `train.on_collapse` says what else happens where a finding is
serious, as some become by lasting. What is found:

- divergence (any trainer): a loss or gradient norm far above what it has been in this run;
- collapse (trainers that draw samples): samples of fixed noise lie much closer together than real ones;
- saturation (GANs): the discriminator is certain of every sample, or the generator's gradient is gone; serious once it
  has lasted;
- missing classes (labelled pictures, where a judge is at hand): see `genlab.trainers.class_watch`;
- at evaluations, where the judge of a labelled set or the modes of a mixture are at hand: what the samples leave out.

An algorithm adds its own by overriding `Judged.findings` and `Judged.vital_signs`.
"""

from __future__ import annotations

import copy
import functools
import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from genlab.seeding import generator, preserved_rng

if TYPE_CHECKING:
    from genlab.data import ImageDataset
    from genlab.metrics import Score
    from genlab.trainers.base import Batch, Trainer

DIVERSITY_SAMPLES = 64


@dataclass(frozen=True)
class Thresholds:
    """When a number counts as ill. Each was set so that the healthy configurations of the lab stay silent.

    Attributes:
        warmup_steps: no verdict before this step: first losses jump.
        varied: an untrained generator makes alike pictures; they count as a collapse only where they have once been as
            varied as this share of the real samples, or
        late_steps: from this step on in any case.
        patience: log intervals in a row that must show a finding.
        diversity: collapse below this share of the real samples' mean distance from one another.
        nearest: collapse below this share of the real samples' mean distance to their nearest neighbour: samples in a
            few heaps, however far apart the heaps are. 0 where samples lie close together by nature.
        apart: a generator may begin with heaps and learn to part them; before late_steps they count as a collapse only
            where neighbours have once lain as far apart as this share of the real ones.
        growth: divergence where a loss or gradient norm exceeds this many times its usual size.
        history: log intervals whose median is the usual size.
        least_history: intervals that must be known before anything counts as unusual.
        accuracy: saturation from this share of real and generated samples told apart, where also
        margin_loss: the discriminator's loss is below this (its least value is 0).
        vanished_gradient: saturation where the generator's gradient is shorter than this.
        lasting: log intervals in a row from which a saturation is serious.
        class_share: a class is missing below this share of the samples that it would have if all were alike.
        mode_share: modes of a mixture of points are missing where fewer than this share of them is reached.
    """

    warmup_steps: int = 200
    varied: float = 0.5
    late_steps: int = 2000
    patience: int = 3
    diversity: float = 0.25
    nearest: float = 0.15
    apart: float = 0.3
    growth: float = 100.0
    history: int = 50
    least_history: int = 5
    accuracy: float = 0.995
    margin_loss: float = 0.01
    vanished_gradient: float = 1e-7
    lasting: int = 10
    class_share: float = 0.1
    mode_share: float = 0.8


@dataclass(frozen=True)
class Finding:
    """Something wrong with a training.

    Attributes:
        what: "collapse", "divergence", "saturation", or another kind in one word; told once while it lasts.
        text: what is seen, with its numbers, and what helps.
        serious: `train.on_collapse` acts on it; others are only told.
        patience: log intervals in a row that must show it; None: the thresholds' own.
        lasting: log intervals in a row after which it is serious and told again; None: it stays what it is.
    """

    what: str
    text: str
    serious: bool = True
    patience: int | None = None
    lasting: int | None = None

    def event(self, step: int) -> dict[str, Any]:
        """The row of the log that tells it."""
        return {"event": "diagnosis", "step": step, "what": self.what, "text": self.text}


class Diagnosis:
    """Watches one training.

    Args:
        trainer: what is watched.
        examples: n -> n samples of the training set, as a recorder gives them; None: nothing to compare samples with.
        dataset: the training set; None: nothing says which classes samples are of.

    Attributes:
        state: JSON values that a resumed run goes on with: intervals in a row of each finding and the step at which
            it was first seen, recent sizes of losses and gradients, the largest diversity and distance of neighbours
            so far, and the last two counts of classes.
    """

    def __init__(
        self,
        trainer: Trainer,
        examples: Callable[[int], Batch] | None = None,
        dataset: ImageDataset | None = None,
    ) -> None:
        from genlab.trainers.class_watch import ClassWatch

        self.trainer, self.classes = trainer, ClassWatch(trainer, dataset)
        # Read and decoded once: they are the same samples every time.
        self.examples = None if examples is None else functools.cache(examples)
        self.state: dict[str, Any] = {}
        self.restore({})

    def restore(self, state: dict[str, Any]) -> None:
        """Goes on from a checkpoint's `state`; {} begins anew."""
        begun = {"streaks": {}, "since": {}, "sizes": {}, "varied": 0.0, "apart": 0.0, "classes": []}
        self.state = {**begun, **copy.deepcopy(state)}

    @property
    def thresholds(self) -> Thresholds:
        return self.trainer.thresholds

    def measure(self) -> dict[str, float]:
        """Gradient norms and vital signs of this step; reads the device, and leaves every generator as it was."""
        norms = {f"grad_norm_{name}": value for name, value in self.trainer.gradient_norms.items()}
        with preserved_rng(self.trainer.device):
            signs = {} if self.examples is None else self.trainer.vital_signs(self.examples)
        return {name: float(value) for name, value in (norms | signs).items()}

    def lists(self) -> dict[str, list[float]]:
        """What `Judged.log_lists` gives at this step, and counts of classes; leaves every generator as it was."""
        if self.examples is None:
            return {}
        with preserved_rng(self.trainer.device):
            counts = self.classes.lists()
            self.state["classes"] = [*self.state["classes"], *counts.values()][-2:]
            return {**self.trainer.log_lists(self.examples), **counts}

    def judge(self, step: int, values: dict[str, float]) -> list[Finding]:
        """Takes in a log interval's numbers; the findings that have just become due.

        Args:
            step: of the interval's end.
            values: averages of the interval, gradient norms and vital signs.
        """
        sampled = "diversity" in values  # not where the generator is no part of the training
        values = self._of_a_living_generator(step, values)
        found = [
            self._missing_classes(step) if sampled else None,
            self._divergence(values),
            *self.trainer.findings(values),
        ]
        shown = {finding.what: finding for finding in found if finding is not None}
        self.state["since"] = {what: self.state["since"].get(what, step) for what in shown}
        if step < self.thresholds.warmup_steps:
            shown = {}
        streaks = {what: self.state["streaks"].get(what, 0) + 1 for what in shown}
        self.state["streaks"] = streaks
        due = (self._due(finding, streaks[what]) for what, finding in shown.items())
        return [finding for finding in due if finding is not None]

    def began(self, finding: Finding, step: int) -> int:
        """The step before which a finding, due at `step`, was not seen yet: a rollback goes back to there.

        It may have been seen, and not told, during the warm-up.
        """
        return max(0, self.state["since"].get(finding.what, step) - self.trainer.config.train.log_every)

    def _of_a_living_generator(self, step: int, values: dict[str, float]) -> dict[str, float]:
        """The values without those that are low because the generator has not learnt to vary its samples yet."""
        limits, highest = self.thresholds, self.state
        highest["varied"] = max(highest["varied"], values.get("diversity", 0.0))
        highest["apart"] = max(highest["apart"], values.get("diversity_nearest", 0.0))
        if step >= limits.late_steps or highest["varied"] >= limits.varied and highest["apart"] >= limits.apart:
            return values
        unborn = "diversity" if highest["varied"] < limits.varied else "diversity_nearest"
        return {name: value for name, value in values.items() if not name.startswith(unborn)}

    def _missing_classes(self, step: int) -> Finding | None:
        """What the last counts of classes leave out, once the samples have been varied or should have been."""
        living = step >= self.thresholds.late_steps or self.state["varied"] >= self.thresholds.varied
        return self.classes.finding(self.state["classes"]) if living else None

    def _due(self, finding: Finding, streak: int) -> Finding | None:
        """The finding where it is to be told after so many intervals in a row, serious where it has lasted."""
        if streak == finding.lasting:
            text = f"{finding.text}. It has lasted for {streak} rows of the log"
            return replace(finding, text=text, serious=True)
        patience = self.thresholds.patience if finding.patience is None else finding.patience
        return finding if streak == patience else None

    def _divergence(self, values: dict[str, float]) -> Finding | None:
        """Compares losses and gradient norms with their median so far; an ill interval does not count as usual."""
        limits, grown = self.thresholds, []
        for name, value in values.items():
            if not name.startswith(("loss", "grad_norm")) or not math.isfinite(value):
                continue
            sizes = self.state["sizes"].setdefault(name, [])
            usual = statistics.median(sizes) if len(sizes) >= limits.least_history else math.inf
            floor = 1.0 if name.startswith("loss") else 1e-3  # losses cross zero; what is tiny may grow a lot
            if abs(value) > limits.growth * max(usual, floor):
                grown.append(f"{name} is {value:.3g}, usually {usual:.3g}")
            else:
                sizes.append(abs(value))
                del sizes[: -limits.history]
        if not grown:
            return None
        remedy = "lower the learning rate, or restrain the network (gan.regularizers, warm-up)"
        return Finding("divergence", f"the training diverges: {'; '.join(grown)}. What helps: {remedy}")


def diversity_signs(samples: Tensor, real: Tensor) -> dict[str, Tensor]:
    """How far samples lie from one another, relative to as many real ones: 1 where they are as varied.

    Args:
        samples, real: (N, ...) of one shape, N >= 2.

    Returns:
        "diversity": ratio of the mean distances of all pairs; "diversity_nearest": ratio of the mean distances to the
        nearest other sample. 0-d tensors.
    """
    pairs, nearest = _mean_distances(samples)
    real_pairs, real_nearest = _mean_distances(real)
    tiny = torch.finfo(torch.float32).tiny
    return {
        "diversity": pairs / real_pairs.clamp(min=tiny),
        "diversity_nearest": nearest / real_nearest.clamp(min=tiny),
    }


def _mean_distances(samples: Tensor) -> tuple[Tensor, Tensor]:
    flat = samples.detach().float().flatten(1)
    distances = torch.cdist(flat, flat, compute_mode="donot_use_mm_for_euclid_dist")
    count = len(flat)
    pairs = distances.sum() / (count * (count - 1))
    itself = torch.eye(count, dtype=torch.bool, device=flat.device)
    return pairs, distances.masked_fill(itself, math.inf).amin(dim=1).mean()


COLLAPSE_REMEDY = "a regulariser of the discriminator, a lower learning rate, or a Wasserstein loss"


def collapse_finding(values: dict[str, float], limits: Thresholds, remedy: str = COLLAPSE_REMEDY) -> Finding | None:
    """A collapse that `diversity_signs` shows, or None; `remedy` ends its "go back to a checkpoint from before, "."""
    shares = []
    if values.get("diversity", 1.0) < limits.diversity:
        shares.append(f"{values['diversity']:.0%} of the distance between real samples")
    if values.get("diversity_nearest", 1.0) < limits.nearest:
        shares.append(f"{values['diversity_nearest']:.0%} of the distance between nearest real samples")
    if not shares:
        return None
    return Finding(
        "collapse",
        f"the samples have collapsed: they lie at {' and '.join(shares)} from one another. What helps: go back to a "
        f"checkpoint from before, {remedy}",
    )


def missing_classes(counts: Sequence[int], class_names: Sequence[str] | None, limits: Thresholds) -> list[str]:
    """Names (numbers where there are none) of the classes that hardly any of the counted samples is of."""
    least = limits.class_share * sum(counts) / len(counts)
    names = class_names or [str(number) for number in range(len(counts))]
    return [name for name, count in zip(names, counts, strict=True) if count < least]


def score_findings(scores: Sequence[Score], class_names: Sequence[str] | None, limits: Thresholds) -> list[Finding]:
    """What an evaluation shows: classes that the judge hardly finds among the samples, modes that no point reaches.

    Args:
        scores: of the evaluation; the histogram of classes is in the protocol of "class_kl".
        class_names: of the data set; None: classes are called by their numbers.
        limits: when something counts as missing.
    """
    found = []
    for score in scores:
        kind, protocol = score.name.split("[")[0], score.protocol
        if kind == "class_kl" and "histogram" in protocol:
            counts = protocol["histogram"]
            missing = missing_classes(counts, class_names, limits)
            judge = protocol.get("extractor", "the judge")
            seen = f"hardly any of classes {', '.join(missing)} among {sum(counts)} samples, says {judge}"
        elif kind == "modes" and "num_modes" in protocol:
            missing = score.value < limits.mode_share * protocol["num_modes"]
            seen = f"{score.value:.0f} of {protocol['num_modes']} modes are reached"
        else:
            continue
        if missing:
            remedy = "a regulariser of the discriminator, gan.regularizers.manifold_entropy, or a Wasserstein loss"
            found.append(Finding("collapse", f"modes are missing: {seen}. What helps: {remedy}", serious=False))
    return found


@torch.no_grad()
def discriminator_signs(real_logits: Tensor, fake_logits: Tensor, boundary: float | None) -> dict[str, Tensor]:
    """How well a discriminator tells real from generated samples.

    Args:
        real_logits, fake_logits: of any shape.
        boundary: of the loss, see `genlab.losses.AdversarialLoss`.

    Returns:
        "margin": difference of the mean logits; "accuracy": share called rightly, half of it of real samples, where
        there is a boundary. 0-d tensors.
    """
    real, fake = real_logits.detach().float(), fake_logits.detach().float()
    signs = {"margin": real.mean() - fake.mean()}
    if boundary is not None:
        signs["accuracy"] = ((real > boundary).float().mean() + (fake < boundary).float().mean()) / 2
    return signs


def saturation_finding(values: dict[str, float], limits: Thresholds) -> Finding | None:
    """A discriminator that leaves the generator nothing to learn from, as `discriminator_signs` shows it, or None.

    Its loss is called "loss_d", or where it is a part of a classifier's (SGAN) "loss_unlabelled"; the optimiser of the
    generator or of all generators "generator" or "generators".
    """
    loss = values.get("loss_d", values.get("loss_unlabelled", 1.0))
    length = min((value for name, value in values.items() if name.startswith("grad_norm_generator")), default=1.0)
    if values.get("accuracy", 0.0) >= limits.accuracy and loss <= limits.margin_loss:
        seen = f"it tells {values['accuracy']:.1%} of the samples apart at a loss of {loss:.2g}"
    elif length < limits.vanished_gradient:
        seen = f"the generator's gradient has a length of only {length:.1g}"
    else:
        return None
    return Finding(
        "saturation",
        f"the discriminator has won: {seen}, so the generator learns next to nothing. What helps: a lower rate of "
        "learning for the discriminator, gan.regularizers.r1 or gradient_penalty, more data, or data.flip",
        serious=False,
        lasting=limits.lasting,
    )


@torch.no_grad()
def gradient_norm(parameters: list[Tensor]) -> Tensor:
    """Euclidean length of all gradients together, 0-d; 0 where there are none."""
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    if not gradients:
        return torch.zeros(())
    return torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))


def sample_values(batch: Batch) -> Tensor:
    """The samples of a batch: pictures, points, or the targets of pairs."""
    return next(batch[key] for key in ("image", "point", "target", "b") if key in batch)


def fixed_samples(trainer: Trainer, count: int, draws: torch.Generator | None = None) -> Tensor:
    """`count` draws of noise through the present, not averaged weights: an average would show a fall late.

    Args:
        trainer: whose samples.
        count: how many.
        draws: what the noise comes from; default: one that is the same at every call.
    """
    before, trainer.use_ema = trainer.use_ema, False
    try:
        return trainer.sample(count, generator(trainer.config.seed, "diagnosis") if draws is None else draws)
    finally:
        trainer.use_ema = before

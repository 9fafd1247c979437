"""Likelihood scores of a variational autoencoder, with everything that they depend on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from genlab.data import evenly_spaced
from genlab.errors import MetricError
from genlab.likelihood import ACTIVE_VARIANCE, COLLAPSED_KL, Likelihood, estimate

if TYPE_CHECKING:
    from genlab.data import ImageDataset
    from genlab.metrics import Score
    from genlab.trainers.evaluation import Progress
    from genlab.trainers.vae import VaeTrainer

VALUES_AT_ONCE = 2**21  # pixels that are decoded at a time: 8 MB of logits, whatever k
BOUND_DRAWS = 50  # k of `iwae_bound` for a model trained with k = 1: the largest of Burda et al. 2016, table 1


def measure_likelihood(
    trainer: VaeTrainer,
    dataset: ImageDataset,
    draws: int,
    images: int | None = None,
    *,
    bound_draws: int = 1,
    seed: int = 0,
    progress: Progress | None = None,
) -> Likelihood:
    """Importance sampling over a data set with the averaged networks where there are some; conditional on labels.

    Args:
        trainer: of a run or rebuilt from a checkpoint.
        dataset: as it lies on the disk; binarised here as `vae.binarisation` says.
        draws: k of the nll.
        images: so many, evenly spaced, because the halves of a split may differ (MNIST's do); None takes all.
        bound_draws: a divisor of `draws`, k of a looser bound that is estimated beside.
        seed: of the draws.
        progress: called with (what, images done, images in all).

    Raises:
        MetricError: fewer than two images.
    """
    rows = max(1, VALUES_AT_ONCE // max(1, torch.Size(trainer.data.shape).numel()))
    total = min(len(dataset), images or len(dataset))
    if total < 2:
        raise MetricError(f"nll: expected at least 2 images in split {dataset.split!r}, got {total}")
    generator = torch.Generator().manual_seed(seed)
    seen, picked = trainer.binarised(dataset), evenly_spaced(len(dataset), total)
    batch_size = max(1, rows // draws)
    found = Likelihood.room_for(total, trainer.config.model.latent_dim, (bound_draws, draws))
    with trainer.inference():
        for start in range(0, total, batch_size):
            batch = trainer.to_device(seen.fetch(picked[start : start + batch_size]))
            x = trainer.pixels(batch["image"])
            labels = batch["label"] if trainer.label_count else None
            mean, log_variance = trainer.inference_network("encoder")(x, labels)
            part = estimate(
                mean,
                log_variance,
                lambda z, x=x, labels=labels: _log_likelihood(trainer, x, z, labels),
                draws=draws,
                groups=(bound_draws,),
                rows=rows,
                generator=generator,
            )
            found.write(start, part)
            if progress is not None:
                progress("likelihood", start + len(x), total)
    return found


def _log_likelihood(trainer: VaeTrainer, x: Tensor, z: Tensor, labels: Tensor | None) -> Tensor:
    decoder = trainer.inference_network("decoder")
    repeated = None if labels is None else labels.repeat_interleave(z.shape[1])
    return decoder.likelihood.log_prob(decoder(z.flatten(0, 1), repeated).unflatten(0, z.shape[:2]), x)


def likelihood_scores(
    trainer: VaeTrainer,
    dataset: ImageDataset,
    draws: int,
    images: int | None = None,
    seed: int = 0,
    progress: Progress | None = None,
    facts: dict[str, Any] | None = None,
) -> list[Score]:
    """nll, elbo and iwae_bound in nats per image, and active_units.

    Arguments as `measure_likelihood`; `facts` are further entries of every protocol, such as step and checkpoint.
    """
    from genlab.metrics import Score

    trained_with = trainer.config.vae.importance_samples
    wanted = trained_with if trained_with > 1 else BOUND_DRAWS
    bound_draws = max(k for k in range(1, min(wanted, draws) + 1) if draws % k == 0)
    found = measure_likelihood(trainer, dataset, draws, images, bound_draws=bound_draws, seed=seed, progress=progress)
    protocol = {**_protocol(trainer, dataset, len(found.mean), seed), **(facts or {})}

    def score(name: str, values: Tensor, lower_is_better: bool, **facts: Any) -> Score:
        error = float(values.std() / len(values) ** 0.5)
        return Score(
            name, float(values.mean()), None, {**protocol, **facts, "standard_error": round(error, 4)},
            lower_is_better=lower_is_better,
        )  # fmt: skip

    kl = found.kl.mean(0)
    return [
        score("nll", -found.bounds[draws], True, k=draws),
        score(
            "elbo", found.elbo, False,
            k=1, draws=draws, reconstruction=_rounded(found.reconstruction.mean()), kl=_rounded(kl.sum()),
        ),
        score("iwae_bound", found.bounds[bound_draws], False, k=bound_draws, draws=draws),
        Score(
            "active_units", float(found.active_units), None,
            {
                **protocol, "latents": len(kl), "rule": f"variance of the posterior mean > {ACTIVE_VARIANCE}",
                "collapsed": int((kl < COLLAPSED_KL).sum()), "kl_per_latent": [_rounded(value) for value in kl],
            },
            lower_is_better=False,
        ),
    ]  # fmt: skip


def _rounded(value: Tensor) -> float:
    return round(float(value), 4)


def _protocol(trainer: VaeTrainer, dataset: ImageDataset, count: int, seed: int) -> dict[str, Any]:
    vae = trainer.config.vae
    decoder = vae.decoder if vae.decoder == "bernoulli" else f"gaussian, {vae.variance} variance, pixels in [-1, 1]"
    binarisation = vae.binarisation
    if binarisation in ("static", "dynamic"):
        binarisation += f", drawn once for evaluation with seed {vae.binarisation_seed}"
    elif binarisation == "none" and vae.decoder == "bernoulli":
        binarisation = "none: cross-entropy with grey values, no likelihood of bits"
    return {
        "unit": "nats per image",
        "data": dataset.name,
        "split": dataset.split,
        "count": count,
        "decoder": decoder,
        "binarisation": binarisation,
        "given": "label" if trainer.label_count else None,
        "trained_with_k": vae.importance_samples,
        "seed": seed,
    }

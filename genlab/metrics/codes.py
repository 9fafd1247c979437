"""What InfoGAN's codes are worth: do categories match classes, and how much does Q know of a code."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from genlab.metrics.matching import matching_error
from genlab.metrics.score import Score

if TYPE_CHECKING:
    from genlab.trainers.evaluation import EvaluationData
    from genlab.trainers.infogan import InfoGanTrainer


def code_errors(trainer: InfoGanTrainer, data: EvaluationData) -> list[Score]:
    """The matching error of every categorical code on the test images, by the largest probability of Q(c|x).

    No label is seen in training; the one-to-one matching itself is made with the test labels, as the paper's is (Chen
    et al. 2016, section 7.2). Nothing where the data has no labels or the model no categorical code.
    """
    spec, classes = trainer.spec, trainer.data.num_classes
    if not spec.categorical or classes is None:
        return []
    from genlab.data import iterate

    dataset = data.dataset("test")
    values, labels = [], []
    for batch in iterate(dataset, data.batch_size):
        logits = spec.split_categorical(trainer.recognise(batch["image"]))
        values.append(torch.stack([part.argmax(dim=1).cpu() for part in logits]))
        labels.append(batch["label"])
        data.progress("codes of test images", sum(map(len, labels)), len(dataset))
    found, truth = torch.cat(values, dim=1), torch.cat(labels)
    scores = []
    for index, size in enumerate(spec.categorical):
        error, matched = matching_error(found[index], truth, size, classes)
        names = trainer.data.class_names
        protocol = {
            "real": {"source": dataset.name, "split": "test", "count": len(truth)},
            "code": f"c{index + 1} of {size} values, argmax of Q(c|x)",
            "matching": "one to one, most right samples, on the same images",
            "classes": [None if match is None else names[match] if names else match for match in matched],
        }
        name = "code_error" if index == 0 else f"code_error[c{index + 1}]"
        scores.append(Score(name, error, None, protocol, lower_is_better=True))
    return scores


def information_score(trainer: InfoGanTrainer, data: EvaluationData) -> Score:
    """L_I over fresh samples, all codes together, in nats; H(c) and the share of each kind stand in the protocol."""
    spec, generator = trainer.spec, data.generator()
    sums = dict.fromkeys(spec.kinds, 0.0)
    for start in range(0, data.samples, data.batch_size):
        z = trainer.latents(min(data.batch_size, data.samples - start), generator)
        statistics = trainer.recognise(trainer.decode(z))
        for kind, value in spec.log_likelihood(statistics, trainer.codes_of(z)).items():
            sums[kind] += float(value.double().sum())
        data.progress("codes of samples", start + len(z), data.samples)
    entropy = spec.entropy()
    bounds = {kind: total / data.samples + entropy[kind] for kind, total in sums.items()}
    protocol = {
        "fake": {"source": "generator", "count": data.samples},
        "seed": data.seed,
        "unit": "nats",
        "bound_by_kind": {kind: round(value, 4) for kind, value in bounds.items()},
        "entropy_by_kind": {kind: round(value, 4) for kind, value in entropy.items()},
    }
    return Score("information_bound", sum(bounds.values()), None, protocol, lower_is_better=False)

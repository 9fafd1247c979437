"""Whether sentences fit the places of a Transformer: asked before a training begins, of all that it will read."""

from __future__ import annotations

from typing import TYPE_CHECKING

from genlab.errors import ConfigError

if TYPE_CHECKING:
    from genlab.data.text_base import TokenDataset
    from genlab.trainers.base import Trainer


def require_places(trainer: Trainer, dataset: TokenDataset, most: int | None, key: str, special: int = 0) -> None:
    """Refuses sentences that are longer than the network's places.

    Args:
        trainer: of the run; where it is to be scored, the parts that it is scored on are looked at too.
        dataset: that is trained on.
        most: tokens of the longest sentence that fits; None: any length fits, and nothing is read.
        key: of the places in the configuration.
        special: places that [CLS] and [SEP] take, not counted in `most`.

    Raises:
        ConfigError: one is longer; names the part, its length and what to set.
    """
    if most is None:
        return
    parts = [dataset]
    if trainer.config.evaluate.metrics != []:
        from genlab.metrics.text_scores import scored_parts
        from genlab.trainers.evaluation import EvaluationData

        parts += scored_parts(trainer, EvaluationData(trainer.config, trainer.device, trainer.config.evaluate.samples))
    for part in parts:
        if part.longest > most:
            raise ConfigError(
                f"{key}: expected at least {part.longest + special}, the tokens of the longest sentence of the "
                f"{part.split} part{' with [CLS] and [SEP]' if special else ''}, got {most + special}; raise it, or "
                f"cut sentences with data.max_length={most}"
            )

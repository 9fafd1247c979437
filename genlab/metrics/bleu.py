"""BLEU of a translator's sentences by sacrebleu, imported at first use."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from genlab.errors import RunError
from genlab.metrics.score import Score

if TYPE_CHECKING:
    from genlab.trainers.evaluation import EvaluationData

AT_ONCE = 64


def corpus_bleu(found: list[str], expected: list[str], lowercase: bool) -> tuple[float, str]:
    """(BLEU from 0 to 100, sacrebleu's signature) of translations as a person writes them.

    Raises:
        RunError: sacrebleu is not installed.
    """
    try:
        from sacrebleu.metrics import BLEU
    except ImportError:
        raise RunError("BLEU: expected the package sacrebleu, got none; pip install 'genlab[text]'") from None
    metric = BLEU(lowercase=lowercase)
    value = metric.corpus_score(found, [expected]).score
    return value, str(metric.get_signature())


def caption_bleu(found: list[str], references: list[list[str]], order: int, lowercase: bool) -> tuple[float, str]:
    """(BLEU of n-grams up to `order`, 0 to 100, sacrebleu's signature) of captions with one or several references each.

    Raises:
        RunError: sacrebleu is not installed.
    """
    try:
        from sacrebleu.metrics import BLEU
    except ImportError:
        raise RunError("BLEU: expected the package sacrebleu, got none; pip install 'genlab[text]'") from None
    most = max(len(row) for row in references)
    streams = [[row[number] if number < len(row) else None for row in references] for number in range(most)]
    metric = BLEU(lowercase=lowercase, max_ngram_order=order)
    value = metric.corpus_score(found, streams).score
    return value, f"{metric.get_signature()}|order:{order}"


def bleu_scores(trainer: Any, data: EvaluationData, facts: dict[str, Any]) -> list[Score]:
    """ "val_bleu" and "test_bleu" against the sentences of the files, not against their tokens.

    Args:
        trainer: has `translate`.
        data: of the run; `samples` sentences of each part are translated at most, evenly spaced.
        facts: what else the numbers depend on.
    """
    from genlab.data import evenly_spaced
    from genlab.metrics.text_scores import scored_parts, source_facts

    scores = []
    for dataset in scored_parts(trainer, data):
        pairs = [dataset.texts[row] for row in evenly_spaced(len(dataset), data.samples)]
        found: list[str] = []
        for at in range(0, len(pairs), AT_ONCE):
            sources = [source for source, _ in pairs[at : at + AT_ONCE]]
            found += trainer.translate(sources, cut=data.config.data.max_length)
            data.progress("translation", len(found), len(pairs))
        value, signature = corpus_bleu(found, [target for _, target in pairs], data.config.data.lowercase)
        protocol = {"real": source_facts(dataset, len(pairs)), "sacrebleu": signature, **facts}
        scores.append(Score(f"{dataset.split}_bleu", value, None, protocol, lower_is_better=False))
    return scores

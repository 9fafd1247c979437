"""Scores of word vectors: how well held-out words are predicted, and analogies."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from genlab.analogies import answer, read_questions
from genlab.data.word_blocks import WordBlocks
from genlab.metrics.score import Score
from genlab.metrics.text_scores import scored_parts, source_facts
from genlab.word_vectors import WordVectors

if TYPE_CHECKING:
    from genlab.trainers.evaluation import EvaluationData
    from genlab.trainers.word2vec import Word2vecTrainer


def prediction_scores(trainer: Word2vecTrainer, data: EvaluationData) -> list[Score]:
    """The objective's mean, "<part>_nats_per_prediction", on the parts that are not trained on.

    Where none of them is in the vocabulary, the trained part itself is scored.

    Only runs of one objective, number of negatives and vocabulary can be compared by it.
    """
    model, settings = trainer.config.model, trainer.config.data
    own_part = settings.vocabulary_part == "split" or settings.split != "train"
    parts = [data.dataset(settings.split)] if own_part else scored_parts(trainer, data)
    scores = []
    for dataset in parts:
        blocks = WordBlocks(dataset, settings.batch_size)
        totals = trainer.measure(blocks, data.seed)
        protocol: dict[str, Any] = {
            "real": source_facts(dataset, len(blocks.words)),
            **model.model_dump(include={"architecture", "objective", "window", "subsample"}),
            "negatives": model.negatives if model.objective == "negative_sampling" else None,
            "predictions": totals.predictions,
            "seed": data.seed,
        }
        value = totals.loss / max(totals.predictions, 1)
        name = "train" if own_part else dataset.split
        scores.append(Score(f"{name}_nats_per_prediction", value, None, protocol, lower_is_better=True))
    return scores


def analogy_scores(vectors: WordVectors, file: Path) -> list[Score]:
    """Shares of questions: "analogy_accuracy", answered rightly of those whose words are all known, and
    "analogy_coverage", whose words are all known."""
    questions = read_questions(file)
    result = answer(vectors, questions)
    protocol = {
        "questions": file.name,
        "count": result.asked,
        "of": len(questions),
        "vocabulary": len(vectors.words),
        "sections": {name: f"{right}/{asked}" for name, (right, asked) in result.sections.items()},
        "rule": "nearest to b - a + c by cosine, the three left out",
    }
    return [
        Score("analogy_accuracy", result.accuracy, None, protocol, lower_is_better=False),
        Score("analogy_coverage", result.asked / len(questions), None, protocol, lower_is_better=False),
    ]

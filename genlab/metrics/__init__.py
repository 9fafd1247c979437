"""Scores of generated images, each with the protocol that it depends on.

``fid`` is said of Inception's pool3 features only; in any other features the same number is ``frechet[<extractor>]``.
"""

from __future__ import annotations

from genlab.metrics.api import describe, evaluate_generator, fid, inception_score, resolve_for, save_statistics
from genlab.metrics.evaluate import check_metrics, check_suitable, default_metrics, evaluate
from genlab.metrics.extractors import EXTRACTORS, FeatureExtractor, resolve
from genlab.metrics.frechet import frechet_distance
from genlab.metrics.inception_score import InceptionScore
from genlab.metrics.kernel import kernel_distance, polynomial_mmd
from genlab.metrics.opening import open_source, run_source
from genlab.metrics.planning import check_evaluation
from genlab.metrics.points import mode_coverage
from genlab.metrics.prdc import prdc
from genlab.metrics.reservoir import Reservoir
from genlab.metrics.score import Score, score_table
from genlab.metrics.scorers import METRICS, Metric, Protocol
from genlab.metrics.sources import DatasetSource, GeneratorSource, ImageSource, IterableSource, StatisticsSource
from genlab.metrics.statistics import FeatureStatistics
from genlab.metrics.stored import FileSource

__all__ = [
    "EXTRACTORS",
    "METRICS",
    "Metric",
    "DatasetSource",
    "FeatureExtractor",
    "FeatureStatistics",
    "FileSource",
    "GeneratorSource",
    "ImageSource",
    "InceptionScore",
    "IterableSource",
    "Protocol",
    "Reservoir",
    "Score",
    "StatisticsSource",
    "check_evaluation",
    "check_metrics",
    "check_suitable",
    "default_metrics",
    "describe",
    "evaluate",
    "evaluate_generator",
    "fid",
    "frechet_distance",
    "inception_score",
    "kernel_distance",
    "mode_coverage",
    "open_source",
    "polynomial_mmd",
    "prdc",
    "resolve",
    "resolve_for",
    "run_source",
    "save_statistics",
    "score_table",
]

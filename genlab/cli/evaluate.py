"""`genlab evaluate`: the scores of a trained model, each printed and written with its protocol."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from genlab.cli.console import make_console, print_wide_table, progress_reporter
from genlab.cli.generate import CheckpointArgument, DeviceOption, Weights, WeightsOption, WhichOption, open_model
from genlab.cli.score_output import (
    InceptionOption,
    JsonOption,
    SeedOption,
    append_scores,
    parse_metrics,
    print_scores,
)
from genlab.errors import UserError

if TYPE_CHECKING:
    from genlab.checkpoint import Bundle


def register(app: typer.Typer) -> None:
    app.command("evaluate", epilog="Example: genlab evaluate runs/dcgan_digits-1 --metrics fid,is,prdc --which best")(
        evaluate
    )


def evaluate(
    checkpoint: CheckpointArgument,
    metrics: Annotated[
        str | None,
        typer.Option(help="Of fid,is,kid,prdc,modes,own; default: the run's evaluate.metrics.", metavar="LIST"),
    ] = None,
    extractor: Annotated[
        str | None,
        typer.Option(
            help="auto, inception, classifier, rotation, pixels, or a classifier's run; default: the run's.",
            metavar="NAME|RUN",
        ),
    ] = None,
    inception_weights: InceptionOption = None,
    samples: Annotated[
        int | None, typer.Option(help="Pictures drawn; default: the run's evaluate.samples.", min=2)
    ] = None,
    split: Annotated[
        str | None,
        typer.Option(
            help="Part of the data that is compared with; default: the run's. Of a classifier: train, validation or "
            "test [test].",
            metavar="SPLIT",
        ),
    ] = None,
    prevalence: Annotated[
        list[str] | None,
        typer.Option(
            help="Of a classifier: share of a class where it will be used, for PPV and NPV; several times for several.",
            metavar="CLASS=SHARE",
        ),
    ] = None,
    segmenter: Annotated[
        Path | None,
        typer.Option(
            help="Of a pix2pix that makes photographs of label maps: a run of algorithm segmentation that finds the "
            "labels in them again (FCN score).",
            metavar="RUN",
        ),
    ] = None,
    analogies: Annotated[
        Path | None,
        typer.Option(
            help="Of word2vec: questions to answer, lines A B C D under headings `: section` (questions-words.txt).",
            metavar="FILE",
        ),
    ] = None,
    stride: Annotated[
        int | None,
        typer.Option(
            help="Of a language model that is a Transformer: tokens by which the scored window moves on, so that each "
            "token sees more before it; default: the run's score_stride.",
            metavar="TOKENS",
        ),
    ] = None,
    seed: SeedOption = 0,
    which: WhichOption = "last",
    weights: WeightsOption = Weights.ema,
    device: DeviceOption = None,
    as_json: JsonOption = False,
) -> None:
    """Score a trained model against its data; rows go to the run's metrics.jsonl."""
    from genlab.trainers.evaluation import score_trainer, split_metrics

    names = parse_metrics(metrics, own=True) if metrics is not None else None
    model = open_model(checkpoint, which, weights, device)
    algorithm = model.config.algorithm
    if segmenter is not None and algorithm != "pix2pix":
        raise UserError(f"--segmenter: expected a model of algorithm pix2pix, got one of {algorithm}")
    if analogies is not None and algorithm != "word2vec":
        raise UserError(f"--analogies: expected a model of algorithm word2vec, got one of {algorithm}")
    if stride is not None:
        _set_stride(model, stride)
    if is_classifier(model):
        refuse_of_samples(names, extractor, samples)
        _evaluate_classes(model, split, prevalence or [], as_json)
        return
    if prevalence:
        raise UserError(f"--prevalence: expected a model of algorithm classifier, got one of {algorithm}")
    of_samples, _ = split_metrics(model.config.evaluate.metrics if names is None else names, algorithm)
    if split is not None and of_samples == []:
        raise UserError(
            f"--split: expected metrics of samples, such as fid, beside it, got {split!r} with own scores only"
        )
    with progress_reporter() as progress:
        scores = score_trainer(
            model.trainer,
            metrics=names,
            extractor=extractor,
            inception_weights=inception_weights,
            samples=samples,
            split=split,
            seed=seed,
            facts=checkpoint_facts(model),
            progress=progress,
        )
        if segmenter is not None:
            scores += _fcn_scores(model, segmenter, samples, seed, progress)
    if analogies is not None:
        scores += _analogy_scores(model, analogies)
    if not scores:
        asked = "--metrics" if names else "evaluate.metrics of the run"
        raise UserError(
            f"{checkpoint}: {asked} asks for no score that algorithm {algorithm} has; name some, such as fid"
        )
    written = append_scores(model.path, model.step, scores)
    print_scores(scores, as_json)
    if written is not None and not as_json:
        print(f"written to {written}")


def _set_stride(model: Bundle, stride: int) -> None:
    from genlab.config import parse_config

    if model.config.algorithm != "language_model":
        raise UserError(f"--stride: expected a model of algorithm language_model, got one of {model.config.algorithm}")
    model.trainer.config = parse_config({**model.config.model_dump(mode="json"), "score_stride": stride}, "--stride")


def checkpoint_facts(model: Bundle) -> dict[str, Any]:
    """What a protocol says of the weights that were judged."""
    return {"checkpoint": model.path.name, "step": model.step, "weights": model.weights}


def _fcn_scores(model: Bundle, segmenter: Path, samples: int | None, seed: int, progress: Any) -> list[Any]:
    from dataclasses import replace

    from genlab.checkpoint import load_bundle
    from genlab.segmentation_scores import fcn_scores
    from genlab.trainers.evaluation import EvaluationData

    device = model.trainer.device
    judge = load_bundle(segmenter, device=device)
    data = EvaluationData(model.config, device, samples or model.config.evaluate.samples, seed, progress)
    found = fcn_scores(model.trainer, judge, data)
    return [replace(score, protocol={**score.protocol, **checkpoint_facts(model)}) for score in found]


def _analogy_scores(model: Bundle, file: Path) -> list[Any]:
    from dataclasses import replace

    from genlab.trainers.word2vec_scores import analogy_scores

    found = analogy_scores(model.trainer.vectors(), file)
    return [replace(score, protocol={**score.protocol, **checkpoint_facts(model)}) for score in found]


def is_classifier(model: Bundle) -> bool:
    from genlab.trainers.classifier import ClassifierTrainer

    return isinstance(model.trainer, ClassifierTrainer)


def refuse_of_samples(metrics: Sequence[str] | None, extractor: str | None, samples: int | None) -> None:
    """Raises UserError where options of generators are asked of a classifier."""
    given = {
        "--metrics": ",".join(metrics) if metrics and metrics != ["own"] else None,
        "--extractor": extractor,
        "--samples": samples,
    }
    for name, value in given.items():
        if value is not None:
            raise UserError(f"{name}: expected a model that makes images, got a classifier; leave {name} {value} out")


def _evaluate_classes(model: Bundle, part: str | None, prevalences: Sequence[str], as_json: bool) -> None:
    """The whole evaluation of a classifier: scores, a table of classes, pictures in the run and its report."""
    from genlab.cli.classify import evaluate_classifier

    scores, rows, files = evaluate_classifier(model, part, prevalences)
    written = append_scores(model.path, model.step, scores)
    print_scores(scores, as_json)
    if as_json:
        return
    columns = ["class", "count", "precision", "recall", "F1", "AUC", "AP", "sensitivity", "specificity", "PPV", "NPV",
               "prevalence"]  # fmt: skip
    print_wide_table(make_console(), None, columns, rows, right=columns[1:])
    for path in [written, *files]:
        if path is not None:
            print(f"written to {path}")

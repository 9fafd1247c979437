"""Verbs that give numbers: evaluate, fid, is, statistics. Every number is printed and written with its protocol."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from genlab.cli.console import format_protocol, make_console, make_table, progress_reporter
from genlab.cli.devices import choose_device
from genlab.cli.generate import CheckpointArgument, DeviceOption, Weights, WeightsOption, WhichOption, open_model
from genlab.errors import UserError

if TYPE_CHECKING:
    from genlab.checkpoint import Bundle

SOURCE = "Folder or zip of images, npz of statistics or images, run or checkpoint."
InceptionOption = Annotated[
    Path | None,
    typer.Option(
        help="pytorch-fid's Inception file; default: $GENLAB_INCEPTION_WEIGHTS, then its download.", metavar="PATH"
    ),
]
BatchOption = Annotated[int, typer.Option(help="Images per pass through the network.", min=1)]
SeedOption = Annotated[int, typer.Option(help="Seed of drawn samples, splits and subsets.", min=0)]
LimitOption = Annotated[int | None, typer.Option(help="Use only the first so many images of each side.", min=2)]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON, one score a line, instead of a table.")]


def register(app: typer.Typer) -> None:
    app.command("evaluate", epilog="Example: genlab evaluate runs/dcgan_digits-1 --metrics fid,is,prdc --which best")(
        evaluate
    )
    app.command("fid", epilog="Example: genlab fid real_images/ generated_images.zip")(fid)
    app.command("is", epilog="Example: genlab is generated_images/")(inception_score)
    app.command("statistics", epilog="Example: genlab statistics real_images/ real.npz")(statistics)


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
    make_console().print(make_table(None, columns, rows, right=columns[1:]))
    for path in [written, *files]:
        if path is not None:
            print(f"written to {path}")


def append_scores(checkpoint: Path, step: int, scores: Sequence[Any]) -> Path | None:
    """Adds rows to metrics.jsonl and renews the report, where the checkpoint lies in a run directory."""
    run = checkpoint.parent.parent
    if checkpoint.parent.name != "checkpoints" or not (run / "config.yaml").is_file():
        return None
    from genlab.report import write_report
    from genlab.runs import JsonLines

    rows = JsonLines(run / "metrics.jsonl")
    for score in scores:
        rows.append({"step": step, "checkpoint": checkpoint.name, **score.to_json()})
    write_report(run)
    return rows.path


def fid(
    a: Annotated[Path, typer.Argument(help=SOURCE, metavar="A")],
    b: Annotated[Path, typer.Argument(help=SOURCE, metavar="B")],
    inception_weights: InceptionOption = None,
    dims: Annotated[
        int, typer.Option(help="Features of 64, 192, 768 or 2048 numbers; only 2048 is called FID.")
    ] = 2048,
    metrics: Annotated[str, typer.Option(help="Of fid,is,kid,prdc, in one pass.", metavar="LIST")] = "fid",
    samples: Annotated[int, typer.Option(help="Pictures drawn where A or B is a run.", min=2)] = 50_000,
    limit: LimitOption = None,
    batch_size: BatchOption = 50,
    seed: SeedOption = 0,
    device: DeviceOption = None,
    as_json: JsonOption = False,
) -> None:
    """Frechet Inception Distance of the images in B against those in A, as pytorch-fid computes it."""
    from genlab import metrics as scoring

    names = parse_metrics(metrics)
    with progress_reporter() as progress:
        scores = scoring.fid(
            a,
            b,
            inception_weights=inception_weights,
            dims=dims,
            metrics=names,
            samples=samples,
            batch_size=batch_size,
            device=choose_device(device),
            protocol=scoring.Protocol(seed=seed, limit=limit),
            progress=progress,
        )
    print_scores(scores, as_json)


def inception_score(
    images: Annotated[Path, typer.Argument(help=SOURCE, metavar="DIR")],
    inception_weights: InceptionOption = None,
    samples: Annotated[int, typer.Option(help="Pictures drawn where it is a run.", min=2)] = 50_000,
    limit: LimitOption = None,
    batch_size: BatchOption = 50,
    seed: SeedOption = 0,
    device: DeviceOption = None,
    as_json: JsonOption = False,
) -> None:
    """Inception Score of images, mean and deviation over ten splits."""
    from genlab import metrics as scoring

    with progress_reporter() as progress:
        score = scoring.inception_score(
            images,
            inception_weights=inception_weights,
            samples=samples,
            batch_size=batch_size,
            device=choose_device(device),
            protocol=scoring.Protocol(seed=seed, limit=limit),
            progress=progress,
        )
    print_scores([score], as_json)


def statistics(
    images: Annotated[Path, typer.Argument(help=SOURCE, metavar="DIR")],
    output: Annotated[Path, typer.Argument(help="The .npz to write; pytorch-fid reads it too.", metavar="OUT.npz")],
    inception_weights: InceptionOption = None,
    dims: Annotated[int, typer.Option(help="Features of 64, 192, 768 or 2048 numbers.")] = 2048,
    batch_size: BatchOption = 50,
    device: DeviceOption = None,
) -> None:
    """Save mean and covariance of Inception features, so that a reference set is read only once."""
    from genlab import metrics as scoring

    with progress_reporter() as progress:
        path = scoring.save_statistics(
            images, output, inception_weights=inception_weights, dims=dims, batch_size=batch_size,
            device=choose_device(device), progress=progress,
        )  # fmt: skip
    print(path)


def parse_metrics(text: str, *, own: bool = False) -> list[str]:
    """ "fid,is" -> ["fid", "is"], each name checked before anything is loaded.

    Args:
        text: what the user wrote.
        own: whether "own", the algorithm's own scores, may stand among them.
    """
    from genlab.metrics import check_metrics

    names = [name.strip().lower() for name in text.split(",") if name.strip()]
    of_samples = [name for name in names if not (own and name == "own")]
    return (check_metrics(of_samples) if of_samples or not names else []) + ["own"] * (len(of_samples) < len(names))


def print_scores(scores: Sequence[Any], as_json: bool) -> None:
    """A table with the protocol of every number under it, or one JSON object a line."""
    if as_json:
        for score in scores:
            print(json.dumps(score.to_json()))
        return
    from genlab.metrics import score_table

    rows = score_table(scores)
    console = make_console()
    columns = ["score", "value", "better", "extractor", "real", "fake"]
    console.print(make_table(None, columns, [[row[c] for c in columns] for row in rows], right=["value"]))
    for line in protocol_lines(scores):
        console.print(line, style="dim", markup=False, soft_wrap=True)


# Stand in the table's own columns.
_IN_TABLE = {"extractor", "extractor_hash", "real", "fake"}


def protocol_lines(scores: Sequence[Any]) -> list[str]:
    """What all scores share once, then what only some of them have."""
    protocols = [{k: v for k, v in s.protocol.items() if k not in _IN_TABLE and v is not None} for s in scores]
    shared = {key: value for key, value in protocols[0].items() if all(p.get(key) == value for p in protocols)}
    lines = [f"protocol: {format_protocol(shared)}"] if shared else []
    own: dict[str, list[str]] = {}
    for score, protocol in zip(scores, protocols, strict=True):
        rest = {key: value for key, value in protocol.items() if key not in shared}
        if rest:
            own.setdefault(format_protocol(rest), []).append(score.name)
    return lines + [f"{', '.join(names)}: {text}" for text, names in own.items()]

"""Whether a checkpoint may be continued with a configuration and on the data at hand."""

from __future__ import annotations

from genlab.checkpoint import Checkpoint
from genlab.config import RunConfig, diff_configs, parse_config
from genlab.errors import CheckpointError, RunError
from genlab.schedules import depends_on_total_steps

# Keys that change neither the weights of steps already taken nor those to come: they may differ when resuming.
HARMLESS_KEYS = (
    "train.steps",
    "train.log_every",
    "train.sample_every",
    "train.sample_count",
    "train.checkpoint_every",
    "train.keep_last",
    "train.on_nan",
    "train.on_collapse",
    "train.max_rollbacks",
    "train.tensorboard",
    "evaluate.",
    "data.root",
    "data.download",
    "data.workers",
    "kernels.require",
)


def check_compatible(checkpoint: Checkpoint, config: RunConfig, dataset_contents: str | None) -> None:
    """Refuses to continue a checkpoint under a configuration, or on data, that would make it another training.

    Args:
        checkpoint: what is to be continued.
        config: the configuration to continue with.
        dataset_contents: of the training set at hand; compared where the checkpoint knows its own.

    Raises:
        CheckpointError: another algorithm.
        RunError: a changed configuration, each difference listed, or other data.
    """
    algorithm = checkpoint.state["algorithm"]
    if algorithm != config.algorithm:
        raise CheckpointError(
            f"checkpoint {checkpoint.path}: is of algorithm {algorithm!r}, expected {config.algorithm!r}; "
            "resume with the configuration that it was trained with"
        )
    saved = parse_config(checkpoint.state["config"], source=f"checkpoint {checkpoint.path}")
    differences = [line for line in diff_configs(saved, config) if not _is_harmless(line, saved)]
    if differences:
        raise RunError(
            f"resume from {checkpoint.path}: the configuration changed: {'; '.join(differences)}. "
            "Resume with the old values, or start a new run"
        )
    known = checkpoint.state.get("dataset_contents")
    if known and dataset_contents and known != dataset_contents:
        raise RunError(
            f"resume from {checkpoint.path}: data set {config.data.name!r} holds other samples than when the run began "
            f"(names and sizes of its files, or what it is drawn with: {known[:12]}, now {dataset_contents[:12]}); "
            "restore them, or start a new run"
        )


def _is_harmless(difference: str, saved: RunConfig) -> bool:
    key = difference.split(":", 1)[0]
    if key == "train.steps" and depends_on_total_steps(saved.train.schedule):
        return False
    return any(key == harmless or (harmless.endswith(".") and key.startswith(harmless)) for harmless in HARMLESS_KEYS)

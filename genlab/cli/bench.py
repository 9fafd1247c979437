"""`genlab bench`: timings against plain PyTorch, with everything that they depend on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from genlab.cli import bench_ops
from genlab.cli.console import make_console, make_table, progress_reporter
from genlab.cli.devices import choose_device
from genlab.errors import UserError

EXAMPLE = "Example: genlab bench step --batch 64 --precision fp32 --rounds 20 --json step.json"
# Workload, side of the images, images of a step.
CONFIGS = {f"dcgan-{size}": ("dcgan", size, 64) for size in (28, 32, 64, 128)}
CONFIGS["cyclegan_resnet9"] = ("cyclegan_resnet9", 128, 1)
# Models of `genlab.bench.workloads`, which has their sizes: importing it here would load torch for every verb's help.
TRAINED = (
    *("lenet5_mnist", "resnet18_cifar10", "vit_cifar10", "rnn_characters", "gru_characters", "lstm_characters"),
    *("transformer_characters", "transformer_multi30k"),
)
NAMES = (*CONFIGS, *TRAINED)


def register(app: typer.Typer) -> None:
    group = typer.Typer(help="Measure against plain PyTorch.", rich_markup_mode="rich", invoke_without_command=True)
    group.command("op", epilog=bench_ops.OP_EXAMPLE)(bench_ops.op)
    group.command("step", epilog=EXAMPLE)(step)
    group.command("tune", epilog=bench_ops.TUNE_EXAMPLE)(bench_ops.tune)

    @group.callback()
    def bench(
        context: typer.Context,
        refresh: Annotated[
            bool, typer.Option("--tune", help="Refresh the table that auto reads; `genlab bench tune` has options.")
        ] = False,
    ) -> None:
        """Measure against plain PyTorch."""
        if context.invoked_subcommand is None:
            if refresh:
                bench_ops.tune()
            else:
                raise UserError("bench: expected op, step or tune; see `genlab bench --help`")
        elif refresh:
            verb = context.invoked_subcommand
            raise UserError(f"--tune: expected without a verb, got {verb}; use `genlab bench tune`")

    app.add_typer(group, name="bench")


def step(
    config: Annotated[str, typer.Option(help=f"What is trained: {', '.join(NAMES)}.", metavar="NAME")] = "dcgan-64",
    batch: Annotated[
        int | None, typer.Option(help="Pictures or sequences of a step; default: as many as the preset has.", min=1)
    ] = None,
    precision: Annotated[str, typer.Option(help="fp32 or bf16-mixed.", metavar="NAME")] = "fp32",
    rounds: Annotated[int, typer.Option(help="Turns of each arm.", min=1)] = 10,
    steps: Annotated[int, typer.Option(help="Steps timed together in a turn.", min=1)] = 3,
    channels: Annotated[
        int | None, typer.Option(help="Channels of the GANs' images; default: 3.", min=1, max=4)
    ] = None,
    base_channels: Annotated[int | None, typer.Option(help="Width of the GANs; default: DCGAN's 64.", min=1)] = None,
    length: Annotated[
        int | None, typer.Option(help="Tokens of a sequence; default: 128 recurrent, 256 causal, 16 translated.", min=2)
    ] = None,
    width: Annotated[
        int | None, typer.Option(help="Width of the models of text, a multiple of 4; default: 256.", min=4)
    ] = None,
    threads: Annotated[int | None, typer.Option(help="Threads of each arm; default: torch's choice.", min=1)] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda or cuda:N.", metavar="DEVICE")] = "cpu",
    compiled: Annotated[
        bool, typer.Option("--compile/--no-compile", help="Let torch.compile take part (a minute to start).")
    ] = True,
    output: Annotated[Path | None, typer.Option("--json", help="File to write the result to.", metavar="PATH")] = None,
) -> None:
    """Time the lab's training step against the same networks in plain torch, turn by turn on the same data."""
    from genlab.bench.step import StepSettings, run_step_bench
    from genlab.registry import nearest

    if config not in NAMES:
        guess = nearest(config, NAMES)
        hint = f"; did you mean {guess!r}?" if guess else ""
        raise UserError(f"--config: expected one of {', '.join(NAMES)}, got {config!r}{hint}")
    sizes = _sizes_of(config, batch, {"channels": channels, "base_channels": base_channels}, length, width)
    settings = StepSettings(
        **sizes, precision=precision, rounds=rounds, steps=steps, threads=threads, device=choose_device(device),
        compiled=compiled,
    )  # fmt: skip
    with progress_reporter() as progress:
        result = run_step_bench(settings, lambda done, total: progress("rounds", done, total))
    print_result(result)
    if output is not None:
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
        print(f"written to {output}")


def _sizes_of(
    config: str, batch: int | None, of_gans: dict[str, int | None], length: int | None, width: int | None
) -> dict[str, Any]:
    """The workload and its sizes, with what the options say in place of the preset's.

    Raises:
        UserError: a size that this workload does not have, or that does not fit it.
    """
    given = {name: value for name, value in (*of_gans.items(), ("length", length), ("width", width)) if value}
    if config in CONFIGS:
        workload, size, usual_batch = CONFIGS[config]
        usual = {"size": size, "batch": usual_batch, "channels": 3, "base_channels": 64}
        known = set(of_gans)
        if workload == "dcgan" and batch == 1:
            raise UserError(f"--batch: expected at least 2 for {config}, whose batch normalisation needs them, got 1")
    else:
        from genlab.bench.workloads import WORKLOADS

        workload, model = config, WORKLOADS[config]
        usual = {name: getattr(model, name) for name in ("size", "channels", "length", "width")}
        usual["batch"] = model.batch_size
        known = {"length", "width"} if model.length else set()
        if width is not None and width % 4:
            raise UserError(f"--width: expected a multiple of the 4 heads, got {width}")
    for name in given:
        if name not in known:
            raise UserError(f"--{name.replace('_', '-')}: {config} has no such size; leave it out")
    return {"workload": workload, **usual, **given, **({} if batch is None else {"batch": batch})}


def print_result(result: dict[str, Any]) -> None:
    settings, machine = result["settings"], result["machine"]
    rows = [
        [
            row["arm"],
            f"{row['seconds_per_step'] * 1000:.1f} ms ± {row['spread']:.1%}",
            f"{row['samples_per_second']:.1f}",
            f"{row['lab_is_quicker_by']:.3f} ± {row['ratio_spread']:.1%}",
            f"{row['same_against_same']:.3f}",
            f"{row['loss_difference']:.1e}",
            "" if row["peak_bytes"] is None else f"{row['peak_bytes'] / 2**20:.0f} MiB",
            "" if row["lab_peak_share"] is None else f"{row['lab_peak_share']:.2f}",
        ]
        for row in result["arms"]
    ]
    columns = ["arm", "step (median)", "samples/s", "time over genlab's", "over its own", "losses differ by"]
    columns += ["peak memory", "genlab's over it"]
    title = f"{_name_of(settings)}, batch {settings['batch']}, {settings['precision']}, {settings['device']}"
    console = make_console()
    console.print(make_table(title, columns, rows, right=columns[1:]))
    where = machine["gpu"] if settings["device"] != "cpu" else f"{machine['cpu']}, {machine['threads']} threads"
    console.print(
        f"{where}; torch {machine['torch']}; {settings['rounds']} turns of {settings['steps']} steps each, "
        f"the arms taking turns; commit {result['commit']}",
        markup=False,
    )
    for arm, reason in result["left_out"].items():
        console.print(f"left out: {arm}: {reason}", markup=False)


def _name_of(settings: dict[str, Any]) -> str:
    """What was measured, with its size."""
    workload = settings["workload"]
    if settings["length"]:
        return f"{workload}, {settings['length']} tokens, width {settings['width']}"
    name = {"dcgan": "DCGAN", "cyclegan_resnet9": "CycleGAN ResNet-9 generator"}.get(workload, workload)
    return f"{name}, {settings['size']} px"

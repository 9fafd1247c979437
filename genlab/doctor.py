"""`genlab doctor`: is this machine ready, and which one command mends what is not.

`gather` looks at the machine; `diagnose` judges plain facts, so that every verdict can be tested without the machine.
"""

from __future__ import annotations

import dataclasses
import os
import platform
import re
import shutil
import subprocess
import sys
import sysconfig
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

MINIMUM_PYTHON = (3, 10)
MINIMUM_TORCH = (2, 11)
MINIMUM_GCC = 11  # torch's headers are C++20
BUILD_BYTES = 2 * 2**30  # objects and library of a build, with room
BUILD, REBUILD = "genlab build", "genlab build --force"

Verdict = Literal["ok", "note", "warn", "fail"]


@dataclass
class Facts:
    """What was found on the machine; None stands for "not there"."""

    python: tuple[int, ...] = sys.version_info[:3]
    python_headers: bool = True
    torch: str | None = None
    torch_cuda: str | None = None
    torch_problem: str = ""
    compiler: str | None = None  # first line of its --version
    nvcc: str | None = None  # path
    nvcc_cuda: str | None = None  # release, such as "13.0"
    ninja: str | None = None
    gpus: list[tuple[str, str]] = field(default_factory=list)  # (name, "9.0")
    disk_free: int | None = None  # bytes, where the package is built
    cache: str = ""
    cache_free: int | None = None
    cache_writable: bool = True
    extension: bool = False
    extension_reason: str = ""
    extension_cuda: bool = False
    build: dict[str, Any] = field(default_factory=dict)  # metadata written by the build
    source_hash: str | None = None  # of csrc as it is now; None where the sources did not come along
    ops: list[Any] = field(default_factory=list)  # genlab.ops.describe()
    inception: str | None = None  # file of weights
    data: str = ""


@dataclass
class Finding:
    """One line of the examination.

    Attributes:
        verdict: ok; note (a part that is not needed is absent); warn (works, but not as it could); fail (cannot run).
        command: what mends it, "" when nothing has to be mended or no single command can.
    """

    subject: str
    verdict: Verdict
    text: str
    command: str = ""


def diagnose(facts: Facts) -> list[Finding]:
    """The findings in the order in which they should be mended."""
    checks = (_python, _torch, _compiler, _nvcc, _ninja, _gpu, _disk, _cache, _extension, _inception, _data)
    return [finding for check in checks if (finding := check(facts)) is not None]


def remedy(findings: list[Finding]) -> str:
    """The one command to run: that of the gravest finding, the first among equals; "" when nothing is to mend."""
    for verdict in ("fail", "warn"):
        for finding in findings:
            if finding.verdict == verdict and finding.command:
                return finding.command
    return ""


def usable(findings: list[Finding]) -> bool:
    """Whether the lab runs at all, on plain PyTorch if need be."""
    return all(finding.verdict != "fail" for finding in findings)


def _python(facts: Facts) -> Finding:
    text = ".".join(map(str, facts.python))
    if facts.python[:2] < MINIMUM_PYTHON:
        return Finding("python", "fail", f"{text}; expected 3.10 or newer", "make PYTHON=python3.12 train")
    if not facts.python_headers:
        command = f"apt-get install python{facts.python[0]}.{facts.python[1]}-dev"
        return Finding("python", "warn", f"{text}, without its C headers: the kernels cannot be built", command)
    return Finding("python", "ok", text)


def _torch(facts: Facts) -> Finding:
    if facts.torch is None:
        return Finding("torch", "fail", facts.torch_problem or "not installed", "pip install 'torch>=2.11'")
    version = tuple(int(part) for part in re.findall(r"\d+", facts.torch)[:2])
    build = f"built for CUDA {facts.torch_cuda}" if facts.torch_cuda else "CPU build"
    if version < MINIMUM_TORCH:
        return Finding("torch", "fail", f"{facts.torch}; expected 2.11 or newer", "pip install -U 'torch>=2.11'")
    return Finding("torch", "ok", f"{facts.torch} ({build})")


def _compiler(facts: Facts) -> Finding:
    if facts.compiler is None:
        text = "no C++ compiler found: the lab runs on plain PyTorch"
        return Finding("compiler", "note" if facts.extension else "warn", text, "apt-get install g++")
    match = re.search(r"(\d+)\.\d+\.\d+\s*$", facts.compiler)
    is_gcc = "g++" in facts.compiler or "gcc" in facts.compiler.lower() or "GCC" in facts.compiler
    if is_gcc and match and int(match.group(1)) < MINIMUM_GCC:
        return Finding(
            "compiler", "warn", f"{facts.compiler}; expected GCC {MINIMUM_GCC} or newer", "apt-get install g++-12"
        )
    return Finding("compiler", "ok", facts.compiler)


def _nvcc(facts: Facts) -> Finding:
    if facts.nvcc is None:
        verdict: Verdict = "warn" if facts.gpus else "note"
        return Finding("nvcc", verdict, "not found: kernels are built for the CPU only" + _gpu_hint(facts))
    text = f"{facts.nvcc_cuda or 'unknown release'} at {facts.nvcc}"
    if facts.torch_cuda is None:
        return Finding("nvcc", "note", f"{text}; not used, because torch is a CPU build")
    if facts.nvcc_cuda and facts.nvcc_cuda.split(".")[0] != facts.torch_cuda.split(".")[0]:
        text += f"; torch is built for CUDA {facts.torch_cuda}, which must agree: kernels are built for the CPU only"
        return Finding("nvcc", "warn" if facts.gpus else "note", text)
    return Finding("nvcc", "ok", text)


def _gpu_hint(facts: Facts) -> str:
    return f"; install the CUDA {facts.torch_cuda} toolkit to use them on {facts.gpus[0][0]}" if facts.gpus else ""


def _ninja(facts: Facts) -> Finding:
    if facts.ninja is None:
        return Finding(
            "ninja", "note" if facts.extension else "warn", "not found: building takes longer", "pip install ninja"
        )
    return Finding("ninja", "ok", facts.ninja)


def _gpu(facts: Facts) -> Finding:
    if not facts.gpus:
        return Finding("gpu", "note", "none; training runs on the CPU")
    described = ", ".join(f"{name} (sm_{capability.replace('.', '')})" for name, capability in facts.gpus)
    if not facts.extension_cuda:
        return Finding("gpu", "ok", described)
    built = {_architecture(arch) for arch in re.split(r"[;\s]+", facts.build.get("architectures") or "") if arch}
    lacking = [name for name, capability in facts.gpus if built and not _covers(built, capability)]
    if lacking:
        text = f"{described}; the kernels were built for sm_{', sm_'.join(sorted(built))} only"
        return Finding("gpu", "warn", text, f"TORCH_CUDA_ARCH_LIST={facts.gpus[0][1]} {REBUILD}")
    return Finding("gpu", "ok", described)


def _architecture(text: str) -> str:
    """ "9.0", "sm_90" or "9.0a+PTX" -> "90"."""
    return re.sub(r"\D", "", str(text).split("+")[0])


def _covers(built: set[str], capability: str) -> bool:
    """Machine code runs on the same major generation with an equal or higher minor one."""
    major, _, minor = capability.partition(".")
    return any(arch[:-1] == major and int(arch[-1]) <= int(minor or 0) for arch in built)


def _disk(facts: Facts) -> Finding | None:
    if facts.disk_free is None:
        return None
    text = f"{facts.disk_free / 2**30:.1f} GiB free"
    if facts.disk_free < BUILD_BYTES:
        return Finding("disk", "warn", f"{text}; a build and a run want {BUILD_BYTES / 2**30:.0f} GiB")
    return Finding("disk", "ok", text)


def _cache(facts: Facts) -> Finding | None:
    if not facts.cache:
        return None
    if not facts.cache_writable:
        return Finding("cache", "fail", f"{facts.cache} cannot be written to", "export GENLAB_CACHE=/tmp/genlab-cache")
    return Finding("cache", "ok", facts.cache)


def _extension(facts: Facts) -> Finding:
    if not facts.extension:
        can_build = facts.compiler is not None and facts.python_headers
        reason = facts.extension_reason or "not built"
        command = (REBUILD if facts.build else BUILD) if can_build else ""
        return Finding("kernels", "warn", f"{reason}: the lab runs on plain PyTorch", command)
    built_for = f"built for torch {facts.build.get('torch', '?')}"
    built_for += f" with CUDA {facts.build['cuda']}" if facts.build.get("cuda") else ", CPU only"
    if facts.build.get("torch") and facts.torch and facts.build["torch"] != facts.torch:
        return Finding("kernels", "warn", f"{built_for}; this is torch {facts.torch}", REBUILD)
    built_hash = facts.build.get("source_hash")
    if facts.source_hash and built_hash and built_hash != facts.source_hash:
        return Finding("kernels", "warn", f"{built_for}, from older sources than those in csrc/", BUILD)
    nvcc_fits = bool(
        facts.nvcc_cuda and facts.torch_cuda and facts.nvcc_cuda.split(".")[0] == facts.torch_cuda.split(".")[0]
    )
    if facts.gpus and nvcc_fits and not facts.extension_cuda:
        return Finding("kernels", "warn", f"{built_for}, though nvcc and a GPU are there", REBUILD)
    return Finding("kernels", "ok", built_for)


def _inception(facts: Facts) -> Finding:
    if facts.inception is None:
        text = "weights not here; FID wants --inception-weights PATH or downloads them (the offline default needs none)"
        return Finding("inception", "note", text)
    return Finding("inception", "ok", facts.inception)


def _data(facts: Facts) -> Finding | None:
    return Finding("data", "ok", facts.data) if facts.data else None


# ---------------------------------------------------------------------------------------------------------------------
# The machine


def gather() -> Facts:
    """Looks at the machine; a probe that fails counts as "not there"."""
    from genlab.build import compiler_command

    facts = Facts(
        python_headers=(Path(sysconfig.get_path("include")) / "Python.h").is_file(),
        compiler=first_line([*compiler_command(), "--version"]),
        ninja=first_line([shutil.which("ninja") or str(Path(sys.executable).parent / "ninja"), "--version"]),
        data="digits and the drawn sets come along; `genlab list datasets` shows all",
    )
    facts.nvcc, facts.nvcc_cuda = find_nvcc()
    package = Path(__file__).resolve().parent
    facts.disk_free = shutil.disk_usage(package).free
    _gather_cache(facts)
    try:
        import torch
    except (ImportError, OSError) as error:
        facts.torch_problem = f"does not import: {str(error).splitlines()[0] if str(error) else error!r}"
        return facts
    facts.torch, facts.torch_cuda = str(torch.__version__), torch.version.cuda
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            capability = torch.cuda.get_device_capability(index)
            facts.gpus.append((torch.cuda.get_device_name(index), f"{capability[0]}.{capability[1]}"))
    _gather_extension(facts)
    facts.inception = _find_inception()
    return facts


def _gather_cache(facts: Facts) -> None:
    from genlab.paths import cache_dir

    facts.cache = os.environ.get("GENLAB_CACHE") or str(Path.home() / ".cache" / "genlab")
    try:
        path = cache_dir()
        facts.cache_writable = os.access(path, os.W_OK)
        facts.cache_free = shutil.disk_usage(path).free
    except OSError:
        facts.cache_writable = False


def _gather_extension(facts: Facts) -> None:
    from genlab import _extension, build, ops

    status = _extension.status()
    facts.extension, facts.extension_reason = status.available, status.reason.split(";")[0]
    facts.extension_cuda, facts.build = status.with_cuda, status.metadata
    facts.ops = ops.describe()
    try:
        tools = build.toolchain(with_cuda=facts.build.get("with_cuda"))
        facts.source_hash = build.source_hash(build.source_root(), tools)
    except build.BuildError:
        facts.source_hash = None  # nothing to compare with: no sources, or tools that the build had are gone


def _find_inception() -> str | None:
    """The weights that FID would use, without downloading them."""
    import torch

    named = os.environ.get("GENLAB_INCEPTION_WEIGHTS")
    if named:
        return named if Path(named).is_file() else None
    found = sorted((Path(torch.hub.get_dir()) / "checkpoints").glob("pt_inception-*.pth"))
    return str(found[0]) if found else None


def find_nvcc() -> tuple[str | None, str | None]:
    """(path, release) of the nvcc that a build would use."""
    from genlab.build import find_cuda_home

    home = find_cuda_home()
    if home is None:
        return None, None
    nvcc = str(Path(home) / "bin" / "nvcc")
    match = re.search(r"release (\d+\.\d+)", _output([nvcc, "--version"]) or "")
    return nvcc, match.group(1) if match else None


def first_line(command: list[str]) -> str | None:
    """The first line that a command prints, or None when it is not there or fails."""
    output = _output(command)
    return output.strip().splitlines()[0] if output and output.strip() else None


def _output(command: list[str]) -> str | None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout if done.returncode == 0 else None


def describe_machine() -> dict[str, Any]:
    """Processor, cores and versions: what every timing has to carry."""
    import torch

    model = platform.processor() or platform.machine()
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
        model = next(line.split(":", 1)[1].strip() for line in text.splitlines() if line.startswith("model name"))
    except (OSError, StopIteration):
        pass
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    gpu = torch.cuda.get_device_name(0) if torch.cuda.is_available() else None
    return {
        "cpu": model,
        "cores": cores,
        "threads": torch.get_num_threads(),
        "gpu": gpu,
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "cuda": torch.version.cuda,
        "system": f"{platform.system()} {platform.release()}",
    }


def to_json(facts: Facts, findings: list[Finding]) -> dict[str, Any]:
    """Facts, findings and the remedy as plain values."""
    plain = dataclasses.asdict(facts)
    plain["ops"] = [dataclasses.asdict(row) if dataclasses.is_dataclass(row) else row for row in facts.ops]
    return {"facts": plain, "findings": [dataclasses.asdict(f) for f in findings], "remedy": remedy(findings)}

"""Builds the compiled kernels (genlab._C) from csrc/, for setup.py and `genlab build`; states the facts for `doctor`.

setup.py loads this file by its path before genlab can be imported, so nothing here imports the package at the top.
CUDA sources are compiled where nvcc is and torch has CUDA; whether this machine has a GPU plays no part in it.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

METADATA_NAME = "_C_build.json"
DEFAULT_ARCHITECTURES = "8.0;9.0+PTX"
PACKAGE = Path(__file__).resolve().parent


class BuildError(RuntimeError):
    """The kernels cannot be built as asked; one line that says why."""


@dataclass(frozen=True)
class Toolchain:
    """What a build would use. Fields are None where the thing is missing; `cuda_reason` says why CUDA is left out."""

    torch: str
    torch_cuda: str | None
    compiler: str | None
    compiler_version: str | None
    ninja: str | None
    cuda_home: str | None
    nvcc_version: str | None
    architectures: str
    with_cuda: bool
    cuda_reason: str


@dataclass(frozen=True)
class BuildResult:
    """Outcome of `build`. `ok` with `built` False means that the library was already up to date."""

    ok: bool
    built: bool
    reason: str
    library: Path | None
    seconds: float
    log: Path | None
    metadata: dict[str, Any] = field(default_factory=dict)


def toolchain(with_cuda: bool | None = None) -> Toolchain:
    """Looks at the machine. `with_cuda` None leaves the choice to GENLAB_WITH_CUDA (0 or 1), else to what is there.

    Raises:
        BuildError: CUDA was asked for and cannot be built, or torch is missing.
    """
    try:
        import torch
    except ImportError as error:
        raise BuildError("torch is not installed where the build runs; `pip install torch` first") from error
    if with_cuda is None and os.environ.get("GENLAB_WITH_CUDA", "") in ("0", "1"):
        with_cuda = os.environ["GENLAB_WITH_CUDA"] == "1"
    command = compiler_command()
    compiler = shutil.which(command[0])
    cuda_home = find_cuda_home()
    nvcc_version = _nvcc_version(cuda_home)
    reason = "switched off" if with_cuda is False else _cuda_reason(cuda_home, nvcc_version, torch.version.cuda)
    if with_cuda and reason:
        raise BuildError(f"CUDA was asked for, but {reason}")
    return Toolchain(
        torch=torch.__version__,
        torch_cuda=torch.version.cuda,
        compiler=compiler,
        compiler_version=_first_line([*command, "--version"]) if compiler else None,
        ninja=shutil.which("ninja") or shutil.which("ninja", path=str(Path(sys.executable).parent)),
        cuda_home=cuda_home,
        nvcc_version=nvcc_version,
        architectures=os.environ.get("TORCH_CUDA_ARCH_LIST") or DEFAULT_ARCHITECTURES,
        with_cuda=not reason,
        cuda_reason=reason,
    )


def compiler_command() -> list[str]:
    """The C++ compiler as words: CXX may hold a launcher before it (`ccache g++`)."""
    return shlex.split(os.environ.get("CXX", "")) or ["c++"]


def require_compiler(tools: Toolchain) -> None:
    """Raises BuildError where no C++ compiler runs."""
    if tools.compiler is None:
        raise BuildError("there is no C++ compiler (apt-get install g++, or set CXX)")
    if tools.compiler_version is None:
        raise BuildError(f"the C++ compiler does not run: {tools.compiler} --version (apt-get install g++, or set CXX)")


def find_cuda_home() -> str | None:
    """The CUDA toolkit with headers and nvcc: CUDA_HOME or CUDA_PATH, /usr/local/cuda, or where nvcc really lies.

    nvcc on PATH may be a wrapper far from its toolkit, so a place counts only if it holds include/cuda_runtime.h.
    """
    nvcc = shutil.which("nvcc")
    candidates = [os.environ.get("CUDA_HOME"), os.environ.get("CUDA_PATH"), "/usr/local/cuda"]
    candidates.append(str(Path(nvcc).resolve().parent.parent) if nvcc else None)
    for home in candidates:
        if home and (Path(home) / "include/cuda_runtime.h").is_file() and (Path(home) / "bin/nvcc").is_file():
            return home
    return None


def _cuda_reason(cuda_home: str | None, nvcc_version: str | None, torch_cuda: str | None) -> str:
    """Why CUDA cannot be built; "" where it can."""
    if torch_cuda is None:
        return "this torch is built without CUDA"
    if cuda_home is None:
        return "nvcc is not there (set CUDA_HOME to a toolkit that holds bin/nvcc and include/cuda_runtime.h)"
    if nvcc_version is None:
        return f"{cuda_home}/bin/nvcc does not run"
    if nvcc_version.split(".")[0] != torch_cuda.split(".")[0]:
        return f"nvcc {nvcc_version} does not match torch's CUDA {torch_cuda}; set CUDA_HOME to a matching toolkit"
    return ""


def _nvcc_version(cuda_home: str | None) -> str | None:
    if cuda_home is None:
        return None
    try:
        text = subprocess.run([f"{cuda_home}/bin/nvcc", "--version"], capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return None
    found = re.search(r"release (\d+\.\d+)", text)
    return found.group(1) if found else None


def _first_line(command: list[str]) -> str | None:
    try:
        lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    except (OSError, subprocess.CalledProcessError):
        return None
    return lines[0] if lines else None


def source_root() -> Path:
    """The folder that holds csrc/: the checkout, or the installed package itself.

    Raises:
        BuildError: neither holds it.
    """
    for root in (PACKAGE.parent, PACKAGE):
        if (root / "csrc/registration.cpp").is_file():
            return root
    raise BuildError(f"the kernels' sources (csrc) are neither beside nor in {PACKAGE}; install genlab again")


def sources(root: Path, with_cuda: bool) -> list[str]:
    """Files to compile, relative to `root`."""
    folders = ["csrc/cpu", "csrc/ops"]
    found = ["csrc/registration.cpp"]
    found += [str(path.relative_to(root)) for folder in folders for path in sorted((root / folder).glob("*.cpp"))]
    if with_cuda:
        found += [str(path.relative_to(root)) for path in sorted((root / "csrc/kernels").glob("*.cu"))]
    return found


def source_hash(root: Path, tools: Toolchain) -> str:
    """Hash of everything the library depends on: sources, this file, torch, Python, CUDA and compiler."""
    digest = hashlib.sha256()
    for path in [*sorted(p for p in (root / "csrc").rglob("*") if p.is_file()), Path(__file__)]:
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    facts = [tools.torch, str(sysconfig.get_config_var("EXT_SUFFIX")), tools.compiler_version, str(tools.with_cuda)]
    if tools.with_cuda:
        facts += [tools.nvcc_version, tools.architectures]
    digest.update(repr(facts).encode())
    return digest.hexdigest()[:16]


def build_metadata(root: Path, tools: Toolchain) -> dict[str, Any]:
    """The facts written beside the library and quoted when it does not load."""
    commit = _first_line(["git", "-C", str(root), "rev-parse", "--short=12", "HEAD"])
    return {
        "torch": tools.torch,
        "cuda": tools.nvcc_version if tools.with_cuda else None,
        "architectures": tools.architectures if tools.with_cuda else None,
        "compiler": tools.compiler_version,
        "python": sys.version.split()[0],
        "commit": commit,
        "source_hash": source_hash(root, tools),
        "with_cuda": tools.with_cuda,
        "cuda_reason": tools.cuda_reason,
    }


def _extension(root: Path, tools: Toolchain) -> Any:
    if tools.with_cuda:
        # torch reads both when cpp_extension is imported or runs; without a GPU it cannot guess the architectures.
        os.environ["CUDA_HOME"] = str(tools.cuda_home)
        os.environ["TORCH_CUDA_ARCH_LIST"] = tools.architectures
    if tools.ninja and shutil.which("ninja") is None:
        # torch looks on PATH only, where the ninja of an environment that is not activated does not lie.
        os.environ["PATH"] = os.pathsep.join([os.environ.get("PATH", os.defpath), str(Path(tools.ninja).parent)])
    from torch.utils import cpp_extension

    kind = cpp_extension.CUDAExtension if tools.with_cuda else cpp_extension.CppExtension
    return kind(
        name="genlab._C",
        sources=sources(root, tools.with_cuda),
        include_dirs=[str(root / "csrc")],
        define_macros=[("GENLAB_WITH_CUDA", "1")] if tools.with_cuda else [],
        extra_compile_args={"cxx": _cxx_flags(tools), "nvcc": ["-O3", "-lineinfo"]},
    )


def _cxx_flags(tools: Toolchain) -> list[str]:
    import torch

    flags = ["-O3", "-g0", "-fvisibility=hidden"]
    # at::parallel_for is a template: without OpenMP it is compiled as a plain loop. Only the compiler gets the flag;
    # the runtime is the one that torch has loaded, since a second pool of threads would fight with it.
    if "OpenMP" in torch.__config__.parallel_info() and "clang" not in (tools.compiler_version or "").lower():
        flags.append("-fopenmp")
    return flags


def setup_arguments(root: Path) -> dict[str, Any]:
    """Arguments for setuptools.setup. A build that fails leaves an install without kernels and says so in one line.

    With GENLAB_REQUIRE_KERNELS=1 it is an error instead; with GENLAB_SKIP_BUILD=1 nothing is compiled.
    """
    from setuptools.command.build_py import build_py

    class BuildPython(build_py):
        """Ships csrc/ and configs/ inside the package, so that `genlab build` and `train` work on an installed one."""

        def run(self) -> None:
            super().run()
            if not getattr(self, "editable_mode", False):
                for folder in ("csrc", "configs"):
                    shutil.copytree(root / folder, Path(self.build_lib) / "genlab" / folder, dirs_exist_ok=True)

    if os.environ.get("GENLAB_SKIP_BUILD") == "1":  # `genlab build` follows, as in the Makefile
        return {"cmdclass": {"build_py": BuildPython}}

    try:
        tools = toolchain()
        require_compiler(tools)
        extension = _extension(root, tools)
    except (BuildError, ImportError, OSError) as error:
        _without_kernels(str(error), announce=any(name in sys.argv for name in ("build_ext", "bdist_wheel", "install")))
        return {"cmdclass": {"build_py": BuildPython}}
    return {"ext_modules": [extension], "cmdclass": {"build_py": BuildPython, "build_ext": _build_command(root, tools)}}


def _build_command(root: Path, tools: Toolchain) -> type:
    from torch.utils.cpp_extension import BuildExtension

    class BuildKernels(BuildExtension):
        def finalize_options(self) -> None:
            super().finalize_options()
            # setuptools would skip the build when only a header or a flag changed; ninja knows better.
            self.force = True

        def run(self) -> None:
            # Before the compiler starts: a source edited meanwhile must count as newer than this library.
            facts = json.dumps(build_metadata(root, tools), indent=1)
            try:
                super().run()
            except (Exception, SystemExit) as error:  # noqa: BLE001 - compilers fail in every way there is
                _without_kernels(f"the compiler failed ({_short(error)}); `genlab build --verbose` shows its output")
                self.extensions = []
                return
            library = Path(self.get_ext_fullpath("genlab._C"))
            (library.parent / METADATA_NAME).write_text(facts + "\n")

    return BuildKernels


def _without_kernels(reason: str, *, announce: bool = True) -> None:
    if os.environ.get("GENLAB_REQUIRE_KERNELS") == "1":
        raise SystemExit(f"genlab: the kernels could not be built: {reason}")
    if announce:
        print(f"genlab: the kernels are not built: {reason}; the lab runs on plain PyTorch", file=sys.stderr)


def _short(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


def build(verbose: bool = False, force: bool = False, with_cuda: bool | None = None) -> BuildResult:
    """Builds genlab._C into the package's folder, unless what is there was built from the same sources and tools.

    Args:
        verbose: let the compiler's output through (it is kept in a log file otherwise).
        force: build even when nothing changed.
        with_cuda: True or False insists; None follows GENLAB_WITH_CUDA, else what is there.

    Returns:
        What happened; a failure is a result with `ok` False, its reason in one line and the log's path.
    """
    started = time.monotonic()
    try:
        root = source_root()
        tools = toolchain(with_cuda)
        require_compiler(tools)
        if not os.access(PACKAGE, os.W_OK):
            raise BuildError(f"{PACKAGE} is not writable")
        folder = _build_folder(root)
    except (BuildError, OSError) as error:
        return BuildResult(False, False, _short(error), None, time.monotonic() - started, None)
    library = PACKAGE / f"_C{sysconfig.get_config_var('EXT_SUFFIX')}"
    with _only_one(folder / "lock"):
        facts = _read_metadata()
        if not force and library.is_file() and facts.get("source_hash") == source_hash(root, tools):
            return BuildResult(True, False, "up to date", library, time.monotonic() - started, None, facts)
        log = folder / "build.log"
        code = _run_build(root, folder, log, tools, verbose)
        made = folder / "lib/genlab" / library.name
        if code == 0 and made.is_file():
            _install(made, library)
    seconds = time.monotonic() - started
    if code != 0 or not made.is_file():
        return BuildResult(False, False, _reason_in(log), None, seconds, log)
    return BuildResult(True, True, "built", library, seconds, log, _read_metadata())


def _build_folder(root: Path) -> Path:
    """Where object files stay between builds."""
    if root == PACKAGE:
        from genlab.paths import cache_dir

        folder = Path(cache_dir()) / "build"
    else:
        folder = root / "build/kernels"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@contextlib.contextmanager
def _only_one(lock: Path) -> Iterator[None]:
    """Two processes that build at once (torchrun) take turns; the second finds the work done."""
    import fcntl

    with lock.open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def _install(made: Path, library: Path) -> None:
    """Renames the library and its metadata into the package: whoever has the old one loaded keeps it whole."""
    for source, target in ((made, library), (made.parent / METADATA_NAME, library.parent / METADATA_NAME)):
        temporary = target.with_name(f".{target.name}.{os.getpid()}")
        shutil.copy2(source, temporary)
        os.replace(temporary, target)


def _run_build(root: Path, folder: Path, log: Path, tools: Toolchain, verbose: bool) -> int:
    environment = {**os.environ, "GENLAB_REQUIRE_KERNELS": "1", "GENLAB_WITH_CUDA": str(int(tools.with_cuda))}
    command = [sys.executable, str(Path(__file__).resolve()), str(root), str(folder)]
    with log.open("wb") as output:
        process = subprocess.Popen(command, cwd=root, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        for line in process.stdout or ():
            output.write(line)
            if verbose:
                sys.stderr.write(line.decode(errors="replace"))
        return process.wait()


def _reason_in(log: Path) -> str:
    """The first line of a build log that names an error."""
    with contextlib.suppress(OSError):
        lines = log.read_text(errors="replace").splitlines()
        for line in lines:
            if re.search(r"\b(error|fatal error)\b[: ]", line):
                return f"{line.strip()[:300]} (log: {log})"
        if lines:
            return f"{lines[-1].strip()[:300]} (log: {log})"
    return f"the build failed without a word (log: {log})"


def _read_metadata() -> dict[str, Any]:
    try:
        return json.loads((PACKAGE / METADATA_NAME).read_text())
    except (OSError, ValueError):
        return {}


def describe() -> dict[str, Any]:
    """The toolchain as a dict for reports; {"error": ...} where it cannot be read."""
    try:
        return asdict(toolchain())
    except BuildError as error:
        return {"error": str(error)}


def _main(root: Path, folder: Path) -> None:
    """The build process that `build` starts: setuptools' build_ext into `folder`."""
    from setuptools import setup

    arguments = setup_arguments(root)
    script = ["-q", "build_ext", "--build-lib", str(folder / "lib"), "--build-temp", str(folder / "objects")]
    setup(name="genlab", packages=[], script_args=script, **arguments)


if __name__ == "__main__":
    # Run by path: the package's folder would shadow standard modules by its own names.
    sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != PACKAGE]
    _main(Path(sys.argv[1]), Path(sys.argv[2]))

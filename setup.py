"""Builds the package and, where a compiler is, its kernels: see pyproject.toml and genlab/build.py."""

import importlib.util
import sys
from pathlib import Path

from setuptools import setup

ROOT = Path(__file__).resolve().parent

# By path: the package cannot be imported before its dependencies are installed.
spec = importlib.util.spec_from_file_location("genlab_build", ROOT / "genlab/build.py")
build = importlib.util.module_from_spec(spec)
sys.modules["genlab_build"] = build
spec.loader.exec_module(build)

setup(**build.setup_arguments(ROOT))

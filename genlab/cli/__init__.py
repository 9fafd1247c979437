"""The `genlab` command. Nothing here imports torch before a verb needs it, so that help stays quick."""

from genlab.cli.app import main

__all__ = ["main"]

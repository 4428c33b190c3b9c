"""The command line, ``maml-fast``."""

from maml_fast.cli._main import main

__all__ = ["main"]

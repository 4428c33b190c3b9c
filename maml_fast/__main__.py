"""Runs the command ``maml-fast`` as ``python -m maml_fast``."""

from __future__ import annotations

from maml_fast.cli import main

main(prog_name="maml-fast")

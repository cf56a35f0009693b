"""
The command line. One file per group of commands; `output` is how they speak to people and machines.

Commands import what they need when they run, so that `penstock version` is quick.
"""

from penstock.cli.main import run

__all__ = ["run"]

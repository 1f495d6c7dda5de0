"""The `lattica` command."""

from lattica.cli.commands import main

__all__ = ["main"]

"""Lattica: decentralised cross-NAT communication for AI inference and training."""

from lattica._version import __version__

__all__ = ["__version__"]

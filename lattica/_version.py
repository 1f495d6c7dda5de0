"""The version, read by the build backend and by the node's agent string."""

__version__ = "0.1.0"

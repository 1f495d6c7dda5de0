"""js-libp2p, as `make interop` installs it: where it is, and how to run one of its peers."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "interop" / "js" / "peer.mjs"
INSTALLED = Path(__file__).parents[2] / ".interop"
NODE = INSTALLED / "node_modules" / "node" / "bin" / "node"
START_S = 40.0
"""Seconds until a peer says that it is up; on a busy machine node takes some."""

needs_js_libp2p = pytest.mark.skipif(
    not NODE.exists(), reason="js-libp2p is not installed; `make interop` does that, with npm"
)


def js_command(*arguments: str) -> list[str]:
    """The command line of a peer; `peer.mjs` says what arguments there are."""
    program = shutil.copy(SOURCE, INSTALLED)  # where its imports are found
    return [str(NODE), str(program), *arguments]

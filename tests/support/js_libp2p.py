"""js-libp2p and Yjs, as `make interop` installs them: where they are, and how to run a program that uses them."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

SOURCES = Path(__file__).parents[1] / "interop" / "js"
INSTALLED = Path(__file__).parents[2] / ".interop"
NODE = INSTALLED / "node_modules" / "node" / "bin" / "node"
START_S = 40.0
"""Seconds until a peer says that it is up; on a busy machine node takes some."""

needs_js_libp2p = pytest.mark.skipif(
    not NODE.exists(), reason="js-libp2p is not installed; `make interop` does that, with npm"
)
needs_yjs = pytest.mark.skipif(
    not (NODE.exists() and (INSTALLED / "node_modules" / "yjs").exists()),
    reason="Yjs is not installed; `make interop` does that, with npm",
)


def js_command(*arguments: str, script: str = "peer.mjs") -> list[str]:
    """The command line of a program; its own head says what arguments there are."""
    program = shutil.copy(SOURCES / script, INSTALLED)  # where its imports are found
    return [str(NODE), str(program), *arguments]

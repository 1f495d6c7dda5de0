"""The other end of the local control API: find and call the node that runs with a home. Needs no libp2p."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import grpc

from lattica._proto import control_pb2_grpc, documents_pb2_grpc
from lattica.errors import ConfigError, NetworkError
from lattica.rpc.local import open_local_channel

CONTROL_FILE = "control"
"""In the home folder: the path of the running node's control socket."""
ANSWER_TIMEOUT_S = 30.0
"""Seconds that a node that runs has to answer at its control socket: it may be busy, or the machine."""


@contextlib.asynccontextmanager
async def connect_control(home: Path) -> AsyncIterator[control_pb2_grpc.ControlAsyncStub | None]:
    """The control API of the node that runs with this home; ``None`` if none does.

    Raises:
        ConfigError: The home cannot be read.
        NetworkError: A node runs, and does not answer.
    """
    async with _channel(home) as channel:
        yield None if channel is None else control_pb2_grpc.ControlStub(channel)


@contextlib.asynccontextmanager
async def connect_documents(home: Path) -> AsyncIterator[documents_pb2_grpc.DocumentsAsyncStub | None]:
    """The part of it that is about replicated documents."""
    async with _channel(home) as channel:
        yield None if channel is None else documents_pb2_grpc.DocumentsStub(channel)


@contextlib.asynccontextmanager
async def _channel(home: Path) -> AsyncIterator[grpc.aio.Channel | None]:
    try:
        path = Path((home / CONTROL_FILE).read_text())
    except (FileNotFoundError, NotADirectoryError):
        yield None
        return
    except OSError as error:
        raise ConfigError(f"cannot use the home {home}: {error.strerror}; choose another with --home") from error
    if not _is_listened_at(path):  # left behind by a node that was killed
        yield None
        return
    async with open_local_channel(path) as channel:
        try:
            async with asyncio.timeout(ANSWER_TIMEOUT_S):
                await channel.channel_ready()
        except TimeoutError:
            raise NetworkError(
                f"the node with the home {home} has not answered in {ANSWER_TIMEOUT_S:.0f} s; try again, or end it"
            ) from None
        yield channel


def _is_listened_at(path: Path) -> bool:
    """Whether a process has the socket, whatever else it does; the kernel knows, and says so at once."""
    with socket.socket(socket.AF_UNIX) as probe:
        probe.setblocking(False)
        try:
            probe.connect(str(path))
        except BlockingIOError:  # so many wait to be let in that there is no more room
            return True
        except OSError:
            return False
        return True

"""The other end of the local control API: find and call the node that runs with a home. Needs no libp2p."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from pathlib import Path

import grpc

from lattica._proto import control_pb2_grpc, documents_pb2_grpc
from lattica.errors import ConfigError
from lattica.rpc.local import open_local_channel

logger = logging.getLogger(__name__)

CONTROL_FILE = "control"
"""In the home folder: the path of the running node's control socket."""
CONNECT_TIMEOUT_S = 2.0
"""Seconds that a node that runs has to answer its control socket."""


@contextlib.asynccontextmanager
async def connect_control(home: Path) -> AsyncIterator[control_pb2_grpc.ControlAsyncStub | None]:
    """The control API of the node that runs with this home; ``None`` if none does."""
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
    if not path.is_socket():  # left behind by a node that was killed
        yield None
        return
    async with open_local_channel(path) as channel:
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                await channel.channel_ready()
        except TimeoutError:
            logger.info("no node answers at its control socket path=%s", path)
            yield None
            return
        yield channel

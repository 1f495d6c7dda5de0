"""Run a command: in an event loop, against the running node or one of its own, with clear errors and exit codes."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator, Coroutine, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lattica.cli.output import Output
from lattica.config import NodeConfig
from lattica.errors import LatticaError, NoNodeError, UsageError

if TYPE_CHECKING:
    from lattica._proto import control_pb2_grpc, documents_pb2_grpc

EXIT_FAILED = 1
EXIT_MISUSE = 2
EXIT_INTERRUPTED = 130


@dataclass(frozen=True)
class Common:
    """The options of all commands."""

    home: Path | None
    output: Output


@dataclass(frozen=True)
class Session:
    """What every command gets.

    Attributes:
        config: The node's settings.
        output: Where results go.
    """

    config: NodeConfig
    output: Output

    @contextlib.asynccontextmanager
    async def running_node(self) -> AsyncIterator[control_pb2_grpc.ControlAsyncStub]:
        """The control API of the node that runs with our home; `NoNodeError` if none does."""
        from lattica.node import connect_control

        async with connect_control(self.config.home) as control:
            if control is None:
                raise NoNodeError(self.config.home)
            yield control

    @contextlib.asynccontextmanager
    async def documents(self) -> AsyncIterator[documents_pb2_grpc.DocumentsAsyncStub]:
        """The part of its control API that is about documents; errors in the block are those that it tells."""
        from lattica.node import connect_documents

        async with connect_documents(self.config.home) as documents:
            if documents is None:
                raise NoNodeError(self.config.home)
            with control_errors():
                yield documents

    @contextlib.asynccontextmanager
    async def any_node(self) -> AsyncIterator[tuple[control_pb2_grpc.ControlAsyncStub, bool]]:
        """The control API of the running node, or of one that runs for this command alone; and whether it is ours."""
        from lattica.node import connect_control

        async with connect_control(self.config.home) as control:
            if control is not None:
                yield control, False
                return
        from lattica.node import open_node

        async with open_node(self.config), connect_control(self.config.home) as control:
            if control is None:
                raise NoNodeError(self.config.home)
            yield control, True


def open_session(common: Common, **settings: Any) -> Session:
    """The settings of a command; misuse ends it here."""
    given = {name: value for name, value in settings.items() if value not in (None, ())}
    try:
        return Session(NodeConfig.load(home=common.home, **given), common.output)
    except UsageError as error:
        raise click.UsageError(str(error)) from error


def run(command: Coroutine[Any, Any, None]) -> None:
    """Run a command to its end and exit: 0 done, 1 failed, 2 misuse, 130 interrupted."""
    # gRPC would otherwise print about every fork of a process that uses it.
    os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "false")
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    try:
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            runner.run(_interruptible(command))
    except UsageError as error:
        fail(str(error), EXIT_MISUSE)
    except LatticaError as error:
        fail(str(error), EXIT_FAILED)
    except (KeyboardInterrupt, asyncio.CancelledError):
        raise SystemExit(EXIT_INTERRUPTED) from None


def fail(message: str, code: int) -> None:
    """One sentence on stderr, and the exit code."""
    click.echo(f"lattica: {message}", err=True)
    raise SystemExit(code)


@contextlib.contextmanager
def control_errors() -> Iterator[None]:
    """Turn a failed control call into the error that the node told us of."""
    import grpc

    try:
        yield
    except grpc.aio.AioRpcError as error:
        if error.code() is grpc.StatusCode.UNAVAILABLE:
            raise LatticaError("the node went away") from error
        kind = UsageError if error.code() is grpc.StatusCode.INVALID_ARGUMENT else LatticaError
        raise kind(error.details() or error.code().name) from error


async def wait_for_signal() -> None:
    """Wait for SIGINT or SIGTERM."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    await stop.wait()


async def _interruptible(command: Coroutine[Any, Any, None]) -> None:
    """SIGTERM ends a command as SIGINT does: cancelled, so that it cleans up."""
    task = asyncio.current_task()
    if task is not None:
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    await command


def _loop_factory() -> Any:
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop

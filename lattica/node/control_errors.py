"""What the local control API's methods have in common."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import Any

import grpc

from lattica.errors import LatticaError, UsageError

Context = grpc.aio.ServicerContext[Any, Any]


@contextlib.asynccontextmanager
async def errors_told(context: Context) -> AsyncIterator[None]:
    """Tell the caller in a sentence what the block raised; misuse is told apart."""
    try:
        yield
    except LatticaError as error:
        code = grpc.StatusCode.INVALID_ARGUMENT if isinstance(error, UsageError) else grpc.StatusCode.ABORTED
        await context.abort(code, str(error))
    except TimeoutError:
        await context.abort(grpc.StatusCode.DEADLINE_EXCEEDED, "it took too long")

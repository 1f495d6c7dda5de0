"""What ends programs (`SystemExit`, `KeyboardInterrupt`), raised where a method of a service runs: whose is it?

A signal's handler raises in whatever runs then, which may be a method: that is the process's own, and ends it. All else
is the method's, whose caller is told; a peer's call does not end the node.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import threading
from functools import partial
from inspect import getattr_static
from types import CodeType

logger = logging.getLogger(__name__)

PASSING = (Exception, asyncio.CancelledError, GeneratorExit)
"""What a method may raise as it is: the event loop and gRPC go on. (A `GeneratorExit` may be its generator's end.)"""


class RaisedExitError(Exception):
    """Stands for what a method raised, which would end the event loop as itself.

    Attributes:
        raised: That.
    """

    def __init__(self, raised: BaseException) -> None:
        super().__init__(raised)
        self.raised = raised

    def __str__(self) -> str:
        return f"{type(self.raised).__qualname__}: {self.raised}"


def contained(error: BaseException) -> RaisedExitError:
    """What to raise in place of what a method raised that is not `PASSING`; raises it if it is the process's own."""
    if is_of_process(error):
        raise error
    logger.warning("method raised what ends programs, its caller is told kind=%s", type(error).__qualname__)
    return RaisedExitError(error)


def is_of_process(error: BaseException) -> bool:
    """Whether a handler of a signal has raised it. Python runs those in the main thread only.

    Python's own for SIGINT has no frame by which to tell, so while that is in use, and no `asyncio.Runner` has replaced
    it, each `KeyboardInterrupt` there is taken for its.
    """
    if threading.current_thread() is not threading.main_thread():
        return False
    handlers = [signal.getsignal(number) for number in signal.valid_signals()]
    if isinstance(error, KeyboardInterrupt) and signal.default_int_handler in handlers:
        return True
    codes = {code for handler in handlers if (code := _code_of(handler)) is not None}
    frame = error.__traceback__
    while frame is not None:
        if frame.tb_frame.f_code in codes:
            return True
        frame = frame.tb_next
    return False


def _code_of(handler: object) -> CodeType | None:
    """The code of a function, a bound method, a `partial` of them, or an object that can be called."""
    while isinstance(handler, partial):
        handler = handler.func
    for function in (handler, getattr(handler, "__func__", None), getattr_static(type(handler), "__call__", None)):
        code = getattr(function, "__code__", None)
        if isinstance(code, CodeType):
            return code
    return None

"""Whose an exception is that ends programs: a signal's handler's, or that of the code in which it was raised."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest

from lattica.rpc.exits import is_of_process


def leave(_: object, __: object) -> None:
    raise SystemExit


class Leaver:
    def __call__(self, _: object, __: object) -> None:
        raise SystemExit

    def leave(self, more: str, _: object, __: object) -> None:
        raise SystemExit(more)


@pytest.fixture
def install() -> Iterator[Callable[[int, Any], None]]:
    """Installs handlers of signals, and puts those back that were there."""
    before: dict[int, Any] = {}

    def installed(number: int, handler: Any) -> None:
        before.setdefault(number, signal.signal(number, handler))

    yield installed
    for number, handler in before.items():
        signal.signal(number, handler)


def raised_by(function: Callable[[], object]) -> BaseException:
    try:
        function()
    except BaseException as error:  # noqa: BLE001 - that is the question
        return error
    raise AssertionError("nothing was raised")


@pytest.mark.parametrize(
    "handler",
    [
        pytest.param(leave, id="function"),
        pytest.param(lambda number, frame: leave(frame, number), id="lambda"),
        pytest.param(partial(Leaver().leave, "bye"), id="partial-of-method"),
        pytest.param(Leaver(), id="callable"),
    ],
)
def test_what_a_signals_handler_raises_is_the_processs(install: Callable[[int, Any], None], handler: Any) -> None:
    install(signal.SIGUSR1, handler)
    assert is_of_process(raised_by(lambda: signal.raise_signal(signal.SIGUSR1)))


def test_the_same_raised_by_the_code_itself_is_not(install: Callable[[int, Any], None]) -> None:
    install(signal.SIGUSR1, Leaver())
    assert not is_of_process(raised_by(lambda: leave(0, None)))


def test_an_interrupt_is_the_processs_while_pythons_own_handler_is_in_use(
    install: Callable[[int, Any], None],
) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    install(signal.SIGINT, signal.default_int_handler)
    assert is_of_process(raised_by(lambda: signal.raise_signal(signal.SIGINT)))
    assert is_of_process(raised_by(interrupt)), "it cannot be told from the other"
    install(signal.SIGINT, leave)
    assert not is_of_process(raised_by(interrupt))


def test_nothing_that_is_raised_in_another_thread_is_the_processs(install: Callable[[int, Any], None]) -> None:
    install(signal.SIGUSR1, leave)
    answers: list[bool] = []
    thread = threading.Thread(target=lambda: answers.append(is_of_process(raised_by(lambda: leave(0, None)))))
    thread.start()
    thread.join()
    assert answers == [False]

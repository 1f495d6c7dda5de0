"""The race: the first success wins, and nothing that lost is left behind."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from lattica.mesh.race import race

Attempt = Callable[[], Awaitable[str | None]]
STAGGER = 0.02
NEVER = 60.0


class Track:
    """Attempts that log what becomes of them; ``seconds`` is when they end."""

    def __init__(self) -> None:
        self.log: list[str] = []
        self.discarded: list[str] = []
        self.started: dict[str, float] = {}

    def attempt(self, name: str, seconds: float, *, fails: bool = False) -> Attempt:
        async def run() -> str | None:
            self.log.append(f"{name} starts")
            self.started[name] = asyncio.get_running_loop().time()
            try:
                await asyncio.sleep(seconds)
            except asyncio.CancelledError:
                self.log.append(f"{name} cancelled")
                raise
            self.log.append(f"{name} {'fails' if fails else 'succeeds'}")
            return None if fails else name

        return run

    async def race(self, *attempts: Attempt, stagger: float = STAGGER) -> str | None:
        return await race(attempts, stagger=stagger, discard=self.discarded.append)


async def test_without_attempts_there_is_no_winner() -> None:
    assert await Track().race() is None


async def test_the_first_success_wins_and_later_attempts_do_not_start() -> None:
    track = Track()
    assert await track.race(track.attempt("a", 0), track.attempt("b", 0), stagger=NEVER) == "a"
    assert track.log == ["a starts", "a succeeds"]


async def test_a_later_attempt_may_win_and_the_loser_is_cancelled() -> None:
    track = Track()
    assert await track.race(track.attempt("slow", NEVER), track.attempt("quick", 0)) == "quick"
    assert track.log == ["slow starts", "quick starts", "quick succeeds", "slow cancelled"]
    assert track.discarded == []


async def test_the_next_attempt_starts_when_the_stagger_has_passed() -> None:
    track = Track()
    began = asyncio.get_running_loop().time()
    await track.race(track.attempt("a", NEVER), track.attempt("b", 0), stagger=0.1)
    assert track.started["b"] - began >= 0.1


async def test_the_next_attempt_starts_at_once_when_one_has_failed() -> None:
    track = Track()
    async with asyncio.timeout(20):
        assert await track.race(track.attempt("a", 0, fails=True), track.attempt("b", 0), stagger=NEVER) == "b"


async def test_a_failure_between_slow_attempts_starts_the_next_one() -> None:
    track = Track()
    async with asyncio.timeout(20):
        winner = await track.race(
            track.attempt("a", NEVER), track.attempt("b", 0, fails=True), track.attempt("c", 0), stagger=STAGGER
        )
    assert winner == "c"


async def test_when_every_attempt_fails_there_is_no_winner() -> None:
    track = Track()
    attempts = [track.attempt(name, 0.01, fails=True) for name in "abc"]
    assert await track.race(*attempts, stagger=0) is None
    assert sorted(track.log) == sorted(f"{name} {what}" for name in "abc" for what in ("starts", "fails"))


async def test_the_last_attempt_may_take_longer_than_the_stagger() -> None:
    track = Track()
    assert await track.race(track.attempt("a", 0.03, fails=True), track.attempt("b", 0.1), stagger=0.01) == "b"


async def test_a_success_that_comes_too_late_is_discarded() -> None:
    track = Track()

    async def shielded() -> str:
        """Cancelled when it has its socket already, so that it comes to an end all the same."""
        try:
            await asyncio.sleep(NEVER)
        except asyncio.CancelledError:
            return "late"
        raise AssertionError

    assert await track.race(shielded, track.attempt("quick", 0)) == "quick"
    assert track.discarded == ["late"]


async def test_a_cancelled_caller_leaves_no_attempt_and_no_result() -> None:
    track = Track()
    entered = asyncio.Event()

    async def stubborn() -> str:
        entered.set()
        try:
            await asyncio.sleep(NEVER)
        except asyncio.CancelledError:
            return "made all the same"
        raise AssertionError

    async with asyncio.TaskGroup() as tasks:
        racing = tasks.create_task(track.race(stubborn, track.attempt("b", NEVER)))
        await entered.wait()
        racing.cancel()
    assert racing.cancelled()
    assert track.discarded == ["made all the same"]


async def test_an_attempt_that_raises_ends_the_race_and_a_winner_is_discarded() -> None:
    """Attempts contain their own failures; one that does not is a fault of ours and has to be seen."""
    track = Track()

    async def broken() -> str:
        raise ZeroDivisionError

    with pytest.raises(ExceptionGroup) as caught:
        await track.race(track.attempt("a", NEVER), broken)
    assert caught.group_contains(ZeroDivisionError)
    assert track.log[-1] == "a cancelled"

"""Runs a punch machine: carries out its actions, tells it what happens. Makes no decisions."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias

from lattica.background import Background
from lattica.errors import NetworkError
from lattica.identity import PeerAddress
from lattica.mesh.pipes import describe
from lattica.mesh.punch_machine import Action, Dial, Finish, Learn, PunchMachine, Send, Stop
from lattica.mesh.punch_messages import MAX_PUNCH_MESSAGE, Offer, PunchMessage, decode_punch, encode_punch
from lattica.mesh.punch_port import HandOver, open_punch_port

SEND_TIMEOUT_S = 5.0
"""Seconds that the stream has to take a message."""


class PunchSignal(Protocol):
    """An authenticated stream of messages to the peer; may raise `NetworkError` when it is lost."""

    async def send(self, message: bytes) -> None:
        """Send one message."""

    async def receive(self, limit: int) -> bytes | None:
        """The next message, of at most ``limit`` bytes; ``None``: the peer has ended the stream."""


@dataclass(frozen=True, slots=True)
class Learned:
    """The round's port is open, and its mapping known."""

    offer: Offer


@dataclass(frozen=True, slots=True)
class Hopeless:
    """There is nothing to go on with."""

    reason: str


@dataclass(frozen=True, slots=True)
class Received:
    """The peer has sent a message."""

    data: bytes


@dataclass(frozen=True, slots=True)
class Ended:
    """The peer has ended the stream, or it was lost."""

    reason: str


class RoundOver:
    """The round's window is over and nothing is being proven."""


class Opened:
    """A connection is proven."""


PunchEvent: TypeAlias = Learned | Hopeless | Received | Ended | RoundOver | Opened


class PunchDriver:
    """One punch, whose round and reader are tasks of the caller's."""

    def __init__(
        self,
        machine: PunchMachine,
        signal: PunchSignal,
        servers: Sequence[PeerAddress],
        local_host: str,
        attempts: dict[str, str],
        tasks: Background,
    ) -> None:
        self._machine = machine
        self._signal = signal
        self._servers = servers
        self._local_host = local_host
        self._attempts = attempts
        self._tasks = tasks
        self._events: asyncio.Queue[PunchEvent] = asyncio.Queue()  # of ours; the peer's come one at a time
        self._handled = asyncio.Event()
        self._dial: asyncio.Future[Dial] | None = None
        self._round: asyncio.Task[None] | None = None
        self._finish: Finish | None = None
        self._hand_over: HandOver

    def post(self, event: PunchEvent) -> None:
        """Tell of an event."""
        self._events.put_nowait(event)

    async def run(self, hand_over: HandOver) -> Finish:
        """Run to the end; raises `RemoteProtocolError` if that is what the peer breaks."""
        self._hand_over = hand_over
        self._tasks.start(self._read())
        await self._perform(self._machine.start(time.monotonic()))
        while self._finish is None:
            try:
                async with asyncio.timeout(self._time_left()):
                    event = await self._events.get()
            except TimeoutError:
                await self._perform(self._machine.expire())
                continue
            await self._perform(self._react(event))
            self._handled.set()
        return self._finish

    def _time_left(self) -> float | None:
        deadline = self._machine.deadline
        return None if deadline is None else max(deadline - time.monotonic(), 0.0)

    def _react(self, event: PunchEvent) -> Sequence[Action]:
        machine, now = self._machine, time.monotonic()
        match event:
            case Learned(offer):
                return machine.learned(offer, now)
            case Received(data):
                return machine.receive(decode_punch(data), now)
            case Ended(reason):
                return machine.ended(reason)
            case Hopeless(reason):
                return machine.give_up(reason)
            case Opened():
                return machine.opened()
            case RoundOver():
                return machine.round_over(now)

    async def _perform(self, actions: Sequence[Action]) -> None:
        for action in actions:
            match action:
                case Send(message):
                    await self._send(message)
                case Learn():
                    self._dial = asyncio.get_running_loop().create_future()
                    self._round = self._tasks.start(self._run_round(self._dial))
                case Dial() if self._dial is not None:
                    self._dial.set_result(action)
                case Stop() if self._round is not None:
                    self._round.cancel()
                    await asyncio.wait([self._round])
                case Finish():
                    self._finish = action

    async def _send(self, message: PunchMessage) -> None:
        try:
            async with asyncio.timeout(SEND_TIMEOUT_S):
                await self._signal.send(encode_punch(message))
        except TimeoutError:
            self.post(Ended("the stream to the peer takes no messages"))
        except NetworkError as error:
            self.post(Ended(f"the stream to the peer was lost: {error}"))

    async def _read(self) -> None:
        while True:
            try:
                data = await self._signal.receive(MAX_PUNCH_MESSAGE)
            except NetworkError as error:
                self.post(Ended(f"the stream to the peer was lost: {error}"))
                return
            if data is None:
                self.post(Ended("the peer ended the stream"))
                return
            self._handled.clear()
            self.post(Received(data))
            await self._handled.wait()  # a peer that sends faster than we work is not read

    async def _run_round(self, dial: asyncio.Future[Dial]) -> None:
        try:
            async with open_punch_port(self._servers, self._local_host, self._attempts) as port:
                self.post(Learned(port.offer))
                action = await dial
                await port.run_round(action.plan, action.at, action.until, self._hand_over, self._attempts)
        except (NetworkError, OSError) as error:
            self.post(Hopeless(describe(error)))
        else:
            self.post(RoundOver())

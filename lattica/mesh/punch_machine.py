"""Both sides of one hole punch as machines: messages and results in, actions out; no I/O, no clock.

A round is ``Learn`` (a new local port and its mapping), CONNECT from each side, SYNC, ``Dial``. Both sides learn at
the same time. The initiator measures a round trip r between the CONNECTs and dials r/2 after its SYNC, the answerer
when SYNC comes: at one time, but for the jitter of the relay. How little depends on that is said in
`lattica.mesh.punch_port`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum, auto
from typing import TypeAlias

from lattica.errors import RemoteProtocolError
from lattica.mesh.punch_candidates import PunchPlan, punch_plan
from lattica.mesh.punch_messages import MAX_ROUNDS, Connect, Offer, Outcome, PunchMessage, Result, Sync

WINDOW_S = 2.5
"""Seconds that a round's dials have: SYNs that were lost are sent again after 1 and 2 s."""
PROVE_LIMIT_S = 5.0
"""Seconds that the proof of a connection may last beyond the window."""
ANSWER_TIMEOUT_S = 8.0
"""Seconds in which the peer's next message has to come; it may have to ask STUN servers before (3 s)."""
PUNCH_LIMIT_S = 40.0
"""Seconds that a punch may take in all, however slow the peer makes it; three rounds take ten if nobody dawdles."""
LATE_S = 0.1
"""Seconds that the side which should dial later waits: more than a relay's jitter, mostly."""
RANDOM_ROUNDS = 2
"""Rounds if a NAT's ports are random: it works at once, or not at all, but for lost packets."""


@dataclass(frozen=True, slots=True)
class Send:
    """Send a message."""

    message: PunchMessage


@dataclass(frozen=True, slots=True)
class Learn:
    """Open a local port for round ``attempt`` and learn its mapping; `learned` or `give_up` follows."""

    attempt: int


@dataclass(frozen=True, slots=True)
class Dial:
    """Dial and listen on the round's port, from ``at`` until ``until``, in seconds of the machine's clock."""

    plan: PunchPlan
    at: float
    until: float


@dataclass(frozen=True, slots=True)
class Stop:
    """Close the round's port and everything on it that has not been handed over."""


@dataclass(frozen=True, slots=True)
class Finish:
    """The punch is over."""

    outcome: Outcome
    reason: str = ""


Action: TypeAlias = Send | Learn | Dial | Stop | Finish


class State(Enum):
    """Of a punch."""

    LEARNING = auto()
    AWAIT_CONNECT = auto()
    AWAIT_SYNC = auto()
    PUNCHING = auto()
    DONE = auto()


class PunchMachine(ABC):
    """What both sides have in common.

    Attributes:
        state: Where it is.
        attempt: Number of the round, from 1.
    """

    def __init__(self) -> None:
        self.state = State.LEARNING
        self.attempt = 1
        self._answer_by: float | None = None
        self._ends_at = 0.0
        self._own: Offer | None = None

    @property
    def deadline(self) -> float | None:
        """When to call `expire`, in seconds; ``None`` when it is over."""
        if self.state is State.DONE:
            return None
        return self._ends_at if self._answer_by is None else min(self._answer_by, self._ends_at)

    def start(self, now: float) -> Sequence[Action]:
        """Begin."""
        self._answer_by, self._ends_at = now + ANSWER_TIMEOUT_S, now + PUNCH_LIMIT_S
        return (Learn(self.attempt),)

    @abstractmethod
    def learned(self, offer: Offer, now: float) -> Sequence[Action]:
        """The round's port is open and its mapping known."""

    @abstractmethod
    def receive(self, message: PunchMessage, now: float) -> Sequence[Action]:
        """The peer has sent a message.

        Raises:
            RemoteProtocolError: It is not its turn to send that.
        """

    @abstractmethod
    def round_over(self, now: float) -> Sequence[Action]:
        """The round's window is over and nothing is being proven any more."""

    def opened(self) -> Sequence[Action]:
        """A connection is proven; only the initiator can know, and answers to it."""
        return ()

    def ended(self, reason: str) -> Sequence[Action]:
        """The peer ended the stream, or it was lost."""
        return self._finish(Outcome.FAILED, reason)

    def expire(self) -> Sequence[Action]:
        """The deadline has come."""
        if self.deadline == self._ends_at:
            return self.give_up(f"not done within {PUNCH_LIMIT_S:.0f} s")
        return self.give_up(f"the peer was silent for {ANSWER_TIMEOUT_S:.0f} s")

    def give_up(self, reason: str) -> Sequence[Action]:
        """End it, and tell the peer."""
        return (Send(Result(Outcome.FAILED, reason)), *self._finish(Outcome.FAILED, reason))

    def _finish(self, outcome: Outcome, reason: str = "") -> Sequence[Action]:
        self.state = State.DONE
        return Stop(), Finish(outcome, reason)

    def _unexpected(self, message: PunchMessage) -> RemoteProtocolError:
        name = type(message).__name__.upper()
        return RemoteProtocolError(f"{name} in state {self.state.name} of round {self.attempt}")


class Initiator(PunchMachine):
    """The side that asks: the client of the link."""

    def __init__(self) -> None:
        super().__init__()
        self._sent_at = 0.0
        self._rounds = MAX_ROUNDS
        self._is_last = False

    def learned(self, offer: Offer, now: float) -> Sequence[Action]:
        """Offer the port to the peer."""
        self._own, self._sent_at = offer, now
        self.state, self._answer_by = State.AWAIT_CONNECT, now + ANSWER_TIMEOUT_S
        return (Send(Connect(self.attempt, offer)),)

    def receive(self, message: PunchMessage, now: float) -> Sequence[Action]:
        """CONNECT once in a round, or the peer's refusal at any time."""
        match message:
            case Result(outcome, reason) if outcome is not Outcome.OPENED:
                return self._finish(outcome, f"the peer says: {reason or outcome.value}")
            case Connect(attempt, theirs, held) if self.state is State.AWAIT_CONNECT and attempt == self.attempt:
                return self._dial(theirs, held, now)
        raise self._unexpected(message)

    def _dial(self, theirs: Offer, held: float, now: float) -> Sequence[Action]:
        assert self._own is not None  # noqa: S101 - it has been sent
        self.state, self._answer_by = State.PUNCHING, None
        if self._own.is_random or theirs.is_random:
            self._rounds = RANDOM_ROUNDS
        round_trip = max(now - self._sent_at - held, 0.0)
        plan = punch_plan(self._own, theirs)
        at = now + round_trip / 2 + (LATE_S if plan.is_late else 0.0)
        return Send(Sync(self.attempt)), Dial(plan, at, at + WINDOW_S)

    def opened(self) -> Sequence[Action]:
        """A connection is proven."""
        return (Send(Result(Outcome.OPENED)), *self._finish(Outcome.OPENED))

    def round_over(self, now: float) -> Sequence[Action]:
        """Go on to the next round, if there is one."""
        if self._is_last or self.attempt >= self._rounds:
            return self.give_up(f"nothing connected in {self.attempt} rounds")
        self.attempt += 1
        self.state, self._answer_by = State.LEARNING, now + ANSWER_TIMEOUT_S
        return Stop(), Learn(self.attempt)

    def ended(self, reason: str) -> Sequence[Action]:
        """Dials that are out may still connect; there will be no other round."""
        if self.state is not State.PUNCHING:
            return super().ended(reason)
        self._is_last = True
        return ()


class Answerer(PunchMachine):
    """The side that is asked: the server of the link."""

    def __init__(self) -> None:
        super().__init__()
        self._theirs: Connect | None = None
        self._received_at = 0.0

    def learned(self, offer: Offer, now: float) -> Sequence[Action]:
        """Offer the port to the peer, if it has offered its own."""
        self._own = offer
        return self._answer(now)

    def receive(self, message: PunchMessage, now: float) -> Sequence[Action]:
        """CONNECT and SYNC in turn, or the end."""
        match message:
            case Result(Outcome.OPENED, _) if self.state is State.PUNCHING:
                return self._finish(Outcome.OPENED)
            case Result(outcome, reason) if outcome is not Outcome.OPENED:
                return self._finish(outcome, f"the peer says: {reason or outcome.value}")
            case Sync(attempt) if self.state is State.AWAIT_SYNC and attempt == self.attempt:
                return self._dial(now)
            case Connect(attempt, _, _) if self.state is State.PUNCHING and attempt == self.attempt + 1:
                self.attempt, self.state, self._own = attempt, State.LEARNING, None
                return Stop(), Learn(attempt), *self._take(message, now)
            case Connect(attempt, _, _) if (
                self.state is State.LEARNING and self._theirs is None and attempt == self.attempt
            ):
                return self._take(message, now)
        raise self._unexpected(message)

    def _take(self, message: Connect, now: float) -> Sequence[Action]:
        self._theirs, self._received_at = message, now
        self._answer_by = now + ANSWER_TIMEOUT_S
        return self._answer(now)

    def _answer(self, now: float) -> Sequence[Action]:
        if self._own is None or self._theirs is None:
            return ()
        self.state, self._answer_by = State.AWAIT_SYNC, now + ANSWER_TIMEOUT_S
        return (Send(Connect(self.attempt, self._own, now - self._received_at)),)

    def _dial(self, now: float) -> Sequence[Action]:
        assert self._own is not None  # noqa: S101
        assert self._theirs is not None  # noqa: S101
        plan = punch_plan(self._own, self._theirs.offer)
        at = now + (LATE_S if plan.is_late else 0.0)
        # Until the initiator ends the round, with its proofs, and has learned its next port.
        until = at + WINDOW_S + PROVE_LIMIT_S
        self.state, self._answer_by, self._theirs = State.PUNCHING, until + ANSWER_TIMEOUT_S, None
        return (Dial(plan, at, until),)

    def round_over(self, now: float) -> Sequence[Action]:
        """The initiator says what comes next."""
        return ()

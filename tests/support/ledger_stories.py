"""What an owner, an admin, two writers and a guest may do to each other, as Hypothesis tells it."""

from __future__ import annotations

import random

from hypothesis import strategies as st
from ledger_replicas import SimReplica, converge, key_of

from lattica.store.control import EVERYBODY, Role
from lattica.store.entry import Entry, Kind
from lattica.store.namespace import Genesis, Policy

OWNER, ADMIN, WRITERS, GUEST = 1, 2, (3, 4), 5
HONEST = ("write", "write", "write", "tell", "hint", "restart", "revoke", "grant", "admin")
POSTPONING = ("tire", "tire", "rest")
COMPACTING = ("compact", "fold", "hear", "reload")
DISHONEST = ("twin", "skip", "rewind", "damage")

Step = tuple[str, int, int, int]
policies = st.sampled_from((Policy.ALLOW_LIST, Policy.OPEN))


def histories(size: int, *, compacting: bool = False, postponing: bool = False) -> st.SearchStrategy[list[Step]]:
    """Stories of so many steps, at most, in which some go astray."""
    actions = st.sampled_from((*HONEST * 2, *DISHONEST, *COMPACTING * compacting, *POSTPONING * postponing))
    return st.lists(st.tuples(actions, st.integers(0, 4), st.integers(0, 4), st.integers(0, 1 << 12)), max_size=size)


steps = histories(40)


class Story:
    """An owner, an admin, two writers and a guest without rights; some of these, or all, may be dishonest."""

    def __init__(self, genesis: Genesis, *, owner_is_honest: bool = False) -> None:
        self.keys = [key_of(number) for number in (OWNER, ADMIN, *WRITERS, GUEST)]
        self.replicas = [SimReplica(genesis, key) for key in self.keys]
        self.twins: list[SimReplica] = []
        self.dishonest: set[bytes] = set()
        self.loose: list[Entry] = []
        self.owner_is_honest = owner_is_honest
        self.replicas[0].grant(self.keys[1], Role.ADMIN)
        self.replicas[0].grant(self.keys[2])
        if genesis.policy is Policy.ALLOW_LIST:
            self.replicas[0].grant(self.keys[3])
        converge(self.replicas)

    @property
    def everybody(self) -> list[SimReplica]:
        return [*self.replicas, *self.twins]

    def do(self, action: str, who: int, whom: int, number: int) -> None:
        one, other = self.replicas[who], self.replicas[whom]
        if action in DISHONEST:
            if who or not self.owner_is_honest:
                self.cheat(action, one, number)
        elif action in COMPACTING:
            self.compact(action, one, other)
        elif action == "write":
            writer = self.twins[number % len(self.twins)] if self.twins and number % 4 == 0 else one
            writer.write(number)
        elif action == "tell":
            sent = one.counting
            other.receive([*sent[number % (len(sent) + 1) :], *sent], one.frauds.values())
        elif action == "hint":
            self.hint(self.everybody[number % len(self.everybody)], other, random.Random(number))
        elif action == "restart":
            one.restart()
        elif action == "tire":
            one.is_tired = True
        elif action == "rest":
            one.take_up()
        else:
            self.control(action, one, whom, number)

    def compact(self, action: str, one: SimReplica, other: SimReplica) -> None:
        if action == "compact":
            self.replicas[0].compact()
        elif action == "fold":
            one.fold()
        elif action == "reload":
            one.reload()
        else:
            one.hear(other)

    def control(self, action: str, one: SimReplica, whom: int, number: int) -> None:
        key = self.keys[whom]
        if action != "revoke":
            one.grant(key, Role.ADMIN if action == "admin" else Role.WRITER, ("settings",) if number % 3 == 0 else ())
            return
        marks = [entry.mark for entry in one.counting if entry.body.kind is Kind.GRANT]
        one.revoke(key, (*marks, EVERYBODY)[number % (len(marks) + 1)])

    def hint(self, one: SimReplica, other: SimReplica, chance: random.Random) -> None:
        """Tell a part of it, in any order, some of it twice, and what others have let slip."""
        sent = [*one.counting, *self.loose]
        sent = [entry for entry in sent if chance.random() < 0.7] + [entry for entry in sent if chance.random() < 0.1]
        if chance.random() < 0.5:
            chance.shuffle(sent)
        other.receive(sent, [fraud for fraud in one.frauds.values() if chance.random() < 0.5])

    def cheat(self, action: str, one: SimReplica, number: int) -> None:
        self.dishonest.add(one.key.peer_id.raw)
        if action == "rewind":
            self.loose.append(one.rewind(number))
        elif action == "damage":
            self.loose.append(one.damage(number))
        elif len(self.twins) < 3:
            self.twins.append(one.twin(skip=number % 5 if action == "skip" else 0))

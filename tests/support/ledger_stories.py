"""What an owner, an admin and two writers may do to each other, as Hypothesis tells it."""

from __future__ import annotations

from hypothesis import strategies as st
from ledger_replicas import SimReplica, converge, key_of

from lattica.store.control import EVERYBODY, Role
from lattica.store.entry import Kind
from lattica.store.namespace import Genesis, Policy

OWNER, ADMIN, WRITERS = 1, 2, (3, 4)
ACTIONS = ("write", "write", "write", "write", "tell", "tell", "restart", "revoke", "grant", "twin", "skip", "admin")

policies = st.sampled_from((Policy.ALLOW_LIST, Policy.OPEN))
steps = st.lists(
    st.tuples(st.sampled_from(ACTIONS), st.integers(0, 3), st.integers(0, 3), st.integers(0, 255)), max_size=40
)


class Story:
    """An owner, an admin and two writers; one of these, or more, may be dishonest."""

    def __init__(self, genesis: Genesis) -> None:
        self.keys = [key_of(number) for number in (OWNER, ADMIN, *WRITERS)]
        self.replicas = [SimReplica(genesis, key) for key in self.keys]
        self.twins: list[SimReplica] = []
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
        if action == "write":
            writer = self.twins[number % len(self.twins)] if self.twins and number % 4 == 0 else one
            writer.write(number)
        elif action == "tell":
            sent = one.counting
            other.receive([*sent[number % (len(sent) + 1) :], *sent], one.frauds.values())
        elif action == "restart":
            one.restart()
        elif action in ("revoke", "grant", "admin"):
            self.control(action, one, whom, number)
        elif len(self.twins) < 2 and who:
            self.twins.append(one.twin(skip=number % 5 if action == "skip" else 0))

    def control(self, action: str, one: SimReplica, whom: int, number: int) -> None:
        key = self.keys[whom]
        if action != "revoke":
            one.grant(key, Role.ADMIN if action == "admin" else Role.WRITER, ("settings",) if number % 3 == 0 else ())
            return
        marks = [entry.mark for entry in one.counting if entry.body.kind is Kind.GRANT]
        one.revoke(key, (*marks, EVERYBODY)[number % (len(marks) + 1)])

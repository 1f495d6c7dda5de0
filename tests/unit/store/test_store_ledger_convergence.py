"""Replicas that have seen the same entries hold the same, whatever the order, and whatever some authors try."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from ledger_replicas import SimReplica, converge, key_of

from lattica.store.control import EVERYBODY, Role
from lattica.store.entry import Kind
from lattica.store.namespace import Policy, create_genesis

OWNER, ADMIN, WRITERS = 1, 2, (3, 4)
ACTIONS = ("write", "write", "write", "write", "tell", "tell", "restart", "revoke", "grant", "twin", "skip", "admin")

steps = st.lists(
    st.tuples(st.sampled_from(ACTIONS), st.integers(0, 3), st.integers(0, 3), st.integers(0, 255)), max_size=40
)


class Story:
    """An owner, an admin and two writers; one of these, or more, may be dishonest."""

    def __init__(self, policy: Policy) -> None:
        genesis = create_genesis(key_of(OWNER), policy=policy)
        self.keys = [key_of(number) for number in (OWNER, ADMIN, *WRITERS)]
        self.replicas = [SimReplica(genesis, key) for key in self.keys]
        self.twins: list[SimReplica] = []
        self.replicas[0].grant(self.keys[1], Role.ADMIN)
        self.replicas[0].grant(self.keys[2])
        if policy is Policy.ALLOW_LIST:
            self.replicas[0].grant(self.keys[3])
        converge(self.replicas)

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


@settings(deadline=None)
@given(st.sampled_from((Policy.ALLOW_LIST, Policy.OPEN)), steps)
def test_replicas_that_know_the_same_hold_the_same(policy: Policy, history: list[tuple[str, int, int, int]]) -> None:
    story = Story(policy)
    for step in history:
        story.do(*step)
    everybody = [*story.replicas, *story.twins]

    converge(everybody)

    assert len({replica.digest for replica in everybody}) == 1
    states = [replica.state() for replica in everybody]
    assert all(state == states[0] for state in states)
    for replica in everybody:
        before = replica.digest
        replica.restart()
        assert (replica.digest, replica.state()) == (before, states[0])

"""What a replica has taken of what a peer has sent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from lattica.store.commits import Durable
from lattica.store.entry import ChainId, Entry
from lattica.store.frontier import Head
from lattica.store.ledger import Fraud


class Received(NamedTuple):
    """What became of a message with entries.

    Attributes:
        durable: On its way to the disk is what was good.
        added: How many are new here.
        missing: How many build on what is not here.
        refused: Those that break the rules, and how.
        lasts: Of each chain the last entry that was sent.
    """

    durable: Durable
    added: int
    missing: int
    refused: Sequence[tuple[Entry, str]]
    lasts: Mapping[ChainId, Head]


class Checked(NamedTuple):
    """A message with entries that is well made; what it says is to be seen.

    Attributes:
        entries: Signed by their authors.
        proven: Frauds, each with an entry of the author's.
    """

    entries: Sequence[Entry]
    proven: Sequence[tuple[Entry, Fraud]]

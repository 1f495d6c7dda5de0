"""What an answer about a name says, once its signatures are checked."""

from __future__ import annotations

from lattica.errors import RemoteProtocolError
from lattica.identity import PeerId
from lattica.rpc.replicas.book import RecordBook
from lattica.rpc.replicas.record import ServiceRecord, peek_record, unseal_record
from lattica.rpc.replicas.wire import Answer


def read_answer(
    answer: Answer, peer: PeerId, book: RecordBook, now: float
) -> tuple[ServiceRecord | None, list[tuple[ServiceRecord, float]]]:
    """The own record of the peer that answered, and news of others with the seconds that they still hold, it says.

    All of it or nothing: an honest peer passes on only what it has checked itself. What would change nothing is left
    out, its signature unchecked.

    Raises:
        RemoteProtocolError: A record is malformed or wrongly signed; or what the peer shows as its own is somebody
            else's, or of another name.
    """
    own = unseal_record(answer.own) if answer.own else None
    if own is not None and (own.peer_id != peer or own.name != book.name):
        raise RemoteProtocolError(f"shows a record of {own.peer_id} for {own.name!r} as its own", peer)
    news = [
        (envelope, remaining)
        for envelope, remaining in answer.others
        if book.is_worth_checking(peek_record(envelope), remaining=remaining, now=now)
    ]
    return own, [(unseal_record(envelope), remaining) for envelope, remaining in news]

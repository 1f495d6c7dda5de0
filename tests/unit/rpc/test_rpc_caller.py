"""The caller's peer ID comes from its certificate, and from nothing else."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import pytest

from lattica.identity import IdentityKey
from lattica.rpc import caller_id

ALICE = IdentityKey.from_seed(bytes(32)).peer_id


class Context:
    def __init__(self, **properties: list[bytes]) -> None:
        self._properties = properties

    def auth_context(self) -> Mapping[str, Iterable[bytes]]:
        return self._properties


def test_the_caller_is_the_peer_of_the_alternative_name() -> None:
    assert caller_id(Context(x509_subject_alternative_name=[ALICE.dns_label.encode()])) == ALICE


@pytest.mark.parametrize(
    "properties",
    [
        {},
        {"x509_subject_alternative_name": []},
        {"x509_subject_alternative_name": [b"localhost"]},
        {"x509_subject_alternative_name": [b"\xff\xfe"]},
        {"x509_common_name": [ALICE.dns_label.encode()]},
    ],
)
def test_a_connection_without_a_peers_name_has_no_caller(properties: dict[str, list[bytes]]) -> None:
    with pytest.raises(PermissionError):
        caller_id(Context(**properties))

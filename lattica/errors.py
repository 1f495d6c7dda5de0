"""Every error that Lattica raises on purpose.

One tree, so that ``except LatticaError`` is enough. The data are attributes; ``str(error)`` says what happened and
what to do. `UsageError` marks local mistakes (a bad address, an unreadable key file): the command line exits with 2
for those and with 1 for every other `LatticaError`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path


class LatticaError(Exception):
    """Root of all errors that Lattica raises on purpose."""


class UsageError(LatticaError):
    """A local mistake that its user can mend: arguments, files, permissions, ports."""


# local mistakes


class ConfigError(UsageError):
    """A configuration file, environment variable or argument has a bad value."""


class KeyFileError(UsageError):
    """The identity key file cannot be used.

    Attributes:
        path: The key file.
        reason: What is wrong with it and what to do.
    """

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(path, reason)
        self.path = path
        self.reason = reason

    def __str__(self) -> str:
        return f"cannot use the key file {self.path}: {self.reason}"


class AddressError(UsageError):
    """A peer ID or multiaddr is malformed.

    Attributes:
        text: What was given.
        reason: What is wrong with it.
    """

    def __init__(self, text: str, reason: str) -> None:
        super().__init__(text, reason)
        self.text = text
        self.reason = reason

    def __str__(self) -> str:
        return f"bad address {self.text[:200]!r}: {self.reason}"


class PortInUseError(UsageError):
    """Another program listens on the port.

    Attributes:
        host: Address asked for.
        port: Port asked for.
    """

    def __init__(self, host: str, port: int) -> None:
        super().__init__(host, port)
        self.host = host
        self.port = port

    def __str__(self) -> str:
        return f"port {self.port} on {self.host} is in use; stop the other program, or choose a port (0: any free one)"


class NodeRunningError(UsageError):
    """Another node uses the same home directory.

    Attributes:
        home: The directory.
    """

    def __init__(self, home: Path) -> None:
        super().__init__(home)
        self.home = home

    def __str__(self) -> str:
        return f"another node is running with the home {self.home}; stop it or give this one its own with --home"


class NoNodeError(UsageError):
    """A command needs a running node and there is none.

    Attributes:
        home: The home directory in which no node runs.
    """

    def __init__(self, home: Path) -> None:
        super().__init__(home)
        self.home = home

    def __str__(self) -> str:
        return f"no node is running with the home {self.home}; start one with `lattica up`"


class ForkedError(UsageError):
    """A node is used in another process than the one that opened it.

    Attributes:
        reason: What happened.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.reason}; open nodes after forking, or start processes with the spawn method"


# network


class NetworkError(LatticaError):
    """Something between two peers failed."""


class PeerUnreachableError(NetworkError):
    """No path to the peer worked.

    Attributes:
        peer_id: The peer, as text.
        attempts: What was tried (an address, or a step such as ``"dht"``) and why it failed.
    """

    def __init__(self, peer_id: object, attempts: Mapping[str, str]) -> None:
        super().__init__(peer_id, attempts)
        self.peer_id = str(peer_id)
        self.attempts = dict(attempts)

    def __str__(self) -> str:
        tried = "; ".join(f"{what}: {reason}" for what, reason in self.attempts.items())
        return f"cannot reach {self.peer_id}: {tried or 'no addresses known'}"


class PunchFailedError(NetworkError):
    """No TCP connection could be punched through the NATs between us and a peer.

    Attributes:
        attempts: What was tried (an address, a STUN server, the peer) and why it failed.
    """

    def __init__(self, attempts: Mapping[str, str]) -> None:
        super().__init__(attempts)
        self.attempts = dict(attempts)

    def __str__(self) -> str:
        tried = "; ".join(f"{what}: {reason}" for what, reason in self.attempts.items())
        return f"hole punching failed ({tried or 'nothing could be tried'})"


class BootstrapError(NetworkError):
    """Not one bootstrap address answered.

    Attributes:
        attempts: Each address and why it failed.
    """

    def __init__(self, attempts: Mapping[str, str]) -> None:
        super().__init__(attempts)
        self.attempts = dict(attempts)

    def __str__(self) -> str:
        tried = "; ".join(f"{what}: {reason}" for what, reason in self.attempts.items())
        return f"no bootstrap peer answered ({tried}); check the address and that the peer is up"


class NoReplicaError(NetworkError):
    """Nobody who offers a service can be called.

    Attributes:
        name: The service.
        attempts: What was tried (the DHT, a peer) and how that went.
    """

    def __init__(self, name: str, attempts: Mapping[str, str]) -> None:
        super().__init__(name, attempts)
        self.name = name
        self.attempts = dict(attempts)

    def __str__(self) -> str:
        tried = "; ".join(f"{what}: {reason}" for what, reason in self.attempts.items())
        return (
            f"no replica of {self.name!r} can be called ({tried or 'nobody was asked yet'}); check the name, and that"
            " a node which serves it is up on the same network"
        )


class StreamError(NetworkError):
    """A stream to a peer was reset, refused or ended in the middle of a message."""


class RemoteProtocolError(NetworkError):
    """A peer broke a protocol: a malformed, oversized or unexpected message.

    Attributes:
        peer_id: The peer as text, or ``"unknown"``.
        reason: What it did.
    """

    def __init__(self, reason: str, peer_id: object = "unknown") -> None:
        super().__init__(reason, peer_id)
        self.peer_id = str(peer_id)
        self.reason = reason

    def __str__(self) -> str:
        return f"peer {self.peer_id} broke the protocol: {self.reason}"


# calls


class RpcError(LatticaError):
    """A call to a peer, or serving one, failed."""


class CodecError(RpcError, UsageError):
    """A value or a declared type cannot be sent.

    Attributes:
        where: The place, such as ``"argument x of Echo.echo"``.
        reason: What is wrong with it and what to do.
    """

    def __init__(self, where: str, reason: str) -> None:
        super().__init__(where, reason)
        self.where = where
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.where} cannot be sent: {self.reason}"


class DecodeError(RpcError):
    """Received bytes are not a value of the declared type: damaged, hostile, or from another version of the service.

    Attributes:
        where: What they should have been, such as ``"argument x of Echo.echo"``.
        reason: What is wrong with them.
    """

    def __init__(self, where: str, reason: str) -> None:
        super().__init__(where, reason)
        self.where = where
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.where} was received malformed: {self.reason}"


class DeadlineExceededError(RpcError, TimeoutError):
    """A call did not end within its time.

    Attributes:
        method: What was called.
    """

    def __init__(self, method: str) -> None:
        super().__init__(method)
        self.method = method

    def __str__(self) -> str:
        return f"{self.method} did not end within the time that its caller gave it"


class ServerBusyError(RpcError):
    """The peer has as many calls, or bytes of arguments, under way as it takes.

    Attributes:
        method: What was called.
        reason: Which limit was reached.
        has_begun: Whether the method has: an item of its stream of requests found no room. Else nothing was executed.
    """

    def __init__(self, method: str, reason: str, has_begun: bool = False) -> None:
        super().__init__(method, reason, has_begun)
        self.method = method
        self.reason = reason
        self.has_begun = has_begun

    def __str__(self) -> str:
        what = "was broken off" if self.has_begun else "was not begun"
        return f"{self.method} {what}: {self.reason}; try again later, or ask another peer"


class UnsendableResultError(RpcError):
    """The peer's method was executed, but its result, or exception, is of a kind that cannot be sent."""


class NoSuchMethodError(RpcError):
    """The peer does not serve the method.

    Attributes:
        method: What was called.
    """

    def __init__(self, method: str) -> None:
        super().__init__(method)
        self.method = method

    def __str__(self) -> str:
        return f"the peer does not serve {self.method}; does it run the same version of the service?"


class OutcomeUnknownError(RpcError):
    """A call that must not run twice was sent, and its answer was lost: it may have run or not.

    Attributes:
        method: What was called.
        reason: How the answer was lost.
    """

    def __init__(self, method: str, reason: str) -> None:
        super().__init__(method, reason)
        self.method = method
        self.reason = reason

    def __str__(self) -> str:
        return (
            f"{self.method} may or may not have been executed: {self.reason}; "
            "ask the peer what it did, or declare the method idempotent"
        )


class RemoteError(RpcError):
    """The peer's method raised.

    If it raised one of Python's own exceptions, or one that the method declares (``raises=``), the error is an instance
    of that class too.

    Attributes:
        method: What was called.
        kind: Name of the exception's class there.
        message: The exception's text there.
        traceback: Where it was raised there; empty unless the caller asked for it.
    """

    def __init__(self, method: str, kind: str, message: str, traceback: str = "") -> None:
        # Not `super`: the class that this one is combined with would take these for arguments of its own.
        Exception.__init__(self, method, kind, message, traceback)
        self.method = method
        self.kind = kind
        self.message = message
        self.traceback = traceback

    def __str__(self) -> str:
        text = f"{self.method} raised {self.kind}: {self.message}"
        return f"{text}\n\nat the peer:\n{self.traceback}" if self.traceback else text


# content


class ContentError(LatticaError):
    """Publishing, storing or fetching content failed."""


class MalformedCidError(ContentError, UsageError):
    """A content ID cannot be parsed.

    Attributes:
        text: What was given.
        reason: What is wrong with it.
    """

    def __init__(self, text: str, reason: str) -> None:
        super().__init__(text, reason)
        self.text = text
        self.reason = reason

    def __str__(self) -> str:
        return f"bad content ID {self.text[:200]!r}: {self.reason}"


class ContentNotFoundError(ContentError):
    """No reachable peer provides the content.

    Attributes:
        cid: The content ID, as text.
        attempts: Providers that were asked, and why each failed; empty if the DHT knew none.
    """

    def __init__(self, cid: object, attempts: Mapping[str, str]) -> None:
        super().__init__(cid, attempts)
        self.cid = str(cid)
        self.attempts = dict(attempts)

    def __str__(self) -> str:
        if not self.attempts:
            return f"nobody provides {self.cid}; check the content ID, and that its publisher is up on the same network"
        tried = "; ".join(f"{who}: {reason}" for who, reason in self.attempts.items())
        return f"no provider of {self.cid} could serve it ({tried})"


class IntegrityError(ContentError):
    """A peer sent bytes that do not match their content ID, and nobody else had the right ones.

    Attributes:
        cid: What was asked for, as text.
        peers: The peers that sent wrong bytes, as text.
    """

    def __init__(self, cid: object, peers: tuple[str, ...]) -> None:
        super().__init__(cid, peers)
        self.cid = str(cid)
        self.peers = peers

    def __str__(self) -> str:
        senders = ", ".join(self.peers) or "the local store"
        return f"wrong bytes for {self.cid} from {senders}, and no other provider had the right ones"


class ManifestError(ContentError):
    """A manifest is malformed or claims what no honest manifest would.

    Attributes:
        cid: The manifest's content ID, as text.
        reason: What is wrong.
    """

    def __init__(self, cid: object, reason: str) -> None:
        super().__init__(cid, reason)
        self.cid = str(cid)
        self.reason = reason

    def __str__(self) -> str:
        return f"the manifest {self.cid} is not acceptable: {self.reason}"


class SourceChangedError(ContentError):
    """A file changed while it was being published.

    Attributes:
        path: The file.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.path = path

    def __str__(self) -> str:
        return f"{self.path} changed while it was being published; nothing was published, try again when it is complete"


class PublishCancelledError(ContentError):
    """Publishing was stopped by its caller; nothing was published.

    Attributes:
        path: What was being published.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.path = path

    def __str__(self) -> str:
        return f"publishing {self.path} was cancelled; nothing was published"


class SourceError(ContentError, UsageError):
    """A file to publish, or a destination to fetch to, cannot be used.

    Attributes:
        path: The file.
        reason: Why, and what to do.
    """

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(path, reason)
        self.path = path
        self.reason = reason

    def __str__(self) -> str:
        return f"cannot use {self.path}: {self.reason}"


class StoreError(ContentError, UsageError):
    """The block store on disk cannot be used: read-only, full, damaged, from another version.

    Attributes:
        path: Where.
        reason: What is wrong and what to do.
    """

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(path, reason)
        self.path = path
        self.reason = reason

    def __str__(self) -> str:
        return f"the block store {self.path} cannot be used: {self.reason}"


# documents


class DocumentError(LatticaError):
    """Something about a replicated document failed.

    Attributes:
        reason: What happened, and what to do.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason

    def __str__(self) -> str:
        return self.reason


class NamespaceError(DocumentError, UsageError):
    """A namespace's ID is malformed, or a namespace cannot be made or opened as it was asked for."""


class StoreUsageError(UsageError):
    """The replicated store was used wrongly: written outside a transaction, a bad name."""


class EntryRefusedError(DocumentError):
    """An entry, or a genesis, breaks the rules: forged, malformed, or not its author's to write."""

    def __str__(self) -> str:
        return f"the entry is refused: {self.reason}"


class EarlyEntryError(EntryRefusedError):
    """An entry's time has not come by our clock: it can be taken later. Whoever sent it may go by another one."""


class DocumentUpdateError(EntryRefusedError):
    """An update of a shared document is malformed, or holds what its author may not write."""

    def __str__(self) -> str:
        return f"the document's update cannot be taken: {self.reason}"


class ReplicaStoreError(UsageError):
    """The file that keeps the replicas of documents cannot be used: locked, full, damaged, from another version.

    Attributes:
        path: The file.
        reason: What is wrong and what to do.
    """

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(path, reason)
        self.path = path
        self.reason = reason

    def __str__(self) -> str:
        return f"the document store {self.path} cannot be used: {self.reason}"


class BatchRefusedError(LatticaError):
    """A batch contradicts what is stored; nothing of it was stored, and the store works on.

    Attributes:
        reason: What does not fit.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason

    def __str__(self) -> str:
        return f"the batch was not stored: {self.reason}"


class ArchiveError(UsageError):
    """A backup of documents cannot be read, or written.

    Attributes:
        reason: What is wrong with it and what to do.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason

    def __str__(self) -> str:
        return f"the archive cannot be used: {self.reason}"


class StoreValueError(StoreUsageError):
    """A value cannot be kept in a shared document; nothing was written.

    Attributes:
        where: The place within what was to be written, such as ``"settings['a'][3]"``.
        reason: What is wrong there and what to do.
    """

    def __init__(self, where: str, reason: str) -> None:
        super().__init__(where, reason)
        self.where = where
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.where}: {self.reason}"


class LeaseLostError(DocumentError):
    """A lease has ended though it is still wanted: others do not count us any more."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(reason)
        self.args = (name, reason)
        self.name = name

    def __str__(self) -> str:
        return f"the lease in {self.name!r} is lost: {self.reason}"

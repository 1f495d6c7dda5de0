"""What a fetch tells its caller: progress, result, and who delivered what."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

from lattica.content.cid import Cid
from lattica.identity import PeerId

Phase: TypeAlias = Literal["find", "manifest", "chunks", "verify", "write", "announce"]


@dataclass(frozen=True, slots=True)
class FetchProgress:
    """How far a fetch is.

    Attributes:
        phase: ``"find"`` until a provider is known, ``"manifest"`` until its manifest is here, ``"chunks"`` while they
            come, ``"verify"`` for the files' digests, ``"write"`` for the copies at the destination, ``"announce"``.
        done_bytes: Bytes of the content that are in the store.
        total_bytes: Bytes of the content; 0 until the manifest is here.
        providers: Peers that are being asked for chunks.
    """

    phase: Phase
    done_bytes: int
    total_bytes: int
    providers: int


ProgressCallback: TypeAlias = Callable[[FetchProgress], None]


@dataclass(frozen=True, slots=True)
class SourceReport:
    """What one provider did for a fetch.

    Attributes:
        peer_id: The provider.
        path_kind: How its bytes travelled: ``"lan"``, ``"direct"``, …; empty if it was never connected.
        bytes: Verified bytes that it was the first to deliver.
        chunks: The same in chunks.
        dropped: Why it was given up, or its last failure; empty if all went well.
    """

    peer_id: PeerId
    path_kind: str
    bytes: int
    chunks: int
    dropped: str


@dataclass(frozen=True, slots=True)
class FetchResult:
    """What was fetched.

    Attributes:
        cid: The root content ID.
        path: The file or directory that was made.
        size: Bytes of all files.
        seconds: From the call until the files were at their destination.
        reused_bytes: Bytes that need not be fetched, as the store had them.
        sources: The providers that were used or tried, the most useful first.
    """

    cid: Cid
    path: Path
    size: int
    seconds: float
    reused_bytes: int
    sources: tuple[SourceReport, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """How long a fetch waits for what may never come, in seconds. The caller may set a deadline of its own besides.

    Attributes:
        nobody: Until the first provider is found. The publisher may just be announcing.
        manifest: From then until one of the providers has given the manifest.
        stuck: Without a new chunk, and with none expected: until a provider returns or another is found.
        announce: For our own announcement, at the end.
    """

    nobody: float = 10.0
    manifest: float = 30.0
    stuck: float = 20.0
    announce: float = 10.0

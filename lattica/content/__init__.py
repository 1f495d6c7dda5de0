"""Model shards by content ID: chunks, manifests, the block store, publishing and fetching."""

from lattica.content.cid import Cid, HashFunction
from lattica.content.fetch import Fetcher
from lattica.content.fetch_report import FetchProgress, FetchResult, Patience, SourceReport
from lattica.content.manifest import Chunk, ChunkRun, FileEntry, Manifest, TensorEntry
from lattica.content.manifest_limits import MAX_CHUNK, MAX_MANIFEST
from lattica.content.ports import ContentRouting, PeerChannels
from lattica.content.publish import Published, publish_path
from lattica.content.service import ContentServicer, add_content_servicer
from lattica.content.store import BlockStore, PartialBlob

__all__ = [
    "MAX_CHUNK",
    "MAX_MANIFEST",
    "BlockStore",
    "Chunk",
    "ChunkRun",
    "Cid",
    "ContentRouting",
    "ContentServicer",
    "FetchProgress",
    "FetchResult",
    "Fetcher",
    "FileEntry",
    "HashFunction",
    "Manifest",
    "PartialBlob",
    "Patience",
    "PeerChannels",
    "Published",
    "SourceReport",
    "TensorEntry",
    "add_content_servicer",
    "publish_path",
]

"""Manifests: what is encoded comes back, and what no honest publisher makes is refused."""

from __future__ import annotations

import contextlib
import resource
import sys
from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lattica._proto import content_pb2
from lattica.content import (
    MAX_CHUNK,
    MAX_MANIFEST,
    Chunk,
    ChunkRun,
    Cid,
    FileEntry,
    HashFunction,
    Manifest,
    TensorEntry,
)
from lattica.content.manifest_limits import MAX_FILES, MAX_RUNS, MAX_TENSOR_MESSAGE
from lattica.content.manifest_rules import check_manifest, check_path
from lattica.errors import ContentError, IntegrityError, ManifestError

DIGEST = bytes(range(32))


def run_of(length: int, chunk_size: int = MAX_CHUNK) -> ChunkRun:
    return ChunkRun(chunk_size, length, DIGEST * -(-length // chunk_size))


def entry_of(path: str = "model.bin", *runs: ChunkRun, tensors: tuple[TensorEntry, ...] = ()) -> FileEntry:
    return FileEntry(path, sum(run.length for run in runs), DIGEST, runs, tensors)


def manifest_of(*files: FileEntry, name: str = "model", function: HashFunction = HashFunction.BLAKE3) -> Manifest:
    return Manifest(name, function, files)


def decode(data: bytes, function: HashFunction = HashFunction.BLAKE3) -> Manifest:
    return Manifest.decode(Cid.of(data, function), data)


RUNS = st.builds(run_of, st.integers(0, 5000), st.integers(1, MAX_CHUNK).filter(lambda n: n > 100))
PARTS = st.text(st.characters(codec="utf-8", exclude_characters="/\\:", exclude_categories=["Cc"]), min_size=1).filter(
    lambda part: part not in {".", ".."}
)
PATHS = st.lists(PARTS, min_size=1, max_size=4).map("/".join)


@st.composite
def manifests(draw: st.DrawFn) -> Manifest:
    paths = sorted(draw(st.sets(PATHS, min_size=1, max_size=4)))
    files = []
    for path in paths:
        runs = draw(st.lists(RUNS, max_size=4))
        tensors = [
            TensorEntry(f"t{number}", "U8", (run.length,), number)
            for number, run in enumerate(runs)
            if draw(st.booleans())
        ]
        files.append(entry_of(path, *runs, tensors=tuple(tensors)))
    return manifest_of(*files, name=draw(PARTS), function=draw(st.sampled_from(HashFunction)))


@given(manifests())
@settings(deadline=None)
def test_an_acceptable_manifest_comes_back_from_its_bytes(manifest: Manifest) -> None:
    with contextlib.suppress(ValueError):  # one path may be a directory of another
        check_manifest(manifest)
        assert Manifest.decode(manifest.cid(), manifest.encode()) == manifest
        assert manifest.encode() == manifest.encode()
        assert manifest.cid() == Cid.of(manifest.encode(), manifest.hash)


@given(manifests())
@settings(deadline=None)
def test_chunks_are_the_runs_cut_up(manifest: Manifest) -> None:
    for entry in manifest.files:
        chunks = entry.chunks()
        assert sum(chunk.length for chunk in chunks) == entry.size
        assert b"".join(chunk.digest for chunk in chunks) == b"".join(run.digests for run in entry.runs)
        offset = 0
        for chunk in chunks:
            assert chunk.offset == offset
            offset += chunk.length


def test_chunks_of_two_runs() -> None:
    runs = ChunkRun(4, 10, b"a" * 32 + b"b" * 32 + b"c" * 32), ChunkRun(8, 0, b""), ChunkRun(8, 8, b"d" * 32)
    assert entry_of("f", *runs).chunks() == [
        Chunk(b"a" * 32, 0, 4),
        Chunk(b"b" * 32, 4, 4),
        Chunk(b"c" * 32, 8, 2),
        Chunk(b"d" * 32, 10, 8),
    ]


def test_bytes_that_the_cid_does_not_name_are_refused() -> None:
    manifest = manifest_of(entry_of())
    data = manifest.encode()
    with pytest.raises(IntegrityError, match=str(manifest.cid())):
        Manifest.decode(manifest.cid(), data + b"\0")
    with pytest.raises(IntegrityError):
        Manifest.decode(manifest.cid(), b"")


@given(st.binary())
@settings(deadline=None, max_examples=300)
def test_any_bytes_are_a_manifest_or_refused(data: bytes) -> None:
    with contextlib.suppress(ManifestError):
        decode(data)


@given(st.data())
@settings(deadline=None, max_examples=300)
def test_a_damaged_manifest_is_a_manifest_or_refused(data: st.DataObject) -> None:
    raw = bytearray(manifest_of(entry_of("a", run_of(10)), entry_of("b", run_of(MAX_CHUNK + 1))).encode())
    for _ in range(data.draw(st.integers(1, 3))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(ManifestError):
        check_manifest(decode(bytes(raw)))


def tensor(name: str = "t", dtype: str = "F32", shape: tuple[int, ...] = (2,), run: int = 0) -> TensorEntry:
    return TensorEntry(name, dtype, shape, run)


EIGHT = run_of(8)
LIES = {
    "no files": (manifest_of(), "lists 0 files"),
    "control characters in the name": (manifest_of(entry_of(), name="a\x1b[2J"), "control characters"),
    "long name": (manifest_of(entry_of(), name="n" * 1025), "longer than 1024"),
    "unsorted": (manifest_of(entry_of("b"), entry_of("a")), "out of order"),
    "twice": (manifest_of(entry_of("a"), entry_of("a")), "twice"),
    "file and directory": (manifest_of(entry_of("a"), entry_of("a-"), entry_of("a/b")), "both a file and a directory"),
    "deep file and directory": (manifest_of(entry_of("a/b"), entry_of("a/b/c/d")), "both a file and a directory"),
    "short digest": (manifest_of(replace(entry_of(), digest=b"short")), "does not have 32 bytes"),
    "size": (manifest_of(replace(entry_of("a", EIGHT), size=9)), "do not add up to its 9 bytes"),
    "absurd size": (manifest_of(replace(entry_of("a"), size=1 << 62)), "do not add up"),
    "absurd run": (
        manifest_of(replace(entry_of("a", replace(EIGHT, length=1 << 62)), size=1 << 62)),
        "32 bytes of dig",
    ),
    "too few digests": (manifest_of(replace(entry_of("a", replace(EIGHT, length=MAX_CHUNK + 1)))), "32 bytes of dig"),
    "too many digests": (manifest_of(replace(entry_of("a", replace(EIGHT, digests=DIGEST * 2)))), "64 bytes of dig"),
    "part of a digest": (manifest_of(replace(entry_of("a", replace(EIGHT, digests=DIGEST[:31])))), "31 bytes of dig"),
    "no chunk size": (manifest_of(entry_of("a", replace(EIGHT, chunk_size=0))), "chunks of 0 bytes"),
    "large chunks": (manifest_of(entry_of("a", replace(EIGHT, chunk_size=MAX_CHUNK + 1))), "chunks of 1048577"),
    "unknown dtype": (manifest_of(entry_of("a", EIGHT, tensors=(tensor(dtype="F33"),))), "'F33'"),
    "shape": (manifest_of(entry_of("a", EIGHT, tensors=(tensor(shape=(3,)),))), "do not make the size"),
    "shape overflow": (
        manifest_of(entry_of("a", EIGHT, tensors=(tensor(shape=(1 << 63, 2)),))),
        "do not make the size",
    ),
    "no such run": (manifest_of(entry_of("a", EIGHT, tensors=(tensor(run=1),))), "has none"),
    "shared run": (manifest_of(entry_of("a", EIGHT, tensors=(tensor(), tensor("u")))), "shares its run"),
    "tensor twice": (manifest_of(entry_of("a", EIGHT, EIGHT, tensors=(tensor(), tensor(run=1)))), "there twice"),
    "tensor without name": (manifest_of(entry_of("a", EIGHT, tensors=(tensor(""),))), "empty"),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_manifest_that_cannot_be_true_is_refused_with_its_reason(lie: str) -> None:
    manifest, reason = LIES[lie]
    with pytest.raises(ManifestError, match=reason):
        decode(manifest.encode())
    with pytest.raises(ValueError, match=reason):
        check_manifest(manifest)


UNSAFE = ["", "/", "/etc/passwd", "a/", "a//b", ".", "..", "../a", "a/../../b", "a/./b", "a\\b", "C:a", "c:/a"]
UNSUITABLE = ["a\0b", "a\nb", "a\x7f", "a\x9bb", "\ud800", "a" * 256, "é" * 128, "a/" * 64 + "b", "abc/" * 256 + "a"]


@pytest.mark.parametrize("path", UNSAFE + UNSUITABLE)
def test_a_path_that_could_leave_its_directory_or_cannot_be_made_is_refused(path: str) -> None:
    with pytest.raises(ValueError, match="path"):
        check_path(path)
    if path.isprintable():
        with pytest.raises(ManifestError):
            decode(manifest_of(entry_of(path)).encode())


@pytest.mark.parametrize("path", ["a", "a/b", "...", ".hidden", "a b/ü/模型.bin", "ab:c", "a" * 255, "a/" * 63 + "b"])
def test_an_ordinary_path_is_accepted(path: str) -> None:
    check_path(path)
    assert decode(manifest_of(entry_of(path)).encode()).files[0].path == path


def test_files_that_are_too_large_together_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    manifest = manifest_of(entry_of("a", EIGHT), entry_of("b", EIGHT))
    monkeypatch.setattr("lattica.content.manifest_rules.MAX_TOTAL_SIZE", 16)
    assert decode(manifest.encode()).size == 16
    monkeypatch.setattr("lattica.content.manifest_rules.MAX_TOTAL_SIZE", 15)
    with pytest.raises(ManifestError, match="it claims 16 bytes; 15 are the most"):
        decode(manifest.encode())


def encoded(change: Callable[[content_pb2.Manifest], object]) -> bytes:
    message = content_pb2.Manifest.FromString(manifest_of(entry_of("a", EIGHT, tensors=(tensor(),))).encode())
    change(message)
    return message.SerializeToString()


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        pytest.param(encoded(lambda m: setattr(m, "version", 2)), "version 2 and we read 1", id="version"),
        pytest.param(encoded(lambda m: m.ClearField("version")), "version 0", id="no-version"),
        pytest.param(encoded(lambda m: m.ClearField("hash")), "hash function", id="no-hash"),
        pytest.param(encoded(lambda m: setattr(m, "hash", 2)), "hash function", id="other-hash"),
        pytest.param(encoded(lambda m: setattr(m, "hash", 77)), "hash function", id="unknown-hash"),
        pytest.param(b"garbage", "protobuf|cut off|cut", id="garbage"),
        pytest.param(b"\x22\x05\x0a\x10", "cut off", id="cut-off"),
        pytest.param(b"\x0b\x0c", "not a protobuf message", id="group"),
        pytest.param(b"\x08\x01" * 100, "repeats fields", id="repeated-scalar"),
        pytest.param(b"\x22\x04\x0a\x02\xff\xff", "protobuf", id="not-utf8"),
        pytest.param(b"\x22\x00" * (MAX_FILES + 1), f"more than {MAX_FILES} files", id="files"),
        pytest.param(b"\x22\x84\x80\x80\x01" + b"\x22\x00" * (MAX_RUNS + 2), "cut off|runs", id="runs"),
    ],
)
def test_bytes_that_are_no_manifest_of_ours_are_refused_with_their_reason(data: bytes, reason: str) -> None:
    with pytest.raises(ManifestError, match=reason):
        decode(data)


def _tagged(field: int, body: bytes) -> bytes:
    size, out = len(body), bytearray()
    while size > 0x7F:
        out.append(size & 0x7F | 0x80)
        size >>= 7
    out.append(size)
    return bytes((field << 3 | 2,)) + bytes(out) + body


@pytest.mark.parametrize("field", [4, 5])
def test_too_many_runs_or_tensors_are_refused_before_they_are_made(field: int) -> None:
    data = _tagged(4, bytes((field << 3 | 2, 0)) * (MAX_RUNS + 1))
    with pytest.raises(ManifestError, match=f"more than {MAX_RUNS} runs or tensors"):
        decode(data)


def test_a_huge_shape_is_refused_before_it_is_made() -> None:
    shape = _tagged(3, b"\x01" * MAX_TENSOR_MESSAGE)
    with pytest.raises(ManifestError, match=f"more than {MAX_TENSOR_MESSAGE} bytes"):
        decode(_tagged(4, _tagged(5, shape)))


def test_a_manifest_over_the_limit_is_refused_without_a_look() -> None:
    data = bytes(MAX_MANIFEST + 1)
    with pytest.raises(ManifestError, match=f"{MAX_MANIFEST} are the most"):
        Manifest.decode(Cid(HashFunction.BLAKE3, DIGEST), data)


@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss has other units elsewhere; Linux runs this")
def test_a_bomb_of_empty_messages_takes_no_memory_to_speak_of() -> None:
    data = b"\x22\x00" * (MAX_MANIFEST // 2)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ManifestError, match="files"):
        decode(data)
    grown_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown_kib < 200 * 1024


def test_all_of_it_is_one_kind_of_error() -> None:
    with pytest.raises(ContentError):
        decode(b"")

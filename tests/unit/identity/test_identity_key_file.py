"""The key file: created once, atomically, private; refused with a reason when it cannot be trusted."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from descriptors import open_descriptors

from lattica._proto import identity_pb2
from lattica.errors import KeyFileError, UsageError
from lattica.identity import IdentityKey, load_or_create_key
from lattica.identity.keys import MAX_KEY_FILE

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="changes a file's owner; run as root")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "home" / "identity.key"


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def names_in(directory: Path) -> list[str]:
    return sorted(entry.name for entry in directory.iterdir())


def test_a_missing_file_is_created_private_and_read_again(path: Path) -> None:
    created = load_or_create_key(path)
    assert mode_of(path) == 0o600
    assert mode_of(path.parent) == 0o700
    assert load_or_create_key(path).peer_id == created.peer_id
    assert path.read_bytes() == created.to_bytes()
    assert names_in(path.parent) == [path.name], "no temporary file stays"


def test_the_file_is_private_under_any_umask(path: Path) -> None:
    old = os.umask(0)
    try:
        load_or_create_key(path)
    finally:
        os.umask(old)
    assert mode_of(path) == 0o600


def test_processes_that_start_together_get_the_same_key(path: Path) -> None:
    """Each waits for the same line on its standard input, so that they really run at once."""
    program = (
        "import sys, pathlib\n"
        "from lattica.identity import load_or_create_key\n"
        "print('ready', flush=True)\n"
        "sys.stdin.readline()\n"
        "print(load_or_create_key(pathlib.Path(sys.argv[1])).peer_id)\n"
    )
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", program, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for _ in range(4)
    ]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    peer_ids = {process.communicate(timeout=30)[0].strip() for process in processes}
    assert [process.returncode for process in processes] == [0] * len(processes)
    assert peer_ids == {str(load_or_create_key(path).peer_id)}
    assert names_in(path.parent) == [path.name]


def test_a_file_that_came_first_is_kept(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process finishes between our look and our link: its key counts."""
    other = IdentityKey.generate()
    link = os.link

    def late_link(source: Path, target: Path) -> None:
        path.touch(mode=0o600)
        path.write_bytes(other.to_bytes())
        link(source, target)

    monkeypatch.setattr(os, "link", late_link)
    assert load_or_create_key(path).peer_id == other.peer_id
    assert names_in(path.parent) == [path.name]


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o660, 0o666, 0o777, 0o610])
def test_a_file_that_others_can_touch_is_refused_with_the_remedy(path: Path, mode: int) -> None:
    load_or_create_key(path)
    path.chmod(mode)
    with pytest.raises(KeyFileError, match="chmod 600") as caught:
        load_or_create_key(path)
    assert caught.value.path == path
    assert isinstance(caught.value, UsageError)
    path.chmod(0o400)
    load_or_create_key(path)


@needs_root
def test_another_users_file_is_refused(path: Path) -> None:
    load_or_create_key(path)
    os.chown(path, 12345, -1)
    with pytest.raises(KeyFileError, match="belongs to user 12345"):
        load_or_create_key(path)


def _directory(path: Path) -> None:
    path.mkdir(parents=True)


def _pipe(path: Path) -> None:
    path.parent.mkdir()
    os.mkfifo(path, 0o600)


def _dangling_link(path: Path) -> None:
    path.parent.mkdir()
    path.symlink_to(path.parent / "nowhere" / "key")


def _file_in_the_way(path: Path) -> None:
    path.parent.write_bytes(b"not a directory")


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        pytest.param(_directory, "not a regular file", id="directory"),
        pytest.param(_pipe, "not a regular file", id="named-pipe"),
        pytest.param(_dangling_link, "No such file", id="dangling-link"),
        pytest.param(_file_in_the_way, r"Not a directory|File exists", id="parent-is-a-file"),
    ],
)
def test_something_else_in_its_place_is_refused(path: Path, make: Callable[[Path], None], reason: str) -> None:
    make(path)
    with pytest.raises(KeyFileError, match=reason):
        load_or_create_key(path)
    assert not [target for target in open_descriptors() if target.startswith(str(path.parent))], "no file stays open"


def _key_file(path: Path, content: bytes) -> None:
    path.parent.mkdir(exist_ok=True)
    path.touch(mode=0o600)
    path.write_bytes(content)


def _other_type() -> bytes:
    return identity_pb2.PrivateKey(type=identity_pb2.KEY_TYPE_SECP256K1, data=bytes(32)).SerializeToString()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        pytest.param(b"", "not an Ed25519 private key", id="empty"),
        pytest.param(IdentityKey.generate().to_bytes()[:-1], "not a libp2p private key", id="truncated"),
        pytest.param(IdentityKey.generate().to_bytes() + bytes(MAX_KEY_FILE), "too large", id="too-large"),
        pytest.param(b"-----BEGIN OPENSSH PRIVATE KEY-----\n", "private key", id="ssh-key"),
        pytest.param(_other_type(), "not an Ed25519 private key", id="secp256k1"),
    ],
)
def test_content_that_is_no_key_is_refused_and_kept(path: Path, content: bytes, reason: str) -> None:
    _key_file(path, content)
    with pytest.raises(KeyFileError, match=reason) as caught:
        load_or_create_key(path)
    assert "backup" in str(caught.value)
    assert path.read_bytes() == content


@needs_root
def test_a_directory_that_we_may_not_enter_or_write_is_one_clear_sentence() -> None:
    """In a process of another user than root, whom permissions bind."""
    program = (
        "import os, sys, pathlib\n"
        "from lattica.errors import KeyFileError\n"
        "from lattica.identity import load_or_create_key\n"
        "os.setuid(12345)\n"
        "for path in map(pathlib.Path, sys.argv[1:]):\n"
        "    try:\n"
        "        load_or_create_key(path)\n"
        "    except KeyFileError as error:\n"
        "        assert 'Permission denied' in str(error), error\n"
        "    else:\n"
        "        raise AssertionError(path)\n"
    )
    with tempfile.TemporaryDirectory() as top:  # tmp_path is closed to others
        Path(top).chmod(0o755)
        closed, read_only = Path(top, "closed"), Path(top, "read-only")
        closed.mkdir(mode=0o700)
        read_only.mkdir(mode=0o755)
        paths = [closed / "identity.key", closed / "sub" / "identity.key", read_only / "identity.key"]
        subprocess.run([sys.executable, "-c", program, *map(str, paths)], check=True, timeout=30)
        assert names_in(read_only) == names_in(closed) == []


def test_a_full_disk_leaves_nothing_behind(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_space(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", no_space)
    with pytest.raises(KeyFileError, match="No space left"):
        load_or_create_key(path)
    assert names_in(path.parent) == []

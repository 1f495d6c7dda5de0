"""A node's folders: one process for a home, and nothing of a killed node stays in the runtime folder."""

from __future__ import annotations

import multiprocessing
import os
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from lattica.errors import ConfigError, NodeRunningError
from lattica.node.home import LOCK_FILE, MAX_RUNTIME_PATH, hold_home, runtime_folder

HOLD = """
import sys, time
from pathlib import Path
from lattica.node.home import hold_home, runtime_folder
with hold_home(Path(sys.argv[1])), runtime_folder() as folder:
    (folder / "socket").touch()
    print(folder, flush=True)
    sys.stdin.read()
"""


class Holder:
    """Another process that holds a home and has a runtime folder."""

    def __init__(self, home: Path) -> None:
        command = [sys.executable, "-c", HOLD, str(home)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        self.folder = Path(self.process.stdout.readline().strip())

    def __enter__(self) -> Holder:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def end(self, how: signal.Signals | None = None) -> None:
        """Let it end by itself, or kill it."""
        if how is not None:
            self.process.send_signal(how)
        self.process.communicate(timeout=20)


@pytest.fixture
def runtime(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where runtime folders are made: pytest's own folders have too long names."""
    with tempfile.TemporaryDirectory(prefix="run") as folder:
        monkeypatch.setenv("XDG_RUNTIME_DIR", folder)
        yield Path(folder)


def test_a_home_is_made_for_its_user_alone(tmp_path: Path) -> None:
    home = tmp_path / "a" / "b"
    with hold_home(home):
        assert stat.S_IMODE(home.stat().st_mode) == 0o700


def test_a_second_holder_is_told_whose_home_it_is(tmp_path: Path) -> None:
    with hold_home(tmp_path), pytest.raises(NodeRunningError) as caught, hold_home(tmp_path):
        pass
    assert caught.value.home == tmp_path


def test_a_home_can_be_held_again_when_its_holder_has_ended(tmp_path: Path) -> None:
    with hold_home(tmp_path):
        pass
    with hold_home(tmp_path):
        pass


def test_another_process_holds_its_home_until_it_dies(tmp_path: Path, runtime: Path) -> None:
    with Holder(tmp_path / "home") as other:
        with pytest.raises(NodeRunningError), hold_home(tmp_path / "home"):
            pass
        other.end(signal.SIGKILL)
        with hold_home(tmp_path / "home"):
            pass


def test_an_error_of_the_block_comes_out_as_it_is(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), hold_home(tmp_path):
        raise FileNotFoundError


def test_a_home_that_is_a_file_is_one_sentence(tmp_path: Path) -> None:
    home = tmp_path / "file"
    home.touch()
    with pytest.raises(ConfigError, match=f"{home}.*--home"), hold_home(home):
        pass


def test_a_home_that_cannot_be_made_is_one_sentence() -> None:
    """Not even by root, whom no permissions stop."""
    with pytest.raises(ConfigError, match=r"/proc/lattica: .*--home"), hold_home(Path("/proc/lattica")):
        pass


def test_a_runtime_folder_is_its_users_alone_and_gone_afterwards(runtime: Path) -> None:
    with runtime_folder() as folder:
        assert folder.parent == runtime
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        (folder / "socket").touch()
    assert list(runtime.iterdir()) == []


def test_a_unix_socket_fits_into_a_runtime_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Whatever the user's folders are called."""
    deep = tmp_path / ("x" * 100)
    deep.mkdir()
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(deep))
    monkeypatch.setattr("tempfile.tempdir", str(deep))
    with runtime_folder() as folder, socket.socket(socket.AF_UNIX) as sock:
        assert len(os.fsencode(folder)) <= MAX_RUNTIME_PATH
        sock.bind(str(folder / "a-name-of-26-characters-ok"))


def test_a_runtime_folder_that_is_not_there_is_not_used(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "gone"))
    with runtime_folder() as folder:
        assert folder.is_dir()


def test_what_a_killed_node_left_is_removed_by_the_next(tmp_path: Path, runtime: Path) -> None:
    with Holder(tmp_path / "home") as other:
        left = other.folder
        other.end(signal.SIGKILL)
    assert (left / "socket").exists()
    with runtime_folder() as folder:
        assert list(runtime.iterdir()) == [folder]


def test_what_a_living_node_has_stays(tmp_path: Path, runtime: Path) -> None:
    with Holder(tmp_path / "home") as other:
        with runtime_folder():
            pass
        assert (other.folder / "socket").exists()
        other.end()
    assert list(runtime.iterdir()) == []


def test_a_folder_that_only_looks_like_ours_stays(runtime: Path, tmp_path: Path) -> None:
    """No lock file, or one that leads elsewhere: not made by a node."""
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / LOCK_FILE).touch()
    (runtime / "lattica-notes").mkdir()
    (runtime / "lattica-link").symlink_to(precious)
    (runtime / "lattica-evil").mkdir()
    (runtime / "lattica-evil" / LOCK_FILE).symlink_to(precious / LOCK_FILE)
    with runtime_folder():
        pass
    assert (precious / LOCK_FILE).exists()
    assert sorted(path.name for path in runtime.iterdir()) == ["lattica-evil", "lattica-link", "lattica-notes"]


def test_nodes_that_start_at_once_do_not_sweep_each_other(runtime: Path) -> None:
    """Each has to find its folder whole, whatever the others do meanwhile."""
    start = threading.Barrier(8)
    broken: list[BaseException] = []

    def run() -> None:
        start.wait()
        try:
            for _ in range(40):
                with runtime_folder() as folder:
                    (folder / "socket").touch()
        except BaseException as error:  # noqa: BLE001 - to be shown by the test
            broken.append(error)

    threads = [threading.Thread(target=run) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert broken == []
    assert list(runtime.iterdir()) == []


def test_a_forked_child_does_not_keep_the_home(tmp_path: Path) -> None:
    """Data loaders fork or spawn; they inherit no lock over an exec."""
    context = multiprocessing.get_context("spawn")
    with hold_home(tmp_path):
        child = context.Process(target=sys.exit)
        child.start()
        child.join(20)
    with hold_home(tmp_path):
        pass

"""Where the files of a fetch go, and what is in their way."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from lattica.content.cid import HashFunction
from lattica.content.fetch_destination import check_destination, exported_path, plan_export
from lattica.content.manifest import FileEntry, Manifest
from lattica.errors import SourceError


def manifest(*paths: str) -> Manifest:
    return Manifest("test", HashFunction.BLAKE3, tuple(FileEntry(path, 0, bytes(32), ()) for path in sorted(paths)))


FILE = manifest("model.bin")
FOLDER = manifest("a.bin", "sub/b.bin")


@pytest.mark.parametrize(
    ("content", "destination", "made", "path"),
    [
        pytest.param(FILE, "new.bin", {"new.bin"}, "new.bin", id="a file"),
        pytest.param(FILE, "folder", {"folder/model.bin"}, "folder/model.bin", id="a file into a folder"),
        pytest.param(FILE, "far/away/new.bin", {"far/away/new.bin"}, "far/away/new.bin", id="folders are made"),
        pytest.param(FOLDER, "new", {"new/a.bin", "new/sub/b.bin"}, "new", id="a new folder"),
        pytest.param(FOLDER, "folder", {"folder/a.bin", "folder/sub/b.bin"}, "folder", id="into a folder"),
        pytest.param(manifest("sub/b.bin"), "new", {"new/sub/b.bin"}, "new", id="a folder with one file in a folder"),
    ],
)
def test_files_go_where_cp_would_put_them(
    tmp_path: Path, content: Manifest, destination: str, made: set[str], path: str
) -> None:
    (tmp_path / "folder").mkdir()
    plan = plan_export(content, tmp_path / destination, overwrite=False)
    assert {str(target.relative_to(tmp_path)) for target in plan} == made
    assert exported_path(content, plan, tmp_path / destination) == tmp_path / path


@pytest.mark.parametrize(
    ("content", "destination", "overwrite", "reason"),
    [
        pytest.param(FILE, "there.bin", False, "it exists", id="a file"),
        pytest.param(FILE, "full", False, "it exists", id="a file in the folder"),
        pytest.param(FILE, "link.bin", False, "it exists", id="a link to nothing"),
        pytest.param(FOLDER, "there.bin", True, "several files need a directory", id="a file for a folder"),
        pytest.param(FOLDER, "full", False, "it exists", id="one of several"),
        pytest.param(FOLDER, "odd", True, "a directory is in the way", id="a folder for a file"),
        pytest.param(FILE, "there.bin/new.bin", True, "is a file", id="a file for a parent"),
    ],
)
def test_what_is_in_the_way_is_named(
    tmp_path: Path, content: Manifest, destination: str, overwrite: bool, reason: str
) -> None:
    (tmp_path / "there.bin").touch()
    (tmp_path / "link.bin").symlink_to("nowhere")
    (tmp_path / "full").mkdir()
    (tmp_path / "full/model.bin").touch()
    (tmp_path / "full/a.bin").touch()
    (tmp_path / "odd/a.bin").mkdir(parents=True)
    with pytest.raises(SourceError, match=reason):
        plan_export(content, tmp_path / destination, overwrite=overwrite)


@pytest.mark.parametrize("content", [FILE, FOLDER])
def test_files_may_be_replaced(tmp_path: Path, content: Manifest) -> None:
    (tmp_path / "model.bin").touch()
    (tmp_path / "a.bin").touch()
    assert plan_export(content, tmp_path, overwrite=True)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_write_permission_is_refused_before_the_fetch(tmp_path: Path) -> None:
    (tmp_path / "closed").mkdir(mode=0o555)
    with pytest.raises(SourceError, match="may not write"):
        plan_export(FILE, tmp_path / "closed/new/model.bin", overwrite=False)


def test_an_existing_file_is_refused_before_the_manifest_is_known(tmp_path: Path) -> None:
    (tmp_path / "there.bin").touch()
    with pytest.raises(SourceError, match="it exists"):
        check_destination(tmp_path / "there.bin", overwrite=False)
    check_destination(tmp_path / "there.bin", overwrite=True)
    check_destination(tmp_path, overwrite=False)
    check_destination(tmp_path / "new", overwrite=False)

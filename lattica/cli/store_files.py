"""`lattica store verify`, `export`, `import`: on the file itself; a node may run, but for `import`."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import click

from lattica.cli.output import Output
from lattica.cli.session import EXIT_FAILED, Common, Session, open_session, run
from lattica.cli.store_commands import author_line
from lattica.errors import ArchiveError, DocumentError

if TYPE_CHECKING:
    from lattica.store.backup import Restored
    from lattica.store.disk_view import StoreView
    from lattica.store.namespace import NamespaceId
    from lattica.store.verify import Verified


@click.command()
@click.argument("namespace", required=False)
@click.pass_obj
def verify(common: Common, /, namespace: str | None) -> None:
    """Check every signature and every chain of a document, or of all, in the file.

    A running node goes on; what is checked is what was durable when the command began. Exits with 1 if anything is
    wrong.
    """
    session = open_session(common)
    wrong: list[str] = []

    async def command() -> None:
        from lattica.identity import load_or_create_key
        from lattica.node import KEY_FILE
        from lattica.store.verify import verify_namespace

        async with _open_view(session) as disk:
            key_file = session.config.home / KEY_FILE
            own = load_or_create_key(key_file).peer_id.raw if key_file.exists() else b""
            for found, genesis in (await _chosen(disk, namespace)).items():
                result = await verify_namespace(disk, found, genesis, own)
                _print_verified(session.output, result)
                wrong.extend(result.problems)

    run(command())
    if wrong:
        raise SystemExit(EXIT_FAILED)


def _print_verified(output: Output, result: Verified) -> None:
    authors = [
        {
            "peer_id": str(author.peer),
            "role": author.role or "none",
            "paths": list(author.paths),
            "entries": author.entries,
            "covered": author.covered,
            "controls": author.controls,
            "frozen": author.frozen,
        }
        for author in result.authors
    ]
    data = {
        "namespace": str(result.namespace),
        "ok": not result.problems,
        "entries": result.entries,
        "vouched": result.vouched,
        "not_counting": result.idle,
        "frontier": result.frontier.hex(),
        "authors": authors,
        "frauds": [{"peer_id": str(peer), "seq": seq} for peer, seq in result.frauds],
        "problems": result.problems,
    }
    lines = [
        f"namespace  {result.namespace}",
        f"entries    {result.entries}",
        *([f"vouched    {result.vouched} by later entries; their own signatures are wrong"] if result.vouched else []),
        *([f"idle       {result.idle} of ours, which do not count"] if result.idle else []),
        f"frontier   {result.frontier.hex() or '-'}",
        *(author_line(author) for author in authors),
        *(f"fraud      {peer}, from entry {seq} on" for peer, seq in result.frauds),
        *(f"WRONG      {problem}" for problem in result.problems),
        "all right" if not result.problems else f"{len(result.problems)} found wrong",
    ]
    output.result(data, "\n".join(lines))


@click.command()
@click.argument("namespace")
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--overwrite", is_flag=True, help="Replace what is there.")
@click.pass_obj
def export(common: Common, /, namespace: str, file: Path, overwrite: bool) -> None:
    """Write a document to FILE, with all signatures."""
    session = open_session(common)

    async def command() -> None:
        from lattica.store.archive import EntryPart, write_archive
        from lattica.store.backup import backup_parts
        from lattica.store.namespace import read_genesis

        if file.exists() and not overwrite:
            raise ArchiveError(f"{file} exists; choose another name, or --overwrite")
        async with _open_view(session) as disk:
            [(found, genesis)] = (await _chosen(disk, namespace)).items()
            parts = await backup_parts(disk, read_genesis(genesis, found))
        with _replaced(file) as written:
            write_archive(written, parts)
        entries = sum(isinstance(part, EntryPart) for part in parts)
        data: dict[str, object] = {"namespace": str(found), "file": str(file.absolute()), "entries": entries}
        session.output.result(data, str(file))
        session.output.note(f"{entries} entries, {file.stat().st_size} bytes")

    run(command())


@click.command(name="import")
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@click.pass_obj
def import_(common: Common, /, file: Path) -> None:
    """Merge the documents of FILE into those that are kept here, verified; no node may run.

    All of it is merged or, if that is broken off, nothing.
    """
    session = open_session(common)

    async def command() -> None:
        from lattica.background import background_tasks
        from lattica.identity import load_or_create_key
        from lattica.node import DOCUMENTS_FILE, KEY_FILE, hold_home
        from lattica.store.backup import read_backup, restore
        from lattica.store.disk import open_store_transaction

        try:
            with file.open("rb") as opened:
                backups = read_backup(opened)
        except OSError as error:
            raise ArchiveError(f"{file}: {error.strerror}; check the name and the permissions") from error
        with hold_home(session.config.home):
            key = load_or_create_key(session.config.home / KEY_FILE)
            async with (
                open_store_transaction(session.config.home / DOCUMENTS_FILE) as disk,
                background_tasks() as tasks,
            ):
                results = [await restore(key, disk, tasks, backup) for backup in backups]
        for result in results:
            _print_restored(session.output, result)

    run(command())


def _print_restored(output: Output, result: Restored) -> None:
    data: dict[str, object] = {
        "namespace": str(result.namespace),
        "entries": result.entries,
        "added": result.added,
        "refused": result.refused,
    }
    output.result(data, str(result.namespace))
    refused = f", {result.refused} break the rules" if result.refused else ""
    output.note(f"{result.entries} entries, {result.added} of them new{refused}")


@contextlib.asynccontextmanager
async def _open_view(session: Session) -> AsyncIterator[StoreView]:
    """The file as it is now; a node may be writing to it."""
    from lattica.node import DOCUMENTS_FILE
    from lattica.store.disk_view import open_store_view

    path = session.config.home / DOCUMENTS_FILE
    if not path.exists():
        raise DocumentError(f"no documents are kept in {session.config.home}")
    async with open_store_view(path) as disk:
        yield disk


async def _chosen(disk: StoreView, text: str | None) -> dict[NamespaceId, bytes]:
    """The genesis of one namespace, or of all."""
    from lattica.store.namespace import NamespaceId

    kept = {NamespaceId(raw): genesis for raw, genesis in (await disk.namespaces()).items()}
    if text is None:
        return kept
    namespace = NamespaceId.parse(text)
    if namespace not in kept:
        raise DocumentError(f"{namespace} is not kept here")
    return {namespace: kept[namespace]}


@contextlib.contextmanager
def _replaced(file: Path) -> Iterator[BinaryIO]:
    """A file that takes this one's place when the block has ended and all of it is on disk; not if it raises."""
    try:
        descriptor, name = tempfile.mkstemp(dir=file.absolute().parent, prefix=f".{file.name}.")
        try:
            with os.fdopen(descriptor, "wb") as written:
                yield written
                written.flush()
                os.fsync(descriptor)
            Path(name).replace(file)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise ArchiveError(f"{file} cannot be written: {error.strerror}; choose another place") from error

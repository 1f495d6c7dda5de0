"""`lattica store`: replicated documents of the running node."""

from __future__ import annotations

import json
from typing import Any

import click

from lattica.cli.session import Common, open_session, run


@click.group()
def store() -> None:
    """See and change replicated documents.

    A document is a namespace with an owner, who says who may write. NAMESPACE is its ID: n and 52 letters and digits.
    """


@store.command(name="list")
@click.pass_obj
def list_(common: Common, /) -> None:
    """List the documents that are kept here."""
    session = open_session(common)

    async def command() -> None:
        from lattica._proto import documents_pb2

        async with session.documents() as documents:
            answer = await documents.List(documents_pb2.DocumentsRequest())
        rows = [_info(info) for info in answer.documents]
        session.output.rows(rows, ["namespace", "title", "policy", "owner"], "no documents are kept here")

    run(command())


@store.command()
@click.option("--title", default="", help="For people; it cannot be changed.")
@click.option(
    "--policy", type=click.Choice(["open", "allow-list", "capability"]), default="allow-list", show_default=True,
    help="Who may write: everybody, or whom you grant it to.",
)  # fmt: skip
@click.option(
    "--strangers", type=click.IntRange(0, 15_000), metavar="COUNT",
    help="Of an open document: authors that it takes without a grant; 1024 unless said otherwise.",
)  # fmt: skip
@click.option(
    "--stranger-entries", type=click.IntRange(0, 2**48), metavar="COUNT", default=0,
    help="Entries that each of these may write; 0: any number.",
)  # fmt: skip
@click.pass_obj
def create(common: Common, /, title: str, policy: str, strangers: int | None, stranger_entries: int) -> None:
    """Make a document; print its namespace."""
    session = open_session(common)

    async def command() -> None:
        from lattica._proto import documents_pb2

        request = documents_pb2.CreateDocumentRequest(
            title=title, policy=policy, strangers=strangers, stranger_entries=stranger_entries
        )
        async with session.documents() as documents:
            info = await documents.Create(request)
        session.output.result(_info(info), info.namespace)

    run(command())


@store.command(name="open")
@click.argument("namespace")
@click.option("--timeout", default=30.0, show_default=True, metavar="SECONDS", type=click.FloatRange(0, 3600))
@click.pass_obj
def open_(common: Common, /, namespace: str, timeout: float) -> None:
    """Get a document of others, and keep it up to date while the node runs.

    `lattica up --replicate NAMESPACE` does so each time that it runs.
    """
    session = open_session(common)

    async def command() -> None:
        from lattica._proto import documents_pb2

        async with session.documents() as documents:
            info = await documents.Open(documents_pb2.OpenDocumentRequest(namespace=namespace, timeout_s=timeout))
        session.output.result(_info(info), info.namespace)

    run(command())


@store.command()
@click.argument("namespace")
@click.pass_obj
def show(common: Common, /, namespace: str) -> None:
    """Say who writes a document, how far it goes here, and which replicas are in touch."""
    session = open_session(common)

    async def command() -> None:
        from lattica._proto import documents_pb2

        async with session.documents() as documents:
            answer = await documents.Show(documents_pb2.NamespaceRequest(namespace=namespace))
        authors = [
            {
                "peer_id": author.peer_id,
                "role": author.role or "none",
                "paths": list(author.paths),
                "entries": author.entries,
                "covered": author.covered,
                "controls": author.controls,
                "frozen": author.frozen,
            }
            for author in answer.authors
        ]
        entries = sum(author.entries + author.controls for author in answer.authors)
        data = {
            **_info(answer.info),
            "entries": entries,
            "frontier": answer.frontier.hex(),
            "peers": list(answer.peers),
            "problems": list(answer.problems),
            "authors": authors,
        }
        lines = [
            f"namespace  {answer.info.namespace}",
            f"title      {answer.info.title or '-'}",
            f"policy     {answer.info.policy}",
            f"entries    {entries}",
            f"frontier   {answer.frontier.hex()}",
            *(f"in touch   {peer}" for peer in answer.peers),
            *(f"problem    {problem}" for problem in answer.problems),
            *(author_line(author) for author in authors),
        ]
        session.output.result(data, "\n".join(lines))

    run(command())


@store.command()
@click.argument("namespace")
@click.argument("peer")
@click.option("--admin", is_flag=True, help="It may also grant and revoke.")
@click.option("--path", "paths", multiple=True, metavar="NAME", help="Only this container, and all below; repeatable.")
@click.pass_obj
def grant(common: Common, /, namespace: str, peer: str, admin: bool, paths: tuple[str, ...]) -> None:
    """Let PEER write a document."""
    session = open_session(common)

    async def command() -> None:
        from lattica._proto import documents_pb2

        request = documents_pb2.GrantRequest(namespace=namespace, peer=peer, admin=admin, paths=paths)
        async with session.documents() as documents:
            answer = await documents.Grant(request)
        data: dict[str, object] = {"namespace": namespace, "peer_id": peer, "frontier": answer.frontier.hex()}
        session.output.result(data, f"{peer} may write {', '.join(paths) or 'everything'}")

    run(command())


@store.command()
@click.argument("namespace")
@click.argument("peer")
@click.pass_obj
def revoke(common: Common, /, namespace: str, peer: str) -> None:
    """End PEER's right to write a document.

    What this node has seen of it goes on to count; what it has not seen counts nowhere.
    """
    session = open_session(common)

    async def command() -> None:
        from lattica._proto import documents_pb2

        async with session.documents() as documents:
            answer = await documents.Revoke(documents_pb2.RevokeRequest(namespace=namespace, peer=peer))
        data: dict[str, object] = {"namespace": namespace, "peer_id": peer, "frontier": answer.frontier.hex()}
        session.output.result(data, f"{peer} may not write any more")

    run(command())


@store.command()
@click.argument("namespace")
@click.argument("root")
@click.argument("key", required=False)
@click.pass_obj
def get(common: Common, /, namespace: str, root: str, key: str | None) -> None:
    """Print what ROOT (map:NAME, list:NAME, text:NAME, counter:NAME, …) holds, or one KEY of it, as JSON."""
    session = open_session(common)

    async def command() -> None:
        from lattica._proto import documents_pb2

        request = documents_pb2.GetValueRequest(namespace=namespace, root=root, key=key)
        async with session.documents() as documents:
            text = await _joined(documents.Get(request))
        data: dict[str, object] = {"namespace": namespace, "root": root, "key": key, "value": json.loads(text)}
        session.output.result(data, text)

    run(command())


@store.command(name="set")
@click.argument("namespace")
@click.argument("root", metavar="map:NAME")
@click.argument("key")
@click.argument("value", metavar="JSON")
@click.pass_obj
def set_(common: Common, /, namespace: str, root: str, key: str, value: str) -> None:
    """Write one key of a map. JSON is the value: 1, true, '"text"', '{"a": [1, 2]}'."""
    session = open_session(common)

    async def command() -> None:
        from lattica._proto import documents_pb2

        request = documents_pb2.SetValueRequest(namespace=namespace, root=root, key=key, json=value)
        async with session.documents() as documents:
            answer = await documents.Set(request)
        data: dict[str, object] = {"namespace": namespace, "root": root, "key": key}
        session.output.result({**data, "frontier": answer.frontier.hex()}, f"{root}[{key!r}] is written")

    run(command())


@store.command()
@click.argument("namespace")
@click.pass_obj
def dump(common: Common, /, namespace: str) -> None:
    """Print all that a document holds as one JSON object, by container."""
    session = open_session(common)

    async def command() -> None:
        from lattica._proto import documents_pb2

        async with session.documents() as documents:
            text = await _joined(documents.Dump(documents_pb2.NamespaceRequest(namespace=namespace)))
        data = json.loads(text)
        session.output.result(data, json.dumps(data, indent=2, ensure_ascii=False))

    run(command())


@store.command()
@click.argument("namespace")
@click.pass_obj
def compact(common: Common, /, namespace: str) -> None:
    """Put what a document holds in the place of its history, in all replicas; only its owner can.

    The owner's node does so by itself once in a while. What is folded is settled: it cannot be revoked any more.
    """
    session = open_session(common)

    async def command() -> None:
        from lattica._proto import documents_pb2

        async with session.documents() as documents:
            answer = await documents.Compact(documents_pb2.NamespaceRequest(namespace=namespace))
        data: dict[str, object] = {"namespace": namespace, "changed": answer.changed}
        session.output.result(data, "compacted" if answer.changed else "there was nothing to do")

    run(command())


@store.command()
@click.argument("namespace")
@click.pass_obj
def forget(common: Common, /, namespace: str) -> None:
    """Delete a document here; others keep theirs."""
    session = open_session(common)

    async def command() -> None:
        from lattica._proto import documents_pb2

        async with session.documents() as documents:
            info = await documents.Forget(documents_pb2.NamespaceRequest(namespace=namespace))
        session.output.result(_info(info), f"{info.namespace} is deleted here")

    run(command())


def author_line(author: dict[str, Any]) -> str:
    """An author for people; the fields are those of the JSON."""
    below = f", only {', '.join(author['paths'])}" if author["paths"] else ""
    frozen = ", frozen: its fraud is proven" if author["frozen"] else ""
    entries = "1 entry" if author["entries"] == 1 else f"{author['entries']} entries"
    covered = f" since a checkpoint at number {author['covered']}" if author["covered"] else ""
    controls = f", {author['controls']} of rights and checkpoints" if author["controls"] else ""
    role = {"none": "may not write"}.get(author["role"], author["role"])
    return f"author     {author['peer_id']}  {role}{below}, {entries}{covered}{controls}{frozen}"


def _info(info: Any) -> dict[str, object]:
    return {
        "namespace": info.namespace,
        "title": info.title,
        "policy": info.policy,
        "owner": info.owner,
        "strangers": info.strangers,
        "stranger_entries": info.stranger_entries,
    }


async def _joined(parts: Any) -> str:
    return b"".join([part.json async for part in parts]).decode()

"""Serves what a node measures to Prometheus, over HTTP."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator

from lattica.errors import ConfigError

_PLACE = re.compile(r"(?:(?P<host>[^:\[\]]+|\[[0-9a-fA-F:.]+\]):)?(?P<port>\d{1,5})")


def parse_place(text: str) -> tuple[str, int]:
    """Host and port of ``PORT`` (on 127.0.0.1) or ``HOST:PORT``; raises `ConfigError`."""
    found = _PLACE.fullmatch(text)
    if found is None or int(found["port"]) > 65535:
        raise ConfigError(f"metrics cannot be served at {text!r}; give a port, or an address and a port: 0.0.0.0:9464")
    return (found["host"] or "127.0.0.1").strip("[]"), int(found["port"])


@contextlib.contextmanager
def serving_metrics(place: str | None) -> Iterator[str | None]:
    """Serve all metrics of the process while the block lasts; their URL. Nothing is served without a place.

    Whoever reaches it may read them: no peer, content or document is named in any, but services called by name are.

    Raises:
        ConfigError: It is no place, or cannot be listened on.
    """
    if place is None:
        yield None
        return
    from prometheus_client import start_http_server

    host, port = parse_place(place)
    try:
        server, thread = start_http_server(port, host)
    except OSError as error:
        raise ConfigError(
            f"metrics cannot be served at {place}: {error.strerror or error}; choose another port"
        ) from error
    name = f"[{host}]" if ":" in host else host
    try:
        yield f"http://{name}:{server.server_port}/metrics"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()

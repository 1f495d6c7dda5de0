"""gRPC settings of every server and channel of a node. What each costs or gains is in benchmarks/."""

from __future__ import annotations

MAX_MESSAGE = 64 << 20
"""Bytes of one gRPC message, both ways. Larger things are streamed."""
KEEPALIVE_S = 20
"""Seconds of silence after which an end asks whether the other is still there."""
KEEPALIVE_TIMEOUT_S = 10
"""Seconds that the other end has to answer that."""
HANDSHAKE_TIMEOUT_S = 10
"""Seconds for a TLS handshake, at the server."""
CONNECT_TIMEOUT_S = 30
"""Seconds for one of gRPC's attempts to connect: the gateway finds a path anew behind it, then TLS."""
MAX_NATIVE = 256
"""Connections of a node's native port at one time, of peers and of strangers in their TLS handshakes; further ones are
closed, and peers stay at the gateway, whose connections are not counted here."""
NATIVE_KEEPALIVE_TIMEOUT_S = 30
"""`KEEPALIVE_TIMEOUT_S` of a native server. gRPC makes it the TCP connection's user timeout as well, and pipes have
30 s: with less, calls on a path that is lost for a moment would be given up sooner than they are on a pipe."""
MAX_CONCURRENT_STREAMS = 1024
"""Calls that a peer may have under way on one connection; further ones wait at the caller."""
RECONNECT_MIN_S = 0.1
RECONNECT_MAX_S = 0.5
"""Bounds of gRPC's pause between attempts to connect: a peer that returns is reached within a second."""
DRAIN_S = 5.0
"""Seconds that calls have to end when a node stops."""

Options = list[tuple[str, int | str]]

MESSAGE_LIMITS: Options = [
    ("grpc.max_receive_message_length", MAX_MESSAGE),
    ("grpc.max_send_message_length", MAX_MESSAGE),
]

_COMMON: Options = [
    *MESSAGE_LIMITS,
    ("grpc.keepalive_time_ms", KEEPALIVE_S * 1000),
    ("grpc.keepalive_timeout_ms", KEEPALIVE_TIMEOUT_S * 1000),
    ("grpc.http2.max_pings_without_data", 0),
]

SERVER_OPTIONS: Options = [
    *_COMMON,
    ("grpc.so_reuseport", 0),
    ("grpc.server_handshake_timeout_ms", HANDSHAKE_TIMEOUT_S * 1000),
    ("grpc.max_concurrent_streams", MAX_CONCURRENT_STREAMS),
    ("grpc.http2.min_ping_interval_without_data_ms", KEEPALIVE_S * 500),
]

NATIVE_SERVER_OPTIONS: Options = [
    *(option for option in SERVER_OPTIONS if option[0] != "grpc.keepalive_timeout_ms"),
    ("grpc.keepalive_timeout_ms", NATIVE_KEEPALIVE_TIMEOUT_S * 1000),
    ("grpc.max_allowed_incoming_connections", MAX_NATIVE),
]


def channel_options(server_name: str) -> Options:
    """Options of a channel whose server's certificate names ``server_name``."""
    return [
        *_COMMON,
        ("grpc.ssl_target_name_override", server_name),
        ("grpc.default_authority", server_name),
        ("grpc.enable_http_proxy", 0),
        ("grpc.use_local_subchannel_pool", 1),
        ("grpc.initial_reconnect_backoff_ms", int(RECONNECT_MIN_S * 1000)),
        ("grpc.min_reconnect_backoff_ms", CONNECT_TIMEOUT_S * 1000),  # despite its name, how long an attempt may take
        ("grpc.max_reconnect_backoff_ms", int(RECONNECT_MAX_S * 1000)),
    ]

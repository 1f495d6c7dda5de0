"""A node's settings: defaults, a file, the environment, arguments; later ones win."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, ValidationError, field_validator
from pydantic_settings import BaseSettings, NoDecode, PydanticBaseSettingsSource, SettingsConfigDict
from pydantic_settings import TomlConfigSettingsSource as TomlSource

from lattica.errors import ConfigError

DEFAULT_PORT = 4737
"""TCP and UDP port of `lattica up`; not registered with anybody."""
DEFAULT_RELAY_RATE = 128 << 20
"""Bytes/s that a node relays for others; about a gigabit link's worth."""
DEFAULT_GC_THRESHOLD = 50_000
"""New objects between two looks for cyclic garbage; what some thousand calls under way are made of."""
CONFIG_FILE = "config.toml"


def default_home() -> Path:
    """Where a node keeps its key and its store unless told otherwise: ``$XDG_DATA_HOME/lattica``."""
    base = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share"
    return Path(base) / "lattica"


class NodeConfig(BaseSettings):
    """Settings of one node.

    Each may be given as an argument, as ``LATTICA_<NAME>`` in the environment (lists with commas; empty is not given),
    or in ``config.toml`` in the home directory.

    Attributes:
        home: Folder for the identity key and the block store; one running node each.
        host: IP address to listen on; ``0.0.0.0`` is every IPv4 interface, ``::`` both families.
        port: TCP port; 0 takes any free one.
        bootstrap: Multiaddrs of peers to join the network by, each ending in ``/p2p/<peer ID>``.
        announce: Multiaddrs at which this node can also be reached: a forwarded port, a DNS name.
        relays: Multiaddrs of relays to be reached through behind a NAT, each ending in ``/p2p/<peer ID>``; the
            bootstrap peers and relays that are met on the way serve as well.
        relay: Whether this node is a relay for others: ``auto`` is one unless it is behind a NAT or firewall itself.
        relay_rate: Bytes/s that it relays in all; 0 is without limit.
        stun_port: A second TCP port at which this node, while peers can dial it, tells those behind NATs how these
            choose ports; 0 takes any free one. Name one where a firewall has to let it in; without it less is punched.
        native_port: A TCP port at which peers that can dial this node call its gRPC server itself, which is faster: 0
            takes any free one, ``none`` has none. It need not be forwarded: who does not get through calls by
            ``port``. Where the node listens on every interface of IPv4, this port is open for IPv6 as well.
        require_bootstrap: Whether opening a node fails when no bootstrap peer answers; if not, it keeps trying.
        dht: ``server`` answers other peers' lookups, ``client`` only asks; ``auto`` is a server unless peers cannot
            dial it.
        reflection: Whether peers may ask, by gRPC's reflection, which services this node serves and what their
            messages are (`grpcurl` does). Whoever reaches the node may, so it is off unless asked for.
        gc_threshold: New objects after which Python looks for cyclic garbage while the node runs: at CPython's 700 a
            third of the processor's time for calls goes there. For the whole process, where it is only raised; 0 leaves
            it as it is.
        keep_freed_memory: Whether the C library should keep 64 MiB of freed memory for what is allocated next, not
            give it back: streams are faster by a third. For the whole process, and not undone when the node ends.
        replicate: Namespaces of documents that this node keeps up to date while it runs, whoever writes them; it looks
            for those that it does not have until somebody is there who has.
        dht_protocol: Protocol ID of the DHT to join; ``/ipfs/kad/1.0.0`` is the public one.
    """

    model_config = SettingsConfigDict(env_prefix="LATTICA_", env_ignore_empty=True, frozen=True, extra="forbid")

    home: Path = Field(default_factory=default_home)
    host: str = "0.0.0.0"
    port: int = Field(default=0, ge=0, le=65535)
    bootstrap: Annotated[tuple[str, ...], NoDecode] = ()
    announce: Annotated[tuple[str, ...], NoDecode] = ()
    relays: Annotated[tuple[str, ...], NoDecode] = ()
    relay: Literal["auto", "on", "off"] = "auto"
    relay_rate: int = Field(default=DEFAULT_RELAY_RATE, ge=0)
    stun_port: int = Field(default=0, ge=0, le=65535)
    native_port: Annotated[int, Field(ge=0, le=65535)] | None = 0
    require_bootstrap: bool = True
    dht: Literal["auto", "server", "client"] = "auto"
    reflection: bool = False
    gc_threshold: int = Field(default=DEFAULT_GC_THRESHOLD, ge=0)
    keep_freed_memory: bool = True
    replicate: Annotated[tuple[str, ...], NoDecode] = ()
    dht_protocol: str = Field(default="/lattica/kad/1.0.0", pattern=r"^/[!-~]{1,200}$")

    @field_validator("bootstrap", "announce", "relays", "replicate", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value

    @field_validator("native_port", mode="before")
    @classmethod
    def _none(cls, value: object) -> object:
        return None if value == "none" else value

    @field_validator("home")
    @classmethod
    def _absolute(cls, value: Path) -> Path:
        return _folder(value)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Arguments, then the environment, then the file of the home that those two say."""
        home = init_settings().get("home") or env_settings().get("home") or default_home()
        return (init_settings, env_settings, TomlSource(settings_cls, _folder(Path(str(home))) / CONFIG_FILE))

    @classmethod
    def load(cls, **arguments: Any) -> Self:
        """The settings with ``arguments`` (those that are not ``None``) on top.

        Raises:
            ConfigError: A value is not acceptable; one sentence that names it.
        """
        try:
            return cls(**{name: value for name, value in arguments.items() if value is not None})
        except ValidationError as error:
            first = error.errors()[0]
            name = ".".join(str(part) for part in first["loc"])
            reason = "there is no such setting" if first["type"] == "extra_forbidden" else first["msg"].lower()
            raise ConfigError(f"bad setting {name!r}: {reason} (it is {first['input']!r})") from error
        except (OSError, ValueError) as error:  # the file is unreadable, or not TOML
            raise ConfigError(f"cannot read {CONFIG_FILE} in the home folder: {error}") from error


def _folder(path: Path) -> Path:
    try:
        return path.expanduser().absolute()
    except RuntimeError as error:
        raise ConfigError(f"bad setting 'home': nobody's home folder is meant by {path}") from error

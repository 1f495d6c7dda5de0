"""Settings: arguments over environment over file over defaults, and one sentence for a bad one."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from lattica.config import CONFIG_FILE, NodeConfig, default_home
from lattica.errors import ConfigError


@pytest.fixture(autouse=True)
def _nothing_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("LATTICA_")]:
        monkeypatch.delenv(name)


def write(home: Path, text: str) -> None:
    (home / CONFIG_FILE).write_text(text)


def test_the_defaults_listen_on_any_free_port_of_every_interface(tmp_path: Path) -> None:
    config = NodeConfig.load(home=tmp_path)
    assert (config.host, config.port, config.bootstrap, config.dht) == ("0.0.0.0", 0, (), "auto")
    assert config.require_bootstrap


def test_the_home_is_in_the_users_data_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    assert default_home() == tmp_path / "lattica"
    assert NodeConfig.load().home == tmp_path / "lattica"


def test_each_source_wins_over_those_below_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    write(tmp_path, 'port = 1\nhost = "192.0.2.1"\ndht = "client"\n')
    monkeypatch.setenv("LATTICA_PORT", "2")
    monkeypatch.setenv("LATTICA_HOST", "192.0.2.2")
    config = NodeConfig.load(home=tmp_path, port=3)
    assert (config.port, config.host, config.dht) == (3, "192.0.2.2", "client")


def test_an_argument_that_is_none_is_not_given(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("LATTICA_PORT", "2")
    assert NodeConfig.load(home=tmp_path, port=None).port == 2


def test_an_argument_that_is_zero_is_given(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("LATTICA_PORT", "2")
    assert NodeConfig.load(home=tmp_path, port=0).port == 0


def test_an_empty_variable_is_not_given(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """An empty LATTICA_HOME would otherwise be the current folder."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    monkeypatch.setenv("LATTICA_HOME", "")
    monkeypatch.setenv("LATTICA_PORT", "")
    config = NodeConfig.load()
    assert (config.home, config.port) == (tmp_path / "lattica", 0)


def test_the_file_is_that_of_the_home_that_the_environment_says(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    write(tmp_path, "port = 7\n")
    monkeypatch.setenv("LATTICA_HOME", str(tmp_path))
    assert NodeConfig.load().port == 7


def test_the_homes_tilde_is_the_users_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "node").mkdir()
    write(tmp_path / "node", "port = 7\n")
    config = NodeConfig.load(home="~/node")
    assert (config.home, config.port) == (tmp_path / "node", 7)


@pytest.mark.parametrize(
    "text", ["/ip4/192.0.2.1/tcp/1,/ip4/192.0.2.2/tcp/2", " /ip4/192.0.2.1/tcp/1 , /ip4/192.0.2.2/tcp/2,"]
)
def test_lists_in_the_environment_are_separated_by_commas(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, text: str
) -> None:
    monkeypatch.setenv("LATTICA_BOOTSTRAP", text)
    assert NodeConfig.load(home=tmp_path).bootstrap == ("/ip4/192.0.2.1/tcp/1", "/ip4/192.0.2.2/tcp/2")


def test_lists_in_the_file_are_tomls(tmp_path: Path) -> None:
    write(tmp_path, 'announce = ["/ip4/192.0.2.1/tcp/1"]\n')
    assert NodeConfig.load(home=tmp_path).announce == ("/ip4/192.0.2.1/tcp/1",)


def test_settings_cannot_be_changed_later(tmp_path: Path) -> None:
    config = NodeConfig.load(home=tmp_path)
    with pytest.raises(ValueError, match="frozen"):
        config.port = 1


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"port": 65536}, "'port'"),
        ({"port": -1}, "'port'"),
        ({"port": "http"}, "'port'"),
        ({"dht": "both"}, "'dht'"),
        ({"dht_protocol": "kad"}, "'dht_protocol'"),
        ({"dht_protocol": "/kad/\u00e4"}, "'dht_protocol'"),
        ({"bootstrap": 5}, "'bootstrap'"),
        ({"home": 5}, "'home'"),
        ({"home": "~nobody-of-that-name/node"}, "'home'"),
        ({"prot": 1}, "'prot': there is no such setting"),
    ],
)
def test_a_bad_argument_is_one_sentence_that_names_it(tmp_path: Path, arguments: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said) as caught:
        NodeConfig.load(**{"home": tmp_path, **arguments})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b"port = 70000", "'port'"),
        (b"port =", CONFIG_FILE),
        (b"\xff\xfe", CONFIG_FILE),
        (b"bootstrap = [1]", "'bootstrap.0'"),
        (b"prot = 1", "'prot': there is no such setting"),
    ],
)
def test_a_bad_file_is_one_sentence_that_names_it(tmp_path: Path, text: bytes, said: str) -> None:
    (tmp_path / CONFIG_FILE).write_bytes(text)
    with pytest.raises(ConfigError, match=said) as caught:
        NodeConfig.load(home=tmp_path)
    assert "\n" not in str(caught.value)


def test_a_bad_variable_is_one_sentence_that_names_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("LATTICA_REQUIRE_BOOTSTRAP", "perhaps")
    with pytest.raises(ConfigError, match=r"'require_bootstrap'.*'perhaps'"):
        NodeConfig.load(home=tmp_path)

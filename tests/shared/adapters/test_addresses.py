"""All addresses of a name, and what is no answer."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import pytest

from penstock.adapters.addresses import addresses_of


def _resolves(monkeypatch: pytest.MonkeyPatch, result: Any) -> None:
    def getaddrinfo(*_: Any, **__: Any) -> Any:
        if isinstance(result, Exception):
            raise result
        return result

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)


def test_the_systems_own_answer() -> None:
    """A real name, by the real resolver."""
    assert "127.0.0.1" in asyncio.run(addresses_of("localhost"))


def test_each_address_once_and_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever order the resolver gives (it is told to shuffle them), the same is the same."""
    rows = [(socket.AF_INET, 1, 6, "", (host, 0)) for host in ("10.0.0.2", "10.0.0.1", "10.0.0.2")]
    _resolves(monkeypatch, [*rows, (socket.AF_INET6, 1, 6, "", ("fd00::1", 0, 0, 0))])
    assert asyncio.run(addresses_of("pods.test")) == ("10.0.0.1", "10.0.0.2", "fd00::1")


def test_no_address_is_an_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """A name that is unknown has no addresses."""
    _resolves(monkeypatch, socket.gaierror(socket.EAI_NONAME, "Name or service not known"))
    assert asyncio.run(addresses_of("pods.test")) == ()


@pytest.mark.parametrize(
    "failure",
    [
        pytest.param(socket.gaierror(socket.EAI_AGAIN, "Temporary failure"), id="nobody answers"),
        pytest.param(socket.gaierror(socket.EAI_FAIL, "Failure"), id="the server fails"),
        pytest.param(UnicodeError("label too long"), id="no host name"),
    ],
)
def test_a_failure_is_none(monkeypatch: pytest.MonkeyPatch, failure: Exception) -> None:
    """Who could not be asked has not said that nothing is there."""
    _resolves(monkeypatch, failure)
    with pytest.raises(OSError):
        asyncio.run(addresses_of("pods.test"))

"""The service listens on the same addresses with one worker and with two, and says in one line why it cannot."""

from __future__ import annotations

import errno
import re
import socket
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
import structlog
import uvicorn
from starlette.routing import Router
from structlog.testing import LogCapture
from uvicorn.config import STARTUP_FAILURE

from app.http import listeners, server
from app.http.listeners import CannotListen, bound
from support.service import free_port, serving

pytestmark = pytest.mark.requirement("NF-03", "SC-09")

V4, V6 = "127.0.0.1", "::1"


def is_here(address: str) -> bool:
    """Whether this machine has the address."""
    try:
        with bound(address, 0):
            return True
    except CannotListen:
        return False


MEANT = {
    V4: {V4},
    V6: {V6},
    "localhost": {address[0] for *_, address in socket.getaddrinfo("localhost", None)},
    "0.0.0.0": {V4},  # noqa: S104
    "::": {V4, V6},
}
"""Which addresses of loopback each HOST means."""

HERE = {address for address in (V4, V6) if is_here(address)}
ANSWERED = {host: addresses & HERE for host, addresses in MEANT.items() if addresses & HERE}


def reachable(port: int) -> set[str]:
    """The addresses at which somebody takes connections."""
    found = set()
    for family, address in ((socket.AF_INET, V4), (socket.AF_INET6, V6)):
        with socket.socket(family) as client:
            if client.connect_ex((address, port)) == 0:
                found.add(address)
    return found


def name(monkeypatch: pytest.MonkeyPatch, *addresses: str) -> str:
    """A name that has these addresses."""
    found = [socket.getaddrinfo(address, 0, type=socket.SOCK_STREAM)[0] for address in addresses]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
    return "both.example"


@pytest.mark.parametrize("workers", ["1", "2"])
@pytest.mark.parametrize(("host", "addresses"), ANSWERED.items(), ids=ANSWERED)
def test_listeners_and_those_of_the_metrics_do_not_depend_on_the_number_of_workers(
    tmp_path: Path, database_url: str, host: str, addresses: set[str], workers: str
) -> None:
    metrics_port = free_port()
    asked = "[::1]" if host == V6 else V4
    variables = {"HOST": host, "WORKERS": workers, "METRICS_PORT": str(metrics_port)}
    with serving(database_url, tmp_path / "log", asked, **variables) as service:
        port = httpx.URL(service.url).port
        assert port is not None
        assert (reachable(port), reachable(metrics_port)) == (addresses, addresses)
        assert httpx.get(f"http://{asked}:{metrics_port}/metrics").is_success
        listening = {
            (connection.laddr.port, connection.laddr.ip)
            for connection in psutil.Process(service.process.pid).net_connections("tcp")
            if connection.status == psutil.CONN_LISTEN
        }

    assert {port for port, _ in listening} == {port, metrics_port}
    assert {address for at, address in listening if at == port} == {
        address for at, address in listening if at == metrics_port
    }


@pytest.mark.parametrize(("host", "addresses"), ANSWERED.items(), ids=ANSWERED)
def test_nobody_is_let_in_before_somebody_listens(host: str, addresses: set[str]) -> None:
    with bound(host, 0) as sockets:
        port = sockets[0].getsockname()[1]
        before = reachable(port)
        for listener in sockets:
            listener.listen()

        assert (before, reachable(port)) == (set(), addresses)


def test_all_addresses_of_a_name_have_one_port(monkeypatch: pytest.MonkeyPatch) -> None:
    with bound(name(monkeypatch, V6, V4, V6), 0) as sockets:
        for listener in sockets:
            listener.listen()

        assert len(sockets) == len(HERE)
        assert reachable(sockets[0].getsockname()[1]) == HERE


def test_an_address_of_a_name_that_this_machine_has_not_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    with bound(name(monkeypatch, "2001:db8::1", V4), 0) as sockets:
        assert [listener.getsockname()[0] for listener in sockets] == [V4]


def test_one_address_that_is_taken_is_enough_to_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server((V4, 0)) as taken:
        port = taken.getsockname()[1]

        with (
            pytest.raises(CannotListen, match=f"port {port}: Address already in use"),
            bound(name(monkeypatch, V6, V4), port),
        ):
            pass


@pytest.mark.parametrize(
    ("host", "reason"),
    [
        pytest.param("does-not-exist.invalid", "Name or service not known|failure in name resolution", id="no-host"),
        pytest.param("192.0.2.1", "this machine does not have the address", id="another-machine"),
        pytest.param("2001:db8::1", "this machine does not have the address", id="another-machine-v6"),
        pytest.param("[::]", "Name or service not known", id="brackets"),
        pytest.param("a..b", "label empty", id="no-name"),
        pytest.param("x" * 64, "label too long", id="a-long-name"),
    ],
)
def test_a_host_that_cannot_be_listened_on_is_told_in_one_line(host: str, reason: str) -> None:
    with pytest.raises(CannotListen) as raised, bound(host, 8000):
        pass

    assert re.fullmatch(rf"cannot listen on {re.escape(host)}, port 8000: .*({reason}).*", str(raised.value))


def test_a_machine_without_ipv6_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def without_ipv6(family: int, *_: Any) -> None:
        assert family == socket.AF_INET6
        raise OSError(errno.EAFNOSUPPORT, "Address family not supported by protocol")

    monkeypatch.setattr(listeners.socket, "socket", without_ipv6)

    with (
        pytest.raises(CannotListen, match="cannot listen on ::, port 8000: this machine has no IPv6"),
        bound("::", 8000),
    ):
        pass


def test_a_port_that_another_program_takes_in_the_meantime_ends_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sockets of two programs can be bound to one port, as long as neither listens."""
    log = LogCapture()
    monkeypatch.setattr(server, "logger", structlog.wrap_logger(None, processors=[log]))
    config = uvicorn.Config(Router(), loop="uvloop", lifespan="off", log_config=None)
    with bound(V4, 0) as sockets, socket.socket() as faster:
        faster.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        faster.bind(sockets[0].getsockname())
        faster.listen()

        with pytest.raises(SystemExit) as ended:
            server.run(server.Server(config), sockets)

    assert ended.value.code == STARTUP_FAILURE
    assert [line["event"] for line in log.entries] == ["cannot_listen"]

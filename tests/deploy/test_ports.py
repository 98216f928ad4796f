from __future__ import annotations

import socket

import pytest

from ray_pipeline.deploy import ports
from ray_pipeline.errors import UsageError


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_PIPELINE_PORTS", raising=False)
    monkeypatch.setattr(ports, "_given", set())


def test_free_ports_are_outside_those_of_outgoing_connections() -> None:
    found = ports.free_ports(50)
    assert len(set(found)) == 50
    assert all(20_000 <= port < 30_000 for port in found)


def test_none_is_given_twice_while_there_are_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_PIPELINE_PORTS", "20000-20099")
    given = [port for _ in range(10) for port in ports.free_ports(5)]
    assert len(set(given)) == 50
    assert all(20_000 <= port < 20_100 for port in given)
    assert len(ports.free_ports(60)) == 60


@pytest.mark.parametrize(
    "told", ["", "21000", "21000-", "21000-20000", "0-9", "70000-70001", "a-b"]
)
def test_a_range_that_is_none_is_said(monkeypatch: pytest.MonkeyPatch, told: str) -> None:
    monkeypatch.setenv("RAY_PIPELINE_PORTS", told)
    with pytest.raises(UsageError, match="is not a range of ports"):
        ports.free_ports(1)


def test_a_block_is_one_that_nobody_listens_in() -> None:
    within = range(31_501, 31_601)
    with socket.socket() as listener:
        # As Ray's servers for gRPC do, which let others listen beside them.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        listener.bind(("127.0.0.1", 31_510))
        listener.listen()
        assert {ports.free_block(50, within) for _ in range(9)} == {range(31_551, 31_601)}
        with pytest.raises(OSError, match="no 100 in a row are free"):
            ports.free_block(100, within)


def test_a_port_that_somebody_listens_on_is_not_free(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        taken = listener.getsockname()[1]
        monkeypatch.setenv("RAY_PIPELINE_PORTS", f"{taken}-{taken}")
        with pytest.raises(OSError, match=f"of the ports {taken} to {taken}, 0 are free, not 1"):
            ports.free_ports(1)

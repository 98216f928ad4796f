from __future__ import annotations

import socket

import pytest

from ray_pipeline.deploy import ports


def test_free_ports_are_outside_those_of_outgoing_connections() -> None:
    found = ports.free_ports(50)
    assert len(set(found)) == 50
    assert all(20_000 <= port < 30_000 for port in found)


def test_a_port_that_somebody_listens_on_is_not_free(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        taken = listener.getsockname()[1]
        monkeypatch.setattr(ports, "_OWN", range(taken, taken + 1))
        with pytest.raises(OSError, match=f"of the ports {taken} to {taken}, 0 are free, not 1"):
            ports.free_ports(1)

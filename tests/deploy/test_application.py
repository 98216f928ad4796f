"""What becomes of an endpoint on a machine so slow that Ray Serve gives up waiting for its own."""

from __future__ import annotations

import logging

import pytest
from ray import serve

from ray_pipeline.deploy import application
from ray_pipeline.deploy.ports import free_ports
from ray_pipeline.errors import ClusterError
from ray_pipeline.job import Serve


@pytest.fixture
def settings(monkeypatch: pytest.MonkeyPatch) -> Serve:
    """Those of a cluster without Serve."""
    monkeypatch.setattr(application, "serve_port", lambda: None)
    return Serve(port=free_ports(1)[0])


def failing(error: Exception):
    def start(**settings: object) -> None:
        raise error

    return start


def test_proxies_that_are_late_are_waited_for(settings, monkeypatch, caplog):
    late = TimeoutError("HTTP proxies not available after 60s.")
    monkeypatch.setattr(serve, "start", failing(late))
    with caplog.at_level(logging.WARNING):
        application.start(settings)
    assert caplog.messages == [f"{late} The endpoint's first answer is waited for."]


def test_a_proxy_that_cannot_start_is_said_to_be_why(settings, monkeypatch):
    from ray.exceptions import RayTaskError

    taken = RuntimeError(f"Failed to bind to address '127.0.0.1:{settings.port}'.")
    told = RayTaskError("ready", f"Traceback\nRuntimeError: {taken}", taken)
    monkeypatch.setattr(serve, "start", failing(told.as_instanceof_cause()))
    with pytest.raises(ClusterError, match="Failed to bind to address") as raised:
        application.start(settings)
    assert str(settings.port) in raised.value.expected

"""Many bundles in one process, of which few are loaded."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
import weakref

import httpx
import pytest

from ray_pipeline.deploy.asgi import json_response
from ray_pipeline.deploy.auth import Gate
from ray_pipeline.deploy.counters import Counters
from ray_pipeline.deploy.example import example_row
from ray_pipeline.deploy.keyring import described
from ray_pipeline.deploy.many import Kept, Loaded, Many
from ray_pipeline.deploy.pages import pages
from ray_pipeline.deploy.replica import endpoint
from ray_pipeline.errors import BundleError
from ray_pipeline.job import Serve

KEY = "rp_test"
NAMES = ("a", "b", "c")


class Server:
    """Three endpoints, of which two may be loaded, and a client of them."""

    def __init__(self, bundle):
        self.bundle, self.row = bundle, example_row(bundle)
        self.loads, self.made, self.wait = [], [], {}
        self.counters = {name: Counters() for name in NAMES}
        gates = {name: Gate(name, [described("own", KEY, rate=100, burst=1)]) for name in NAMES}
        self.kept = {name: Kept(gates[name], pages(name, bundle, Serve())) for name in NAMES}
        self.loaded = Loaded(self.load, 2)
        self.app = Many(self.kept, self.loaded, self.other, lambda: None, lambda: None)

    def load(self, name):
        self.loads.append(name)
        if name in self.wait:
            assert self.wait[name].wait(timeout=30)
        kept = self.kept[name]
        parts = {"gate": kept.gate, "counters": self.counters[name], "made": dict(kept.pages)}
        found = endpoint(name, str(self.bundle.path), Serve(), **parts)
        self.made.append(weakref.ref(found))
        return found

    def kept_in_memory(self):
        """Of each endpoint that was loaded, whether it still is."""
        gc.collect()
        return [made() is not None for made in self.made]

    async def other(self, scope, receive, send):
        await json_response({"other": scope["path"]}).send(send)

    async def ask(self, name, method="POST", path="predict", key=KEY):
        transport = httpx.ASGITransport(self.app)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            headers, body = {"X-API-Key": key} if key else {}, {"rows": [self.row]}
            return await client.request(method, f"/{name}/{path}", headers=headers, json=body)


@pytest.fixture
def server(classifier):
    return Server(classifier.bundle)


def test_the_one_asked_longest_ago_makes_room(server):
    async def ask():
        for name in ("a", "b", "a", "c", "a", "b"):
            assert (await server.ask(name)).status_code == 200
            await asyncio.sleep(0.02)  # the key's rate
        return server.loaded.names

    assert asyncio.run(ask()) == ["a", "b"]
    assert server.loads == ["a", "b", "c", "b"]
    until = time.monotonic() + 30
    while (kept := server.kept_in_memory()) != [True, False, False, True]:
        assert time.monotonic() < until, kept  # a thread that answered may hold it for a moment
        time.sleep(0.01)
    counts = [server.counters[name].taken()["requests"] for name in NAMES]
    assert counts == [{200: 3}, {200: 2}, {200: 1}]


def test_others_are_answered_while_one_is_loaded(server):
    server.wait["b"] = threading.Event()

    async def ask():
        await server.ask("a")
        await asyncio.sleep(0.02)
        cold = [asyncio.create_task(server.ask("b", path="health", method="GET")) for _ in "123"]
        while "b" not in server.loads:
            await asyncio.sleep(0)
        assert (await server.ask("a")).status_code == 200
        assert not any(task.done() for task in cold)
        cold[0].cancel()
        server.wait["b"].set()
        return await asyncio.gather(*cold[1:])

    assert [answer.status_code for answer in asyncio.run(ask())] == [200, 200]
    assert server.loads == ["a", "b"]


@pytest.mark.parametrize(("key", "status"), [(None, 401), ("rp_wrong", 403)])
def test_who_may_not_call_has_nothing_loaded(server, key, status):
    answer = asyncio.run(server.ask("a", key=key))
    assert answer.status_code == status
    assert server.loads == []
    graphql = asyncio.run(server.ask("a", path="graphql", key=key))
    assert "errors" in graphql.json()


def test_pages_need_no_model(server):
    for path in ("", "docs", "openapi.json"):
        assert asyncio.run(server.ask("c", "GET", path, key=None)).status_code == 200
    assert server.loads == []


def test_what_is_below_no_name_is_answered_by_another(server):
    assert asyncio.run(server.ask("nobody")).json() == {"other": "/nobody/predict"}


def test_a_bundle_that_cannot_be_loaded_harms_no_other(server, caplog):
    load = server.load

    def broken(name):
        if name == "b":
            raise BundleError("altered", where="secret/path")
        return load(name)

    server.loaded._load = broken

    async def ask():
        found = [await server.ask(name) for name in ("a", "b", "c")]
        return [answer.status_code for answer in found], found[1].text

    with caplog.at_level("ERROR"):
        statuses, told = asyncio.run(ask())
    assert statuses == [200, 500, 200]
    assert "secret" not in told

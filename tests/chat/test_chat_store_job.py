"""A chatbot's job whose index is on a PostgreSQL, from its documents to answers on Ray Serve, also
while the server is gone."""

from __future__ import annotations

import tempfile
from pathlib import Path

import httpx
import pytest
import servers

JOB = """
name: cellar
storage: storage
data: {source: pages}
chat:
  encoder: base
  store: {url: "postgresql://postgres:${INDEX_PASSWORD}@127.0.0.1:STORE/postgres"}
  judge: {confidence: 0.0, answers: 0}
evaluate: {bootstrap: 0}
serve: {port: PORT, cpus: 0.2, replicas: {min: 1, max: 1}}
"""
PAGES = {"tea.md": "# Kitchen\n\n## How is tea made?\n\nTea was good with milk.\n"}
PATHS = ("/v1/chat/completions", "/cellar/v1/chat/completions")


@pytest.fixture(scope="module")
def server():
    with tempfile.TemporaryDirectory() as folder, servers.postgres(Path(folder)) as server:
        yield server
        server.interrupt()


@pytest.fixture(scope="module")
def ran(server, site, tmp_path_factory):
    job = JOB.replace("STORE", str(server.port))
    folder = site.chat_job(tmp_path_factory.mktemp("cellar"), job, PAGES)
    yield site.printed("run", "chat.yaml", "--json", folder=folder)
    site.command(folder, "remove", "cellar")


def asked(site, path, **more):
    body = {"model": "cellar", "messages": [{"role": "user", "content": "How is tea made?"}]}
    headers = {"X-API-Key": site.key}
    return httpx.post(f"{site.url}{path}", json=body | more, headers=headers, timeout=60)


def test_it_answers_but_while_the_server_is_gone(ran, server, site):
    def all_answered():
        return all("Tea was good with milk. [1]" in asked(site, path).text for path in PATHS)

    assert all_answered()
    server.interrupt()
    try:
        for path in PATHS:
            refused = asked(site, path)
            assert refused.status_code == 503
            assert refused.json()["error"]["code"] == "unavailable"
            streamed = asked(site, path, stream=True)
            assert streamed.status_code == 200  # it had begun
            assert '"unavailable"' in streamed.text
            for told in (refused.text, streamed.text):
                assert not {servers.PASSWORD, str(server.port)} & set(told.split())
                assert "127.0.0.1" not in told
    finally:
        server.start()
    assert all_answered()

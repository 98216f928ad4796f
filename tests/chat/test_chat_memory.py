"""Conversations: whose they are, how long they are remembered, and that they can be erased."""

from __future__ import annotations

import asyncio
import sys
import time
from pathlib import Path

import httpx
import pytest
from pydantic import ValidationError
from upath import UPath

sys.path.insert(0, str(Path(__file__).parents[1] / "deploy"))

import http_servers

from ray_pipeline import cli
from ray_pipeline.chat.answer import Piece, Sentence
from ray_pipeline.chat.app import ChatEndpoint
from ray_pipeline.chat.memory import Memory
from ray_pipeline.chat.protocol import Completion
from ray_pipeline.deploy import log_files
from ray_pipeline.deploy.auth import Gate
from ray_pipeline.deploy.counters import Counters
from ray_pipeline.deploy.keyring import described
from ray_pipeline.errors import RequestError
from ray_pipeline.job import Job, Serve

CALLER = "key own"


class Repeating:
    """Says what it was asked, and what before."""

    def pieces(self, question, groups, before, gone):
        yield Piece(sentence=Sentence(" | ".join([*before, question]), None), by="reply")

    def completion(self, name):
        return Completion(name, "1", "", len)

    def groups_of(self, caller):
        return frozenset({"public"})


@pytest.fixture
def memory(tmp_path):
    return Memory(UPath(tmp_path / "log"), 30, ["EMAIL"])


@pytest.fixture
def url(memory):
    keys = [described("own", http_servers.KEY), described("anna", "rp_anna")]
    app = ChatEndpoint(
        "kitchen", Repeating(), Serve(), gate=Gate("kitchen", keys), pages={}, counters=Counters(),
        memory=memory,
    )  # fmt: skip
    with http_servers.running(app) as port:
        yield f"http://127.0.0.1:{port}/kitchen"


def asked(url, question, key=http_servers.KEY, **more):
    body = {"messages": [{"role": "user", "content": question}], **more}
    path, headers = f"{url}/v1/chat/completions", {"X-API-Key": key}
    return httpx.post(path, json=body, headers=headers, timeout=60)


def erased(url, identity, key=http_servers.KEY):
    return httpx.delete(f"{url}/conversations/{identity}", headers={"X-API-Key": key})


def text(answer):
    return answer.json()["choices"][0]["message"]["content"]


def stored(tmp_path):
    return [path.read_text() for path in sorted(tmp_path.rglob("*.json"), key=lambda p: p.name)]


def test_what_was_asked_before_is_read_with_a_question(url, tmp_path):
    begun = asked(url, "Is a@example.org tea?", conversation="new").json()
    identity = begun["conversation"]
    assert text(asked(url, "And milk?", conversation=identity)) == "Is <EMAIL> tea? | And milk?"
    streamed = asked(url, "Why?", conversation=identity, stream=True).text
    assert "Is <EMAIL> tea? | And milk? | Why?" in streamed
    assert streamed.count(identity) > 1
    asked(url, "When?", conversation=identity)
    assert stored(tmp_path) == [
        '{"question": "And milk?"}', '{"question": "Why?"}', '{"question": "When?"}',
    ]  # fmt: skip
    own = [{"role": "user", "content": "Own?"}, {"role": "user", "content": "So?"}]
    assert text(asked(url, "", conversation=identity, messages=own)) == "Own? | So?"


def test_nothing_is_kept_of_who_asks_for_nothing(url, tmp_path):
    assert "conversation" not in asked(url, "Is tea good?").json()
    assert stored(tmp_path) == []


def test_a_conversation_is_its_keys_alone(url, tmp_path):
    one, two = (asked(url, "Tea?", conversation="new").json()["conversation"] for _ in range(2))
    assert one != two
    assert not any(one in str(path) for path in tmp_path.rglob("*"))
    for answer in (
        asked(url, "Milk?", "rp_anna", conversation=one),
        asked(url, "Milk?", conversation="conv_chosen"),
        asked(url, "Milk?", conversation="../" + one),
        erased(url, one, "rp_anna"),
        erased(url, "conv_chosen"),
    ):
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, "no_conversation")
    assert erased(url, one, "rp_wrong").status_code == 403
    assert asked(url, "Milk?", conversation=1).status_code == 422
    assert text(asked(url, "Milk?", conversation=one)) == "Tea? | Milk?"


def test_what_is_erased_is_gone_at_once(url, tmp_path):
    one, other = (asked(url, "Tea?", conversation="new").json()["conversation"] for _ in range(2))
    assert erased(url, one).json() == {"id": one, "deleted": True}
    assert len(stored(tmp_path)) == 1
    assert asked(url, "Milk?", conversation=one).status_code == 404
    assert erased(url, one).status_code == 404
    assert asked(url, "Milk?", conversation=other).status_code == 200
    key = {"X-API-Key": http_servers.KEY}
    assert httpx.get(f"{url}/conversations/{other}", headers=key).status_code == 405


def test_what_is_too_old_is_neither_read_nor_kept(memory, tmp_path, monkeypatch):
    identity, _ = memory.taken_up(CALLER, "new", "Tea?")
    now = time.time_ns()
    monkeypatch.setattr(time, "time_ns", lambda: now + 20 * 86_400 * 10**9)
    assert memory.taken_up(CALLER, identity, "Milk?")[1] == ["Tea?"]
    monkeypatch.setattr(time, "time_ns", lambda: now + 31 * 86_400 * 10**9)
    assert memory.taken_up(CALLER, identity, "Why?")[1] == ["Milk?"]

    async def swept():
        sweeping = asyncio.create_task(memory.sweeping())
        while len(stored(tmp_path)) > 2:
            await asyncio.sleep(0.01)
        sweeping.cancel()

    asyncio.run(asyncio.wait_for(swept(), 20))
    assert stored(tmp_path) == ['{"question": "Milk?"}', '{"question": "Why?"}']
    monkeypatch.setattr(time, "time_ns", lambda: now + 90 * 86_400 * 10**9)
    with pytest.raises(RequestError, match="no such conversation"):
        memory.taken_up(CALLER, identity, "When?")


def test_the_command_that_expires_knows_them(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    job = "name: kitchen\ndata: {source: pages}\nchat: {encoder: base, memory: {days: 1}}\n"
    (tmp_path / "chat.yaml").write_text(job)
    log = log_files.folder(UPath("storage/kitchen/bundles/1"), "kitchen")
    Memory(log, 1).taken_up(CALLER, "new", "Tea?")
    now = time.time_ns()
    monkeypatch.setattr(time, "time_ns", lambda: now + 2 * 86_400 * 10**9)
    assert cli.main(["expire", "chat.yaml", "--json"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == '{"questions": 1}'
    assert stored(tmp_path) == []
    assert cli.main(["expire", "chat.yaml", "--set", "chat.memory=null"]) == 2
    assert "remembers no conversations" in capsys.readouterr().err


def test_conversations_of_everybody_are_refused():
    told = {"name": "kitchen", "data": {"source": "pages"}, "serve": {"auth": "none"}}
    with pytest.raises(ValidationError, match="conversations belong to a key"):
        Job.model_validate({**told, "chat": {"encoder": "base", "memory": {}}})

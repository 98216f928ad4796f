"""A chatbot whose encoder and language model have replicas of their own, on Ray Serve."""

from __future__ import annotations

import asyncio
import signal
import threading
import time
from contextlib import contextmanager
from dataclasses import replace
from types import SimpleNamespace

import httpx
import numpy as np
import openai
import pytest
import tiny_gguf
from pydantic import ValidationError

from ray_pipeline import bundle
from ray_pipeline.chat import far
from ray_pipeline.chat.answer import timely
from ray_pipeline.chat.bot import Bot
from ray_pipeline.chat.coming import Coming
from ray_pipeline.chat.far import FarEncoder
from ray_pipeline.chat.generators import Prompt
from ray_pipeline.chat.parts import EncoderReplica
from ray_pipeline.deploy import parts
from ray_pipeline.errors import JobError
from ray_pipeline.job import Apart, Job, Part

JOB = """
name: pantry
storage: storage
data: {source: pages}
chat:
  encoder: base
  generate: {by: llama, model: tiny.gguf}
  judge: {confidence: 0.0, answers: 0}
evaluate: {bootstrap: 0}
serve:
  port: PORT
  replicas: {min: 1, max: 1}
  apart: {encoder: {replicas: {max: 1}}, generator: {replicas: {max: 1}}}
"""
SENTENCE = "Tea was good with milk."
PAGES = {
    "tea.md": f"# Kitchen\n\n## How is tea made?\n\n{SENTENCE} The food was bad.\n",
    "food.md": "# Food\n\n## Was the taste bad?\n\nThe taste was good.\n",
}
QUESTION = "How is tea made?"


@pytest.fixture(scope="module")
def folder(tmp_path_factory, site):
    made = tmp_path_factory.mktemp("pantry")
    tiny_gguf.saved(made / "tiny.gguf", SENTENCE)
    return site.chat_job(made, JOB, PAGES)


@pytest.fixture(scope="module")
def ran(folder, site):
    return site.printed("run", "chat.yaml", "--json", folder=folder)


@pytest.fixture(scope="module")
def client(ran, site):
    return openai.OpenAI(base_url=f"{site.url}/pantry/v1", api_key=site.key, max_retries=0)


def asked(client, question, **more):
    messages = [{"role": "user", "content": question}]
    return client.chat.completions.create(model="pantry", messages=messages, **more)


def replicas(site, part):
    return site.replicas("pantry", part)


@contextmanager
def questions(client):
    """New ones are asked all the time, by three; what became of each."""
    told, ended = [], threading.Event()

    def ask(who):
        while not ended.is_set():
            answer = asked(client, f"{QUESTION} {who} {len(told)}", timeout=60)
            told.append(answer.answered_by)

    asking = [threading.Thread(target=_kept, args=(ask, who, told)) for who in range(3)]
    for thread in asking:
        thread.start()
    yield told
    ended.set()
    for thread in asking:
        thread.join()


def _kept(ask, who, told):
    try:
        ask(who)
    except Exception as error:  # noqa: BLE001 - a test looks at it
        told.append(error)


def waited(met):
    until = time.monotonic() + 60
    while not met():
        assert time.monotonic() < until
        time.sleep(0.2)


def test_answers_are_those_of_one_replica(client, ran, site):
    assert len(replicas(site, "encoder")) == len(replicas(site, "generator")) == 1
    answer = asked(client, QUESTION)
    alone = Bot(bundle.opened(ran["bundle"])).answered(QUESTION)
    assert answer.choices[0].message.content == f"{SENTENCE} [1]"
    assert answer.choices[0].message.content == alone["choices"][0]["message"]["content"]
    assert answer.answered_by == alone["answered_by"] == "llama"
    assert answer.sources == alone["sources"]
    chunks = asked(client, QUESTION, stream=True)
    assert "".join(c.choices[0].delta.content or "" for c in chunks) == f"{SENTENCE} [1]"
    assert httpx.get(f"{site.url}/v2/models/pantry/ready").json() == {"ready": True}


@pytest.mark.parametrize("part", ["encoder", "generator"])
def test_a_part_that_dies_costs_no_answer(client, site, part):
    (killed,) = replicas(site, part)
    with questions(client) as told:
        waited(lambda: len(told) > 5)
        killed.send_signal(signal.SIGKILL)
        before = len(told)
        waited(lambda: len(told) > before + 10 and replicas(site, part))
    assert set(told) <= {"llama", "extractive"}
    waited(lambda: asked(client, QUESTION).answered_by == "llama")


def test_parts_are_released_put_back_and_taken_down(client, folder, ran, site):
    with questions(client) as told:
        waited(lambda: len(told) > 3)
        site.command(folder, "run", "chat.yaml", "--set", "serve.apart=null")
        waited(lambda: not replicas(site, "encoder") + replicas(site, "generator"))
        site.command(folder, "rollback", "pantry")
        assert len(replicas(site, "encoder")) == len(replicas(site, "generator")) == 1
    assert set(told) <= {"llama", "extractive"}
    assert asked(client, QUESTION).answered_by == "llama"
    site.command(folder, "remove", "pantry")
    waited(lambda: not replicas(site, ""))


def refused(job, **serve):
    with pytest.raises(ValidationError) as error:
        Job.model_validate({**job, "name": "pantry", "serve": serve})
    return str(error.value)


def test_parts_that_there_are_not_are_refused(ran):
    chat = {"data": {"source": "pages"}, "chat": {"encoder": "base"}}
    assert "`extractive` has no model of its own" in refused(chat, apart={"generator": {}})
    assert "name `encoder`, `generator` or both" in refused(chat, apart={})
    rows = {"data": {"source": "a.csv", "label": "b"}}
    assert "`serve.apart` is for a `chat`" in refused(rows, apart={"encoder": {}})
    opened = bundle.opened(ran["bundle"])
    less = {name: digest for name, digest in opened.manifest.files.items() if "gguf" not in name}
    quoting = replace(opened, manifest=replace(opened.manifest, files=less))
    parts.check(Apart(encoder=Part()), quoting)
    with pytest.raises(JobError, match=r"serve\.apart\.generator: the bundle has no generator"):
        parts.check(Apart(generator=Part()), quoting)


class Handle:
    """Of Ray Serve, to a part that is here."""

    def __init__(self, embed=None, write=None):
        self.embed, self.write = SimpleNamespace(remote=embed), SimpleNamespace(remote=write)

    def options(self, stream):
        return self


async def in_thread(made, *given):
    return await asyncio.to_thread(made, *given)


def here(texts):
    return np.zeros((len(texts), 2))


def test_an_encoder_that_fails_is_asked_again_and_then_done_without(monkeypatch):
    monkeypatch.setattr(far, "_WITHIN_S", 0.1)
    calls = []

    async def once(digest, texts):
        calls.append(texts)
        if len(calls) == 1:
            raise ConnectionError("it died")
        return np.ones((len(texts), 2))

    async def never(digest, texts):
        calls.append(texts)
        await asyncio.Event().wait()

    async def another(digest, texts):
        calls.append(texts)

    async def vectors(embed, count=1):
        calls.clear()
        encoder = FarEncoder(Handle(embed), "digest", lambda: here)
        return [(await in_thread(encoder, ["a"])).tolist() for _ in range(count)]

    assert asyncio.run(vectors(once)) == [[[1, 1]]]
    assert len(calls) == 2
    assert asyncio.run(vectors(another)) == [[[0, 0]]]
    assert asyncio.run(vectors(never, 2)) == [[[0, 0]]] * 2
    assert len(calls) == 1  # it rests


def test_texts_of_several_are_encoded_together(monkeypatch):
    runs, config = [], SimpleNamespace(max_ongoing_requests=64)
    context = SimpleNamespace(_deployment_config=config)
    monkeypatch.setattr("ray.serve.get_replica_context", lambda: context)

    def embed(texts):
        runs.append(len(texts))
        return np.array([[len(text)] for text in texts])

    async def all_of(*asked):
        return await asyncio.gather(*(encoder.embed("digest", texts) for texts in asked))

    encoder = object.__new__(EncoderReplica)
    encoder._digest, encoder._embed = "digest", embed
    made = asyncio.run(all_of(["a", "bb"], ["ccc"], ["d"] * 100))
    assert [vectors[:, 0].tolist() for vectors in made] == [[1, 2], [3], [1] * 100]
    assert sorted(runs) == [3, 36, 64]
    assert asyncio.run(encoder.embed("another", ["a"])) is None


def test_who_goes_away_ends_the_writing():
    cancelled, gone = threading.Event(), threading.Event()

    class Written:
        def __aiter__(self):
            return self

        async def __anext__(self):
            await asyncio.Event().wait()

        def cancel(self):
            cancelled.set()

    def read(writer):
        return list(timely(writer(Prompt("", [], [])), 60, 60, gone.is_set))

    async def answered():
        writer = far.generator(Handle(write=lambda messages: Written()))
        asyncio.get_running_loop().call_later(0.2, gone.set)
        return await asyncio.wait_for(in_thread(read, writer), 20)

    assert asyncio.run(answered()) == []
    assert cancelled.is_set()


def test_the_end_of_what_comes_stays_the_end():
    closed = []
    coming = Coming(closed=lambda: closed.append(1))
    coming.put("a")
    coming.end(ConnectionError("it died"))
    assert next(coming) == "a"
    with pytest.raises(ConnectionError):
        next(coming)
    assert list(coming) == []
    coming.close()
    coming.close()
    assert closed == [1]

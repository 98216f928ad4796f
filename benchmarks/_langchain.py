"""What one would write by hand with LangChain and FastAPI: passages in memory, found by meaning,
put into a prompt, and an answer that is streamed as OpenAI's protocol has it.

Its parts are those of a chatbot's bundle: the encoder's graph, the passages, the language model's
file, the prompt and the budgets.
"""

from __future__ import annotations

import hmac
import json
import queue
import threading
from collections.abc import Callable, Iterator
from typing import Annotated, Any

import numpy as np
import xllamacpp
from fastapi import FastAPI, Header, HTTPException
from fastapi.responses import StreamingResponse
from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings
from langchain_core.runnables import (
    Runnable,
    RunnableGenerator,
    RunnableParallel,
    RunnablePassthrough,
)
from langchain_core.vectorstores import InMemoryVectorStore
from pydantic import BaseModel
from upath import UPath

from ray_pipeline.bundle import Bundle, opened
from ray_pipeline.chat import answer, stores
from ray_pipeline.chat import opened as parts_of
from ray_pipeline.chat.chunks import Passage
from ray_pipeline.chat.generators import Parts, Prompt
from ray_pipeline.chat.retriever import fitting
from ray_pipeline.chat.search import Hit
from ray_pipeline.chat.words import sentences as parted

QUOTED = 3
"""Sentences of an answer that is quoted."""


class Encoder(Embeddings):
    """The bundle's encoder in ONNX Runtime, one thread for a run."""

    def __init__(self, bundle: Bundle) -> None:
        self.embed = parts_of.embedding(bundle)

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        vectors: list[list[float]] = self.embed(texts).tolist()
        return vectors

    def embed_query(self, text: str) -> list[float]:
        return self.embed_documents([text])[0]


def chain(bundle: Bundle) -> Runnable[str, Any]:
    """From a question to its answer's pieces."""
    settings = parts_of.chat_of(parts_of.settings_of(bundle))
    encoder, passages = Encoder(bundle), stores.opened(UPath(bundle.path)).everything()
    store = InMemoryVectorStore(encoder)
    store.add_documents([Document(one.searched, metadata=one._asdict()) for one in passages])
    retriever = store.as_retriever(search_kwargs={"k": settings.retrieve.passages})
    parts = Parts(settings.generate, encoder.embed, parts_of.model(bundle))
    write = quoting(parts) if settings.generate.by == "extractive" else llama(parts)

    def prompted(told: dict[str, Any]) -> Prompt:
        every = [Hit(Passage(**document.metadata), 0) for document in told["documents"]]
        hits = fitting(every, settings.retrieve)
        return Prompt(told["question"], hits, answer.messages(told["question"], hits))

    def written(prompts: Iterator[Prompt]) -> Iterator[str]:
        for prompt in prompts:
            yield from write(prompt)

    asked = RunnableParallel(documents=retriever, question=RunnablePassthrough())
    return asked | prompted | RunnableGenerator(written)


def quoting(parts: Parts) -> Callable[[Prompt], Iterator[str]]:
    """The sentences that are nearest to the question, in their passages' order."""

    def write(prompt: Prompt) -> Iterator[str]:
        found = [each for hit in prompt.hits for each in parted(hit.passage.text)]
        vectors = parts.embed([prompt.question, *found])
        for place in sorted(np.argsort(-(vectors[1:] @ vectors[0]))[:QUOTED]):
            yield found[place] + "\n\n"

    return write


def llama(parts: Parts) -> Callable[[Prompt], Iterator[str]]:
    """llama.cpp in this process, with the settings that replicas have; one answer at a time."""
    settings = xllamacpp.CommonParams()
    settings.model.path = str(parts.model)
    settings.n_ctx, settings.n_parallel, settings.n_gpu_layers = 4096, 1, 0
    settings.cpuparams.n_threads = settings.cpuparams_batch.n_threads = 1
    settings.verbosity, settings.cache_ram_mib = 0, 0
    server, free = xllamacpp.Server(settings), threading.Lock()

    def write(prompt: Prompt) -> Iterator[str]:
        came: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        budget = {"max_tokens": parts.settings.tokens, "temperature": 0, "stream": True}

        def took(piece: Any) -> None:
            for choice in (json.loads(piece) if isinstance(piece, str) else piece)["choices"]:
                came.put(choice["delta"].get("content") or "")

        def run() -> None:
            with free:
                server.handle_chat_completions({"messages": prompt.messages, **budget}, took)
            came.put(None)

        threading.Thread(target=run, daemon=True).start()
        yield from iter(came.get, None)

    return write


class Message(BaseModel):
    role: str
    content: str


class Request(BaseModel):
    messages: list[Message]


def app(bundle: str, key: str) -> FastAPI:
    found, made = opened(bundle), FastAPI()
    answering, by = chain(found), parts_of.settings_of(found)["chat"]["generate"]["by"]

    # Not `async`: FastAPI runs it, and what it streams, in threads.
    @made.post("/v1/chat/completions")
    def asked(request: Request, authorization: Annotated[str, Header()]) -> StreamingResponse:
        if not hmac.compare_digest(authorization, f"Bearer {key}"):
            raise HTTPException(403)

        def events() -> Iterator[str]:
            for text in answering.stream(request.messages[-1].content):
                chunk = {"choices": [{"index": 0, "delta": {"content": text}}], "answered_by": by}
                yield f"data: {json.dumps(chunk)}\n\n"
            yield "data: [DONE]\n\n"

        return StreamingResponse(events(), media_type="text/event-stream")

    return made

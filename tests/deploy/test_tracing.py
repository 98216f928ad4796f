"""Spans of a request's parts, where Serve makes traces; nothing where it makes none."""

from __future__ import annotations

import asyncio
import json

import http_servers
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from ray_pipeline.deploy.example import example_row
from ray_pipeline.deploy.tracing import traced
from ray_pipeline.errors import RequestError
from ray_pipeline.job import Serve


def test_a_request_has_spans_below_that_of_serve(classifier, monkeypatch):
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(trace, "get_tracer", provider.get_tracer)
    monkeypatch.setenv("RAY_SERVE_TRACING_EXPORTER_IMPORT_PATH", "somewhere:exporter")
    app = http_servers.endpoint(classifier.bundle, Serve())

    async def asked(row):
        with provider.get_tracer("serve").start_as_current_span("replica_handle_request"):
            await app.answered(json.dumps({"rows": [row]}).encode(), [])

    asyncio.run(asked(example_row(classifier.bundle)))
    spans = {span.name: span for span in exporter.get_finished_spans()}
    assert set(spans) == {"read", "predict", "replica_handle_request"}
    whole = spans["replica_handle_request"]
    for name in ("read", "predict"):
        assert spans[name].parent.span_id == whole.context.span_id
        assert spans[name].context.trace_id == whole.context.trace_id
    assert spans["read"].end_time <= spans["predict"].start_time

    exporter.clear()
    try:
        asyncio.run(asked({"age": "somebody's"}))
    except RequestError:
        spans = {span.name: span for span in exporter.get_finished_spans()}
    assert set(spans) == {"read", "replica_handle_request"}
    assert "somebody" not in spans["read"].to_json()


def test_without_traces_nothing_is_put_between(monkeypatch):
    monkeypatch.delenv("RAY_SERVE_TRACING_EXPORTER_IMPORT_PATH", raising=False)

    async def predict() -> None: ...

    assert traced("predict", predict) is predict

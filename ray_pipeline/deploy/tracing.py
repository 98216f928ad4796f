"""Spans of what a replica does for a request, as children of the one that Ray Serve makes for it.

Serve decides whether there are any: by RAY_SERVE_TRACING_EXPORTER_IMPORT_PATH where the cluster is
started. Without that a request pays nothing for it.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")

_EXPORTER = "RAY_SERVE_TRACING_EXPORTER_IMPORT_PATH"


def traced(name: str, function: Callable[P, Awaitable[R]]) -> Callable[P, Awaitable[R]]:
    """`function` inside of a span; where Serve makes no traces, `function` itself."""
    if not os.environ.get(_EXPORTER):
        return function
    from opentelemetry import trace

    tracer = trace.get_tracer("ray_pipeline")

    async def within(*arguments: P.args, **named: P.kwargs) -> R:
        # Errors are answers, and quote values, which are not for traces.
        with tracer.start_as_current_span(
            name, record_exception=False, set_status_on_exception=False
        ):
            return await function(*arguments, **named)

    return within

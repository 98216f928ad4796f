"""The pages, drawn on the server: no script at all, nothing loaded from elsewhere."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from ray_pipeline import charts, charts_shapes, report
from ray_pipeline.deploy.asgi import Response, page_response
from ray_pipeline.ui.actions import Actions
from ray_pipeline.ui.sessions import Session

__all__ = ["confirm", "endpoint", "failed", "overview", "report_page", "runs", "sign_in"]

Record = Mapping[str, Any]
_HERE = Path(__file__).parent
_HEADLINE = ("accuracy", "roc_auc", "f1_micro", "r2", "rmse", "recall_at_5", "perplexity")
_WORDS = {
    "rollback": ("Roll back", "The release before it is put back, or the version that is named."),
    "promote": (
        "Promote",
        "The version that is tried takes over at once, without the other steps.",
    ),
    "approve": ("Release", "The challenger that waits is released, by the job's own steps."),
}


def sign_in(wrong: str = "") -> Response:
    """Where a key is asked for."""
    return _page("sign_in.html", 403 if wrong else 200, session=None, wrong=wrong)


def failed(what: str, expected: str, status: int) -> Response:
    """What was asked for cannot be shown or done."""
    return _page("failed.html", status, session=None, what=what, expected=expected)


def overview(  # noqa: PLR0917 - what is on it
    endpoints: Sequence[Record],
    records: Sequence[Record],
    decisions: Sequence[Record],
    actions: Actions,
    session: Session,
    lost: str = "",
) -> Response:
    """Everything at a glance; `lost` says why the cluster does not answer."""
    return _page(
        "overview.html",
        session=session,
        endpoints=[{**one, **_counted(one)} for one in endpoints],
        runs=[_run(record) for record in records],
        decisions=decisions,
        actions=actions,
        lost=lost,
    )


def endpoint(
    found: Record, *, curves: Mapping[str, Any], look: Record | None, **more: Any
) -> Response:
    """One endpoint: how it does, whether its data drifts, what was released and decided."""
    return _page(
        "endpoint_page.html",
        one={**found, **_counted(found)},
        charts=list(_traffic(curves)),
        look=look,
        columns=_columns(look) if look else [],
        **more,
    )


def confirm(found: Record, verb: str, to: str, session: Session) -> Response:
    """Asks once more before something is changed."""
    title, what = _WORDS[verb]
    about = {"title": title, "what": what, "to": to}
    return _page("confirm.html", session=session, one=found, verb=verb, about=about)


def runs(records: Sequence[Record], session: Session) -> Response:
    """All runs, of which two can be compared."""
    return _page("runs.html", session=session, runs=[_run(record) for record in records])


def report_page(html: str) -> Response:
    """A page that another module has drawn, with styles of its own: it may do nothing at all."""
    policy = (
        "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; "
        "form-action 'none'; frame-ancestors 'none'; sandbox"
    )
    headers = page_response("").headers
    kept = [(n, v) for n, v in headers if n != b"content-security-policy"]
    return Response(200, html.encode(), ((b"content-security-policy", policy.encode()), *kept))


def _page(name: str, status: int = 200, **values: Any) -> Response:
    now = datetime.now(UTC).isoformat(sep=" ", timespec="seconds").removesuffix("+00:00")
    html = _templates().get_template(name).render(now=now, **values)
    return page_response(html, status, forms=True)


@functools.cache
def _templates() -> jinja2.Environment:
    package = _HERE.parent
    made = report.environment(_HERE / "templates", package / "deploy" / "templates", package)
    made.filters["moment"] = _moment
    return made


def _moment(value: str | float | None) -> str:
    """A time in UTC, given as ISO 8601 or in seconds since 1970."""
    if value is None:
        return "–"
    if isinstance(value, int | float):
        value = datetime.fromtimestamp(value, UTC).isoformat(timespec="seconds")
    return value.replace("T", " ").removesuffix("+00:00")


def _counted(one: Record) -> dict[str, Any]:
    """What an endpoint's counters say, added up."""
    codes = {int(code): count for code, count in one["counts"]["requests"].items()}
    watched = one.get("watched") or {}
    return {
        "codes": sorted(codes.items()),
        "requests": sum(codes.values()),
        "refused": sum(count for code, count in codes.items() if 400 <= code < 500),
        "failed": sum(count for code, count in codes.items() if code >= 500),
        "alarms": watched.get("alarms"),
        "looked": watched.get("looked"),
    }


def _run(record: Record) -> dict[str, Any]:
    metrics = record.get("metrics") or {}
    found = next((key for key in _HEADLINE if metrics.get(key) is not None), None)
    return {
        "run": record["run"],
        "job": record["job"]["name"],
        "status": record["status"],
        "started": record["started"],
        "seconds": record["seconds"],
        "metric": report.METRICS.get(found, found) if found else None,
        "value": metrics[found] if found else None,
        "version": Path(record["bundle"]).name if record.get("bundle") else None,
    }


def _traffic(curves: Mapping[str, Sequence[charts.Point]]) -> Sequence[Markup]:
    drawn = []
    if max((rate for _, rate in curves["requests"]), default=0) > 0:
        line = charts.Line("", curves["requests"])
        drawn.append(charts.curves([line], "minutes", "requests a second"))
    latency = [
        charts.Line(name, curves[key], style)
        for key, name, style in (("p50_ms", "p50", "first"), ("p99_ms", "p99", "second"))
        if len(curves[key]) > 1
    ]
    if latency:
        drawn.append(charts.curves(latency, "minutes", "ms in a replica"))
    return drawn


def _columns(look: Record) -> list[dict[str, Any]]:
    """Each column's findings and its two distributions, the alarms first."""
    seen = look.get("look") or {}
    alarms = {(one["column"], one["question"]) for one in seen.get("alarms", ())}
    names = dict.fromkeys([one["column"] for one in seen.get("findings", ())])
    columns = [
        {
            "name": name,
            "findings": (
                found := [
                    {**one, "alarm": (name, one["question"]) in alarms}
                    for one in seen["findings"]
                    if one["column"] == name
                ]
            ),
            "alarm": any(one["alarm"] for one in found),
            "chart": _shape((seen.get("shapes") or {}).get(name)),
        }
        for name in names
    ]
    return sorted(columns, key=lambda column: not column["alarm"])


def _shape(shape: Record | None) -> Markup | None:
    if shape is None:
        return None
    if "values" in shape:
        return charts_shapes.values(shape["values"], shape["reference"], shape["now"])
    edges = shape["edges"]
    if shape.get("kind") == "date":
        ends = (_moment(edges[0]), _moment(edges[-1]))
    else:
        ends = (f"{edges[0]:.4g}", f"{edges[-1]:.4g}")
    return charts_shapes.numbers(edges, shape["reference"], shape["now"], ends)

"""The operator's page as an ASGI app: who may see it, which page is where, what forms do."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Mapping
from urllib.parse import parse_qs, quote

from ray_pipeline import comparison, report, runs
from ray_pipeline.deploy.asgi import (
    PLAIN_HEADERS,
    Header,
    Receive,
    Response,
    Scope,
    Send,
    body_of,
    failure_response,
    not_allowed,
    not_found,
    not_http,
)
from ray_pipeline.errors import ClusterError, PipelineError, RequestError, UsageError
from ray_pipeline.ui import pages
from ray_pipeline.ui.actions import Actions
from ray_pipeline.ui.sessions import Session, Sessions, check_token
from ray_pipeline.ui.state import Endpoint, State
from ray_pipeline.ui.traffic import EVERY_S, Traffic

Fields = Mapping[str, str]
_MAX_BYTES = 20_000
_RUNS, _LATEST, _DECISIONS = 200, 6, 8
_VERBS = ("rollback", "promote", "approve")


class Operator:
    """The ASGI app.

    Args:
        state: what it shows.
        port: where it listens.
        approving: by job name, what releases the challenger that waits for a person, and tells
            what came of it.
    """

    def __init__(
        self, state: State, port: int, approving: Mapping[str, Callable[[], str]] | None = None
    ) -> None:
        self._state, self._approving = state, approving or {}
        self._sessions, self._traffic, self._actions = Sessions(port), Traffic(), Actions()
        self._looking: asyncio.Task[None] | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await not_http(receive, send, self._begin, self._end)
        try:
            response = await self._response(scope, receive)
        except RequestError as error:
            response = pages.failed(error.what, error.expected, error.status)
        except UsageError as error:
            response = pages.failed(error.what, error.hint or error.expected, 404)
        except PipelineError as error:
            response = pages.failed(error.what, error.hint or error.expected, 503)
        except ConnectionError:
            return None
        except Exception as error:  # noqa: BLE001 - the boundary: logged, told without details
            response = failure_response(error, scope["path"])
        return await response.send(send, head=scope["method"] == "HEAD")

    async def _response(self, scope: Scope, receive: Receive) -> Response:
        path, method = scope["path"], scope["method"]
        if method not in ("GET", "HEAD", "POST"):
            return not_allowed(method, path, "GET, HEAD, POST")
        session = await asyncio.to_thread(self._sessions.of, scope["headers"])
        if path == "/sign-in" and method == "POST":
            return await self._signed_in(await _form(scope, receive))
        if session is None:
            return pages.sign_in() if path in ("/", "/sign-in") else _to("/sign-in")
        if method == "POST":
            form = await _form(scope, receive)
            check_token(session, form.get("token", ""))
            return await self._done(path, form, session, scope)
        asked = _fields(scope["query_string"].decode("latin-1"))
        return await asyncio.to_thread(self._shown, path, asked, scope["query_string"], session)

    def _shown(self, path: str, asked: Fields, query: bytes, session: Session) -> Response:
        """A page, for somebody who has signed in; it may block."""
        parts = path.strip("/").split("/")
        if path in ("/", "/sign-in"):
            return self._overview(session)
        if parts == ["runs"]:
            return pages.runs(runs.listed(self._state.storage, most=_RUNS), session)
        if parts == ["compare"]:
            return self._compared(query)
        if parts[0] == "runs" and len(parts) == 2:
            return pages.report_page(report.page(runs.found(self._state.storage, parts[1])))
        if parts[0] == "endpoints" and len(parts) == 2:
            return self._endpoint(self._found(parts[1]), session)
        if parts[0] == "endpoints" and len(parts) == 3 and parts[2] in _VERBS:
            return pages.confirm(self._found(parts[1]), parts[2], asked.get("to", ""), session)
        raise not_found(path, "/, /runs, /compare, /endpoints/NAME")

    def _overview(self, session: Session) -> Response:
        lost = ""
        try:
            endpoints = self._state.endpoints()
        except ClusterError as error:
            endpoints, lost = [], str(error)
        return pages.overview(
            [{**one, "rates": self._traffic.recent(one["name"])} for one in endpoints],
            runs.listed(self._state.storage, most=_LATEST),
            self._state.all_decisions(_DECISIONS),
            self._actions,
            session,
            lost,
        )

    def _endpoint(self, endpoint: Endpoint, session: Session) -> Response:
        name = endpoint["name"]
        decisions = self._state.decisions(endpoint)
        waits = bool(decisions) and decisions[0]["outcome"] == "waiting"
        return pages.endpoint(
            {**endpoint, "rates": self._traffic.recent(name)},
            curves=self._traffic.curves(name),
            look=self._state.look(endpoint),
            decisions=decisions[:20],
            waiting=decisions[0] if waits else None,
            approvable=name in self._approving,
            history=self._state.history(name)[:30],
            actions=self._actions,
            session=session,
        )

    def _compared(self, query: bytes) -> Response:
        chosen = parse_qs(query.decode("latin-1"), max_num_fields=20).get("run", [])
        if len(chosen) != 2:
            raise RequestError(
                f"{len(chosen)} runs are chosen",
                status=422,
                code="not_two",
                expected="two of them, to be compared",
            )
        older, newer = sorted(chosen)
        found = [runs.found(self._state.storage, run) for run in (older, newer)]
        return pages.report_page(comparison.page(*found))

    def _found(self, name: str) -> Endpoint:
        known = {one["name"]: one for one in self._state.endpoints()}
        if name not in known:
            raise RequestError(
                f"no endpoint is called {name}",
                status=404,
                code="not_found",
                expected=", ".join(known) or "one that is deployed",
            )
        return known[name]

    async def _signed_in(self, form: Fields) -> Response:
        try:
            cookie = await asyncio.to_thread(self._sessions.opened, form.get("key", ""))
        except RequestError as error:
            return pages.sign_in(f"{error.what}; expected {error.expected}")
        return _to("/", cookie)

    async def _done(self, path: str, form: Fields, session: Session, scope: Scope) -> Response:
        if path == "/sign-out":
            return _to("/sign-in", self._sessions.ended(scope["headers"]))
        parts = path.strip("/").split("/")
        if parts[0] != "endpoints" or len(parts) != 3 or parts[2] not in _VERBS:
            raise not_found(path, "a form of this page")
        name, verb = parts[1], parts[2]
        await asyncio.to_thread(self._found, name)
        what, do = self._asked(name, verb, form, session)
        self._actions.begin(name, what, session.who, do)
        return _to(f"/endpoints/{quote(name)}")

    def _asked(
        self, name: str, verb: str, form: Fields, session: Session
    ) -> tuple[str, Callable[[], str]]:
        """What a form asks for, in words and as what does it."""
        if verb == "promote":
            return "promote the version that is tried", lambda: self._state.promoted(name)
        if verb == "approve":
            if name not in self._approving:
                raise RequestError(
                    f"nothing is known here of the job {name}",
                    status=422,
                    code="no_job",
                    expected="that the page was started with `--job`",
                )
            return "release the challenger that waits", self._approving[name]
        why = " ".join(form.get("why", "").split())[:500] or "no reason given"
        said, to = f"{why} (on the operator's page, key {session.who})", form.get("to") or None
        what = f"roll back to {to}" if to else "roll back"
        return what, lambda: self._state.rolled_back(name, to, said)

    def _begin(self) -> None:
        self._looking = asyncio.get_running_loop().create_task(self._look())

    def _end(self) -> None:
        if self._looking:
            self._looking.cancel()

    async def _look(self) -> None:
        while True:
            with contextlib.suppress(ClusterError):  # whoever opens the page is told
                figures = await asyncio.to_thread(self._state.figures)
                self._traffic.seen(time.monotonic(), figures)
            await asyncio.sleep(EVERY_S)


async def _form(scope: Scope, receive: Receive) -> Fields:
    body = await body_of(scope, receive, _MAX_BYTES)
    return _fields(body.decode("utf-8", "replace"))


def _fields(text: str) -> Fields:
    """The last value of each field. Raises RequestError."""
    try:
        return {name: values[-1] for name, values in parse_qs(text, max_num_fields=20).items()}
    except ValueError as error:
        what = "the form cannot be read"
        raise RequestError(what, status=400, code="bad_form") from error


def _to(path: str, *headers: Header) -> Response:
    """See there."""
    return Response(303, b"", ((b"location", path.encode()), *headers, *PLAIN_HEADERS))

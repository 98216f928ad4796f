"""The operator's page behind a real server: whom it lets in, what it shows of a storage."""

from __future__ import annotations

import copy
import json
import re
import sys
from datetime import timedelta
from pathlib import Path

import httpx
import pytest

sys.path += [str(Path(__file__).parents[1]), str(Path(__file__).parents[1] / "deploy")]

import http_servers
from test_report import Checked, record

from ray_pipeline import comparison, report
from ray_pipeline.deploy import auth, keyring
from ray_pipeline.ui.app import Operator
from ray_pipeline.ui.state import State

RUN, LATER = "20261124-081200-ab12", "20261125-081200-cd34"
PATHS = ["/runs", f"/runs/{RUN}", f"/compare?run={RUN}&run={LATER}", "/endpoints/model", "/x"]


@pytest.fixture(scope="module")
def storage(tmp_path_factory):
    """Two runs and a decision."""
    root = tmp_path_factory.mktemp("storage")
    later = copy.deepcopy(record()) | {"run": LATER, "status": "refused"}
    later["metrics"]["accuracy"] = 0.5
    for one in (record(), later):
        one["job"]["name"] = "<b>income</b>"
        folder = root / "income/runs" / one["run"]
        folder.mkdir(parents=True)
        (folder / "run.json").write_text(json.dumps(one))
    decision = {"id": "1", "created": "2026-11-25T08:12:00+00:00", "action": "run"}
    decision |= {"outcome": "refused", "why": ["2 new files"], "verdict": "accuracy is worse"}
    kept = root / "income/watch/decisions"
    kept.mkdir(parents=True)
    (kept / "1.json").write_text(json.dumps(decision))
    unjudged = {key: value for key, value in decision.items() if key != "verdict"}
    (kept / "2.json").write_text(json.dumps(unjudged | {"outcome": None}))
    return root


@pytest.fixture(scope="module")
def url(storage):
    with http_servers.running(Operator(State(str(storage)), 1)) as port:
        yield f"http://127.0.0.1:{port}"


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("RAY_PIPELINE_HOME", str(tmp_path))


@pytest.fixture
def client(url):
    with httpx.Client(base_url=url) as client:
        yield client


def signed_in(client, key=None):
    return client.post("/sign-in", data={"key": key or auth.key()})


def token(client):
    return re.search(r'name="token" value="([^"]+)"', client.get("/").text)[1]


@pytest.mark.parametrize("path", PATHS)
def test_nothing_is_shown_and_nothing_done_to_who_has_not_signed_in(client, path):
    answer = client.get(path)
    assert (answer.status_code, answer.headers["location"]) == (303, "/sign-in")
    assert RUN not in client.get("/").text
    done = client.post("/endpoints/model/rollback", data={"token": "x"})
    assert (done.status_code, done.headers["location"]) == (303, "/sign-in")


def test_a_key_with_every_scope_opens_it_in_a_cookie_that_scripts_do_not_see(client):
    answer = signed_in(client)
    assert (answer.status_code, answer.headers["location"]) == (303, "/")
    told = answer.headers["set-cookie"].split("; ")
    assert {"HttpOnly", "SameSite=Strict", "Path=/"} <= set(told)
    assert auth.key() not in answer.headers["set-cookie"]
    assert RUN in client.get("/").text
    client.post("/sign-out", data={"token": token(client)})
    assert RUN not in client.get("/").text


@pytest.mark.parametrize(
    "given",
    [
        {"scopes": ("predict", "metrics", "feedback")},
        {"scopes": ("admin",), "endpoints": ("model",)},
        {"scopes": ("admin",), "expires_in": timedelta(0)},
    ],
    ids=["no admin", "one endpoint", "expired"],
)
def test_other_keys_do_not_open_it(client, given):
    key = keyring.add("other", **given)
    for wrong in (key, "rp_guessed", " "):
        answer = signed_in(client, wrong)
        assert answer.status_code == 403
        assert "set-cookie" not in answer.headers
        assert "does not open the page" in answer.text
        assert wrong == " " or wrong not in answer.text


def test_a_key_that_is_revoked_ends_what_it_has_opened(client):
    signed_in(client, keyring.add("ops", ("admin",)))
    assert "key ops" in client.get("/").text
    keyring.revoke("ops")
    assert RUN not in client.get("/").text
    assert client.get("/runs").status_code == 303


def test_a_form_of_another_site_or_session_does_nothing(client, url):
    signed_in(client)
    with httpx.Client(base_url=url) as other:
        signed_in(other)
        stolen = token(other)
    for given in ({}, {"token": ""}, {"token": "é"}, {"token": stolen}):
        assert client.post("/sign-out", data=given).status_code == 403
        assert client.post("/endpoints/model/rollback", data=given).status_code == 403
    assert RUN in client.get("/").text


def test_runs_their_reports_and_what_was_decided(client, storage):
    signed_in(client)
    page = client.get("/").text
    Checked(page)
    assert "accuracy is worse" in page
    listed = client.get("/runs").text
    Checked(listed)
    assert listed.index(LATER) < listed.index(RUN), "newest first"
    kept = json.loads((storage / "income/runs" / RUN / "run.json").read_text())
    assert client.get(f"/runs/{RUN}").text == report.page(kept)
    for text in (page, listed):
        assert "<b>income" not in text
        assert "&lt;b&gt;income" in text


def test_two_runs_are_compared_the_older_first(client, storage):
    signed_in(client)
    kept = [
        json.loads((storage / "income/runs" / run / "run.json").read_text()) for run in (RUN, LATER)
    ]
    asked = client.get("/compare", params={"run": [LATER, RUN]})
    assert asked.text == comparison.page(*kept)
    assert client.get("/compare", params={"run": [RUN]}).status_code == 422


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/runs/2027", 404),
        ("GET", "/endpoints/model", 404),
        ("GET", "/endpoints/model/delete", 404),
        ("GET", "/nothing", 404),
        ("GET", "/runs/..%2f..%2fetc%2fpasswd", 404),
        ("DELETE", "/runs", 405),
        ("POST", "/runs", 404),
    ],
)
def test_what_is_not_there_is_said_on_a_page(client, method, path, status):
    signed_in(client)
    answer = client.request(method, path, data={"token": token(client)} if method == "POST" else {})
    assert answer.status_code == status
    if method == "GET":
        Checked(answer.text)
        assert "Traceback" not in answer.text


def test_forms_are_bounded(client):
    signed_in(client)
    assert client.post("/sign-in", data={"key": "x" * 50_000}).status_code == 413
    many = {f"f{n}": "x" for n in range(50)}
    assert client.post("/sign-in", data=many).status_code == 400
    odd = client.get("/", headers={"cookie": 'a=[}"; =;,'})
    assert odd.status_code == 200


@pytest.mark.parametrize("path", ["/", *PATHS])
def test_pages_may_do_next_to_nothing(client, path):
    signed_in(client)
    answer = client.get(path)
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "frame-ancestors 'none'" in policy
    assert "script-src 'none'" in policy or "sandbox" in policy
    assert ("sandbox" in policy) == ("unsafe-inline" in policy)
    assert answer.headers["x-frame-options"] == "DENY"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["referrer-policy"] == "no-referrer"
    assert "<script" not in answer.text
    assert not re.search(r'(src|href)="https?:', answer.text)


def test_a_session_ends_with_its_time(client, monkeypatch):
    from ray_pipeline.ui import sessions

    monkeypatch.setattr(sessions, "_LASTS_S", -1)
    signed_in(client)
    assert RUN not in client.get("/").text

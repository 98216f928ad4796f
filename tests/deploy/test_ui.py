"""The operator's page over a cluster that serves, in a real browser: it shows what is so, and puts
a release back."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))

import servers
import spoiled_bundles
from browser import browser
from releases import cli, printed, set_release
from upath import UPath

from ray_pipeline.deploy import history
from ray_pipeline.watch import decisions


@pytest.fixture(scope="module")
def storage(site, classifier, tmp_path_factory):
    """Where a job has left two bundles, of which the second is live, and what the watch saw."""
    root = tmp_path_factory.mktemp("operated") / "storage"
    bundles = root / "model/bundles"
    bundles.mkdir(parents=True)
    for name in ("one", "two"):
        made = spoiled_bundles.version(classifier.bundle, bundles / name, name)
        with site.at_home():
            site.deploy(made)
    finding = {"column": "age", "question": "distribution", "size": 0.4, "bound": 0.1}
    look = {
        "rows": 900, "labels": 0, "since": "2026-11-24T08:12:00+00:00",
        "until": "2026-11-24T09:12:00+00:00", "findings": [{**finding, "chance": 1e-9}],
        "alarms": [{**finding, "chance": 1e-9}],
        "shapes": {"age": {"edges": [18, 40, 60], "reference": [0.7, 0.3], "now": [0.2, 0.8]}},
    }  # fmt: skip
    watch = decisions.made("nothing", ["age has drifted"], look=look, live={"version": "two"})
    (root / "model/watch").mkdir()
    (root / "model/watch/latest.json").write_text(json.dumps(watch))
    return root


def job(site, storage):
    """The file of the job whose challengers the page may release."""
    (storage.parent / "data").mkdir()
    (storage.parent / "data/2026-01.csv").write_text("age,income\n1,<=50K\n")
    told = {
        "name": "model", "storage": str(storage), "watch": {"approve": True},
        "data": {"source": str(storage.parent / "data"), "label": "income"},
        "serve": {"port": site.port, "replicas": {"min": 1, "max": 1}, "cpus": 0.2},
    }  # fmt: skip
    path = storage.parent / "job.yaml"
    path.write_text(json.dumps(told))
    return path


@pytest.fixture(scope="module")
def url(site, storage):
    """Where the command serves it."""
    port = servers.free_port()
    command = [sys.executable, "-W", "ignore", "-m", "ray_pipeline.cli", "ui", "--json"]
    command += ["--port", str(port), "--storage", str(storage), "--job", str(job(site, storage))]
    with (site.home / "ui.log").open("w") as log:
        process = subprocess.Popen(
            command, env=site.environment, stdout=subprocess.PIPE, stderr=log, text=True
        )
    told = json.loads(process.stdout.readline())
    servers.waited(lambda: servers.answers(port))
    yield told["ui"]
    process.terminate()
    assert process.wait(60) == 0, (site.home / "ui.log").read_text()


@pytest.fixture(scope="module")
def window(site, url):
    with browser() as found:
        found.open(url)
        found.type("#key", site.key)
        found.click(".ask button")
        yield found


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("path", ["", "endpoints/model", "endpoints/model/rollback", "runs"])
def test_pages_fit_wide_and_narrow_windows(window, url, width, path, tmp_path):
    window.resize(width, 900)
    window.open(url + path, width=width)
    wide, inside = window.run("return [document.documentElement.scrollWidth, innerWidth]")
    assert wide <= inside == width
    window.picture(tmp_path / "page.png")
    assert window.complaints() == []


def test_it_shows_what_is_live_and_what_has_drifted(window, url):
    window.open(url)
    assert "\nmodel two running" in window.text("#endpoints")  # beside those of other tests
    window.click("#endpoints a[href$='/endpoints/model']")
    assert window.text("#version") == "two"
    assert "age" in window.text("#drift h3")
    assert window.text("#drift li.alarm").startswith("distribution 0.4, bound 0.1")
    area, line = window.run(
        "return ['polygon.usual', 'polyline.now'].map("
        "css => document.querySelector('#drift ' + css).getBoundingClientRect().height)"
    )
    assert area > 60, "the reference is drawn"
    assert line > 60, "and what is now"


def test_traffic_is_counted(window, url, site, rows):
    for row in rows[:30]:
        assert site.predict(row).status_code == 200

    def shown():
        # A curve of latency needs two looks with requests between them.
        assert site.predict(rows[0]).status_code == 200
        window.open(url + "endpoints/model")
        text = window.run("return document.body.textContent")
        # Those by which a release is tried count, too.
        return int(re.search(r"(\d+) in all", text)[1]) >= 30 and "ms in a replica" in text

    servers.waited(shown, 60)


def test_a_release_is_put_back_from_the_page(window, url, storage, site):
    window.resize(1280, 900)
    window.open(url + "endpoints/model")
    window.click("#releases a[href$='to=one']")
    assert "Roll back model?" in window.text("h1")
    window.type("#why", "they complain")
    window.click(".ask button")
    # The page loads itself again and again: what is found may be gone a moment later.
    body = "return document.body.textContent"
    servers.waited(lambda: "is live again" in window.run(body), 120)
    window.open(url + "endpoints/model")
    assert window.text("#version") == "one"
    newest = history.read(str(storage), "model")[-1]
    assert (newest["action"], newest["version"]) == ("rollback", "one")
    assert newest["why"] == "they complain (on the operator's page, key own)"
    listed = site.printed("endpoints", "--json")["endpoints"]
    assert [one["version"] for one in listed if one["name"] == "model"] == ["one"]


def test_without_a_session_nothing_is_put_back(url, storage):
    before = history.read(str(storage), "model")
    for path in ("rollback", "promote", "approve"):
        answer = httpx.post(f"{url}endpoints/model/{path}", data={"to": "two"})
        assert answer.headers["location"] == "/sign-in"
    assert history.read(str(storage), "model") == before


@pytest.fixture
def operator(site, url):
    """A client of somebody who has signed in."""
    with httpx.Client(base_url=url, timeout=60) as client:
        assert client.post("/sign-in", data={"key": site.key}).status_code == 303
        yield client


def shown(client):
    return client.get("/endpoints/model").text


def sent(client, verb):
    """The form of the page that asks whether something is to be done."""
    form = client.get(f"/endpoints/model/{verb}").text
    token = re.search(r'name="token" value="([^"]+)"', form)[1]
    return client.post(f"/endpoints/model/{verb}", data={"token": token})


def nothing_is_done_without_a_right(url, site, verb):
    """A form without its session's token is refused, and so is who may only predict."""
    with httpx.Client(base_url=url, timeout=60) as client, site.at_home():
        client.post("/sign-in", data={"key": site.key})
        for given in ({}, {"token": ""}, {"token": "x" * 43}):
            assert client.post(f"/endpoints/model/{verb}", data=given).status_code == 403
    with httpx.Client(base_url=url, timeout=60) as client:
        key = site.printed("keys", "add", f"caller-{verb}", "--scope", "predict", "--json")
        assert client.post("/sign-in", data={"key": key["key"]}).status_code == 403
        answer = client.post(f"/endpoints/model/{verb}", data={"token": "x"})
        assert answer.headers["location"] == "/sign-in"


def test_a_person_releases_a_challenger_that_waits(url, operator, site, storage, classifier):
    made = spoiled_bundles.version(classifier.bundle, storage / "model/bundles/three", "three")
    live = history.read(str(storage), "model")[-1]
    challenger = {
        "run": "r3", "bundle": str(made.path), "version": "three",
        "digest": made.manifest.digest, "better": True, "verdict": "accuracy is 0.04 better",
    }  # fmt: skip
    waiting = decisions.made(
        "run", ["2 new files"], challenger=challenger, live={"bundle": live["bundle"]}
    )
    kept = decisions.Decisions(UPath(storage / "model"))
    kept.save({**waiting, "outcome": "waiting"})
    assert "A challenger waits for you" in shown(operator)
    assert "accuracy is 0.04 better" in shown(operator)
    nothing_is_done_without_a_right(url, site, "approve")
    assert kept.waiting()["id"] == waiting["id"]
    assert history.read(str(storage), "model")[-1] == live
    assert sent(operator, "approve").status_code == 303
    servers.waited(lambda: "promoted: accuracy is 0.04 better" in shown(operator), 120)
    assert 'id="version">three<' in shown(operator)
    (done,) = [one for one in kept.all() if one["id"] == waiting["id"]]
    assert (done["outcome"], done["approved"]) == ("promoted", True)
    newest = history.read(str(storage), "model")[-1]
    assert (newest["version"], newest["action"]) == ("three", "deploy")
    assert newest["why"].startswith(f"watch {waiting['id']}:")
    assert "A challenger waits for you" not in shown(operator)


def test_a_version_that_is_tried_is_promoted_from_the_page(
    url, operator, site, storage, classifier
):
    made = spoiled_bundles.version(classifier.bundle, storage / "model/bundles/four", "four")
    trying = cli(site, "deploy", made.path, "--name", "model", *set_release(hold_s=300), "--json")
    servers.waited(lambda: "Version four is being tried" in shown(operator), 120)
    nothing_is_done_without_a_right(url, site, "promote")
    assert "Version four is being tried" in shown(operator)
    assert sent(operator, "promote").status_code == 303
    assert printed(trying)["version"] == "four"
    servers.waited(lambda: "version four takes over" in shown(operator), 60)
    assert 'id="version">four<' in shown(operator)
    assert history.read(str(storage), "model")[-1]["version"] == "four"


def test_what_cannot_be_done_is_told(window, url):
    window.open(url + "endpoints/model/promote")
    window.click(".ask button")
    bad = "return document.querySelector('.note.bad')?.textContent ?? ''"
    servers.waited(lambda: "no version is being tried" in window.run(bad), 60)

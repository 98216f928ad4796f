"""What was released is known, and gone back to in one command; a trial is ended or let through."""

from __future__ import annotations

import json
import signal
import time

import httpx
import pytest
import spoiled_bundles
from counting import load
from releases import STEPS, cli, printed, set_release, waited

from ray_pipeline.deploy import history


def test_back_to_what_was_live_with_no_failed_request(site, live, classifier, rows, tmp_path):
    # Two bundles in a storage, as a job leaves them.
    bundles = tmp_path / "storage" / "model" / "bundles"
    bundles.mkdir(parents=True)
    first, second = (
        spoiled_bundles.version(classifier.bundle, bundles / name, name) for name in ("one", "two")
    )
    site.deploy(first)
    site.printed("deploy", second.path, "--name", "model", "--why", "newer rows", "--json")
    with load(site, rows) as counted:
        time.sleep(1)
        back = site.printed("rollback", "model", "--why", "they complain", "--json")
        over = time.monotonic()
        time.sleep(7)  # the old replica drains for 5 seconds before it ends
    assert counted.failures == []
    assert (back["version"], back["from"]) == ("one", "two")
    assert set(counted.since(over + 6)) == {"one"}
    (listed,) = site.printed("endpoints", "--json")["endpoints"]
    assert (listed["version"], listed["why"]) == ("one", "they complain")
    assert listed["by"]
    kept = history.read(str(tmp_path / "storage"), "model")
    assert [(e["action"], e["version"], e["why"]) for e in kept] == [
        ("deploy", "one", ""),
        ("deploy", "two", "newer rows"),
        ("rollback", "one", "they complain"),
    ]
    assert kept[-1]["settings"] == kept[0]["settings"], "the first one's settings are back"


def test_an_endpoint_is_taken_down_and_put_back(site, live, classifier, rows, tmp_path):
    bundles = tmp_path / "storage" / "brief" / "bundles"
    bundles.mkdir(parents=True)
    made = spoiled_bundles.version(classifier.bundle, bundles / "one", "one")
    place = f"--set=port={site.port}"
    site.printed("deploy", made.path, "--name", "brief", "--json", place)

    def status():
        body = {"rows": rows[:1]}
        key = {"X-API-Key": site.key}
        return httpx.post(f"{site.url}/brief/predict", json=body, headers=key).status_code

    assert status() == 200
    gone = site.printed("remove", "brief", "--why", "nobody asks", "--json")
    assert gone == {"name": "brief", "removed": "one"}
    waited(lambda: status() == 404)
    listed = site.printed("endpoints", "--json")["endpoints"]
    assert [one["name"] for one in listed if one["version"] == live] == ["model"]
    assert "brief" not in {one["name"] for one in listed}
    *_, last = history.read(str(tmp_path / "storage"), "brief")
    assert (last["action"], last["version"], last["why"]) == ("remove", "one", "nobody asks")

    code, _, error = site.called(site.home, "remove", "brief")
    assert (code, "nothing is live there" in error) == (2, True), error

    back = site.printed("rollback", "brief", "--json")
    assert (back["version"], back["from"]) == ("one", "")
    assert status() == 200
    site.printed("remove", "brief", "--json")


@pytest.fixture
def trying(site, live, classifier, tmp_path):
    """The command that tries a version for minutes, once some of its answers have been given."""
    made = spoiled_bundles.version(classifier.bundle, tmp_path / "tried", "tried")
    release = set_release(steps=[50, 100], hold_s=300)
    process = cli(site, "deploy", made.path, "--name", "model", "--json", *release)

    def tried():
        assert process.poll() is None, process.stderr.read()
        listed = httpx.get(f"{site.url}/").json()["endpoints"]
        return listed[0].get("trial", {}).get("answers", 0) > 10

    yield process, tried
    process.kill()
    process.wait()


def test_a_trial_is_ended_by_rollback(site, rows, live, trying):
    process, tried = trying
    with load(site, rows) as counted:
        waited(tried)
        told = site.printed("rollback", "model", "--json")
        _, error = process.communicate(timeout=400)
        over = time.monotonic()
        time.sleep(1)
    assert told["stopped"] == "tried"
    assert process.returncode == 3, error
    assert "stopped by `rollback`" in error
    assert counted.failures == []
    assert set(counted.since(over)) == {live}


def test_a_trial_is_let_through_by_promote(site, rows, trying):
    process, tried = trying
    with load(site, rows) as counted:
        waited(tried)
        assert site.printed("promote", "model", "--json")["promoted"] == "tried"
        live = printed(process)
        time.sleep(7)
        over = time.monotonic()
        time.sleep(1)
    assert [phase["percent"] for phase in live["trial"]] == [50]
    assert counted.failures == []
    assert set(counted.since(over)) == {"tried"}


def test_a_trial_ends_with_the_command_that_tries(site, rows, live, trying):
    process, tried = trying
    with load(site, rows) as counted:
        waited(tried)
        process.send_signal(signal.SIGKILL)
        killed = time.monotonic()
        time.sleep(14)
    assert counted.failures == []
    assert set(counted.since(killed + 13)) == {live}


def test_nothing_to_promote_and_nowhere_to_go(site, live):
    for arguments, said in (
        (["promote", "model"], "no version is being tried"),
        (["rollback", "nothing"], "no release to go back to"),
    ):
        code, _, error = site.called(site.home, *arguments)
        assert (code, said in error) == (2, True), error


def test_copies_are_judged_and_none_of_their_answers_is_given(
    site, live, classifier, rows, tmp_path
):
    made = spoiled_bundles.version(
        classifier.bundle, tmp_path / "turned", "turned", spoiled_bundles.turned
    )
    release = STEPS | {"shadow": 100, "hold_s": 20, "max_distance": None, "max_differing": 0.1}
    with load(site, rows) as counted:
        _, told = site.tried(made, release=release)
    assert "GateRefused" in told
    assert "rows are answered otherwise" in told
    assert counted.failures == []
    assert {version for _, version in counted.versions} == {live}
    assert json.loads(httpx.get(f"{site.url}/").text)["endpoints"][0]["version"] == live


def test_releases_outlive_the_cluster(site, live, classifier, tmp_path):
    bundles = tmp_path / "storage" / "model" / "bundles"
    bundles.mkdir(parents=True)
    for name in ("one", "two"):
        site.deploy(spoiled_bundles.version(classifier.bundle, bundles / name, name))
    site.down()
    site.up()
    storage = ("--storage", tmp_path / "storage", "--json")
    assert site.printed("rollback", "model", *storage)["version"] == "one"
    kept = site.printed("endpoints", "--history", "model", *storage)["history"]
    assert [entry["version"] for entry in kept] == ["one", "two", "one"]

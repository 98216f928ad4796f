"""A new version beside the one that is live: it takes over, or is refused, and no request fails."""

from __future__ import annotations

import re
import time

import pytest
import spoiled_bundles
from counting import load
from releases import STEPS, set_release


def test_a_good_version_takes_over_by_steps(site, live, classifier, rows, tmp_path):
    good = spoiled_bundles.version(classifier.bundle, tmp_path / "good", "good")
    with load(site, rows) as counted:
        time.sleep(1)
        told, listed = site.deploy(good, release=STEPS)
        over = time.monotonic()
        time.sleep(2)
    assert counted.failures == []
    assert [phase["percent"] for phase in told["trial"]] == [20, 60]
    assert all(phase["answers"] > 20 and not phase["failures"] for phase in told["trial"])
    first, second = (p["answers"] / (p["answers"] + p["old_answers"]) for p in told["trial"])
    # Replicas hear of a step within a second, which is a third of it.
    assert 0.05 < first < 0.3
    assert 0.3 < second < 0.75
    assert set(counted.since(over + 1)) == {"good"}
    assert (listed[0]["version"], listed[0]["trial"]) == ("good", None)


@pytest.mark.parametrize(
    ("how", "setting", "said"),
    [
        ("failing", {"hold_s": 20}, r"max_error_share.*answers failed \(InvalidArgument: \d+"),
        ("turned", {"hold_s": 20}, r"max_distance.*differs by (1|0\.9\d*)"),
        ("slow", {"hold_s": 20, "max_p99_ms": 50}, r"max_p99_ms.*answers took [\d.]+ ms"),
    ],
)
def test_a_bad_version_is_refused_within_seconds(
    site, live, classifier, rows, tmp_path, how, setting, said
):
    bad = spoiled_bundles.version(
        classifier.bundle, tmp_path / how, how, getattr(spoiled_bundles, how)
    )
    with load(site, rows) as counted:
        arguments = ("deploy", bad.path, "--name", "model", *set_release(**setting))
        code, _, error = site.called(site.home, *arguments)
        over = time.monotonic()
        time.sleep(1)
    assert code == 3, error
    assert counted.failures == []
    answered = [when for when, version in counted.versions if version == how]
    assert answered[-1] - answered[0] < 12
    assert set(counted.since(over)) == {live}
    assert site.predict(rows[0]).json()["version"] == live
    assert re.search(said, error.replace("\n", " ")), error
    kept = site.printed("endpoints", "--history", "model", "--json")["history"]
    assert (kept[-1]["action"], kept[-1]["version"]) == ("refused", how)

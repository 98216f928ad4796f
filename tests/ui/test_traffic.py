"""Rates and quantiles of what was counted between two looks, and one action at a time."""

from __future__ import annotations

import threading
from bisect import bisect_left

import numpy as np
import pytest
import servers

from ray_pipeline.deploy.counters import BOUNDS
from ray_pipeline.errors import RequestError, UsageError
from ray_pipeline.ui.actions import Actions
from ray_pipeline.ui.traffic import Traffic, quantile_ms


def figures(seconds, failed=0):
    buckets = [0] * (len(BOUNDS) + 1)
    for one in seconds:
        buckets[bisect_left(BOUNDS, one)] += 1
    requests = {200: len(seconds) - failed, 503: failed}
    return {"model": {"counts": {"requests": requests, "buckets": buckets}}}


@pytest.mark.parametrize("share", [0.01, 0.5, 0.9, 0.99])
def test_quantiles_are_as_near_as_the_bounds_let_them(share):
    seconds = np.random.default_rng(1).gamma(2, 0.02, 5000)
    (counted,) = figures(seconds).values()
    found = quantile_ms(counted["counts"]["buckets"], share) / 1000
    true = float(np.quantile(seconds, share))
    at = bisect_left(BOUNDS, true)
    assert (0, *BOUNDS)[at] <= found <= BOUNDS[at]
    assert quantile_ms([0] * 12, share) is None
    assert quantile_ms([0] * 11 + [5], share) == 2500


def test_rates_are_of_the_time_between():
    traffic = Traffic()
    traffic.seen(100.0, figures([0.003] * 50))
    assert traffic.recent("model") is None
    traffic.seen(110.0, figures([0.003] * 50 + [0.04] * 40, failed=10))
    rates = traffic.recent("model")
    assert (rates.requests, rates.failed) == (4.0, 0.25)
    assert 25 < rates.p50_ms <= 50, "what came before does not count"
    curves = traffic.curves("model")
    assert curves["requests"] == [(0.0, 4.0)]
    traffic.seen(115.0, figures([0.003] * 3))
    assert traffic.recent("model") is None, "another cluster begins from nothing"
    traffic.seen(120.0, {})
    assert traffic.curves("model")["requests"] == []


def test_an_hour_is_kept_and_few_points_are_drawn():
    traffic = Traffic()
    for look in range(2000):
        traffic.seen(5.0 * look, figures([0.003] * look))
    curve = traffic.curves("model")["requests"]
    assert 30 <= len(curve) <= 70
    assert curve[-1] == (0.0, 0.2)
    assert -60 <= curve[0][0] < -55


def test_one_thing_at_a_time_is_done_to_an_endpoint():
    actions, going = Actions(), threading.Event()
    actions.begin("model", "roll back", "own", lambda: going.wait(60) and "done")
    assert actions.under_way()
    with pytest.raises(RequestError, match="already"):
        actions.begin("model", "promote", "own", str)
    actions.begin("other", "promote", "own", lambda: "done at once")
    going.set()
    servers.waited(lambda: not actions.under_way(), 60)
    assert {one.name: one.outcome for one in actions.latest} == {
        "model": "done",
        "other": "done at once",
    }


def test_what_failed_is_told_without_its_values(caplog):
    def refused():
        raise UsageError("there is no release to go back to")

    def broken():
        raise ValueError("somebody's row")

    actions = Actions()
    for name, do in (("a", refused), ("b", broken)):
        actions.begin(name, "roll back", "own", do)
    servers.waited(lambda: not actions.under_way(), 60)
    told = {one.name: one for one in actions.latest}
    assert told["a"].failed
    assert "no release to go back to" in told["a"].outcome
    assert told["b"].outcome == "ValueError; the log says more"
    assert "b" in caplog.text

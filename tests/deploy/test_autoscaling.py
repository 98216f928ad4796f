"""Load comes and goes: what a client sees of it, and how many replicas there are.

The client sends requests all the time; none may fail.
"""

from __future__ import annotations

import spoiled_bundles
from counting import load
from releases import replicas, waited


def test_more_load_more_replicas_and_back_to_none(site, live, classifier, rows, tmp_path):
    slow = spoiled_bundles.version(
        classifier.bundle, tmp_path / "slow", "slow", spoiled_bundles.slow
    )
    site.deploy(
        slow,
        replicas={"min": 0, "max": 2},
        target_ongoing_requests=2,
        upscale_delay_s=1,
        downscale_delay_s=1,
    )
    waited(lambda: replicas(site) == 0)
    with load(site, rows, connections=8) as counted:
        waited(lambda: replicas(site))
        waited(lambda: replicas(site) == 2)
        waited(lambda: len(counted.versions) > 20)
    assert counted.failures == []
    waited(lambda: replicas(site) == 0)


def test_a_policy_of_the_jobs_own_decides(site, live, classifier, tmp_path, monkeypatch):
    """The cluster has not its module."""
    (tmp_path / "scaling.py").write_text("def wanted(context):\n    return 2, {}\n")
    known = site.environment.get("PYTHONPATH", "")
    monkeypatch.setitem(site.environment, "PYTHONPATH", f"{tmp_path}:{known}")
    settings = {"replicas": {"min": 1, "max": 3}, "upscale_delay_s": 0}
    site.deploy(classifier.bundle, autoscaling="scaling:wanted", **settings)
    waited(lambda: replicas(site) == 2)
    _, told = site.tried(classifier.bundle, autoscaling="scaling:absent")
    assert "JobError: serve.autoscaling: `scaling:absent` cannot be imported" in told

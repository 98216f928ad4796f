"""Gates on real models that go wrong, split as a replica does it, without a cluster around."""

from __future__ import annotations

import asyncio
import json
from types import SimpleNamespace

import http_servers
import pytest
import spoiled_bundles
from releases import some_rows

from ray_pipeline.deploy import tally
from ray_pipeline.deploy.board import Board
from ray_pipeline.deploy.counters import no_counts
from ray_pipeline.deploy.example import statistics
from ray_pipeline.deploy.split import Split
from ray_pipeline.job import Serve, Trial


def split_of(opened, handle=lambda name: None):
    endpoint = http_servers.endpoint(opened, Serve())
    return Split(endpoint.predicted, tally.outcomes_by(statistics(opened).label), handle)


def tried(old, new, settings, share=0.5, copies=False, most=600):
    """The refusal, after how many requests, and the versions that answered, until then."""
    told = {"against": "", "application": "", "share": share, "copies": copies, "within_s": 5}
    there = split_of(new)
    here = split_of(old, lambda name: SimpleNamespace(answered=SimpleNamespace(remote=there.own)))
    board, answers = Board(), []
    board.begin("model", "new", told, 60)

    async def asked():
        trial = board.report("model", "1", no_counts(), 0).trial
        await here.follow(trial)
        rows = some_rows(old)
        for number in range(most):
            body = json.dumps({"rows": [rows[number % len(rows)]]}).encode()
            answers.append(json.loads((await here.answer(body, [])).body)["version"])
            await asyncio.sleep(0)
            board.report("model", "1", no_counts(), 0, here.taken())
            tallies, _ = board.follow("model", 60)
            if refusal := tally.refusal(tallies["old"], tallies["new"], settings):
                return refusal
        return None

    return asyncio.run(asked()), answers


@pytest.mark.parametrize(
    ("how", "settings", "said", "within"),
    [
        ("failing", Trial(max_p99_ratio=None), "answers failed (InvalidArgument: 3)", 100),
        ("turned", Trial(max_p99_ratio=None), "the share of an answer differs by 1", 150),
        ("slow", Trial(max_p99_ratio=None, max_p99_ms=2), "3 answers took", 30),
    ],
)
def test_a_bad_version_is_refused_and_no_request_fails(
    classifier, tmp_path, how, settings, said, within
):
    made = getattr(spoiled_bundles, how)
    bad = spoiled_bundles.version(classifier.bundle, tmp_path / how, how, made)
    refusal, answers = tried(classifier.bundle, bad, settings)
    assert said in refusal.what
    assert len(answers) < within
    assert how in answers or how == "failing"


def test_the_same_model_is_let_through(classifier, tmp_path):
    same = spoiled_bundles.version(classifier.bundle, tmp_path / "same", "same")
    refusal, answers = tried(classifier.bundle, same, Trial(max_p99_ratio=None, max_p99_ms=1000))
    assert refusal is None
    assert 200 < answers.count("same") < 400


def test_copies_show_that_a_version_says_otherwise(classifier, tmp_path):
    bad = spoiled_bundles.version(
        classifier.bundle, tmp_path / "turned", "turned", spoiled_bundles.turned
    )
    settings = Trial(max_p99_ratio=None, max_distance=None, max_differing=0.2)
    refusal, answers = tried(classifier.bundle, bad, settings, share=1, copies=True)
    assert "rows are answered otherwise" in refusal.what
    assert set(answers) == {"v1"}
    assert len(answers) < 30

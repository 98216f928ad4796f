"""Releases that are kept, and which of them is gone back to."""

from __future__ import annotations

import pytest

from ray_pipeline.deploy import history
from ray_pipeline.errors import UsageError


def entries(*told: str) -> list[history.Entry]:
    """From texts such as `deploy a`, in that order."""
    made = []
    for second, text in enumerate(told):
        action, version = text.split()
        made.append(
            {
                "action": action,
                "name": "model",
                "version": version,
                "bundle": f"/bundles/{version}",
                "digest": f"digest of {version}",
                "since": f"2026-01-01T00:00:{second:02d}+00:00",
                "by": "ada",
                "why": "",
                "settings": "{}",
            }
        )
    return made


@pytest.mark.parametrize(
    ("told", "back_to"),
    [
        (["deploy a", "deploy b"], "a"),
        (["deploy a", "deploy b", "deploy c"], "b"),
        (["deploy a", "deploy b", "refused c"], "a"),
        (["deploy a", "deploy b", "deploy c", "rollback b"], "a"),
        (["deploy a", "deploy b", "rollback a", "deploy c"], "a"),
        (["deploy a", "deploy b", "rollback a", "deploy b"], "a"),
        (["deploy a", "deploy b", "deploy c", "rollback a", "deploy d"], "a"),
        (["deploy a", "deploy b", "remove b"], "b"),
        (["deploy a", "deploy b", "remove b", "rollback b"], "a"),
        (["deploy a", "remove a", "deploy b"], "a"),
    ],
)
def test_back_is_to_what_was_live_before(told, back_to):
    assert history.before(entries(*told), "model")["version"] == back_to


@pytest.mark.parametrize("told", [[], ["deploy a"], ["deploy a", "deploy b", "rollback a"]])
def test_there_is_nothing_before_the_first(told):
    with pytest.raises(UsageError, match="no release to go back to"):
        history.before(entries(*told), "model")


def test_a_version_that_was_live_is_found_by_its_name():
    told = entries("deploy a", "deploy b", "deploy c", "refused d", "remove c")
    assert history.before(told, "model", "a")["version"] == "a"
    with pytest.raises(UsageError, match=r"(?s)d was never live.*one of a, b, c"):
        history.before(told, "model", "d")


def test_what_is_kept_is_read_again_in_its_order(tmp_path):
    told = entries("deploy a", "deploy b", "rollback a")
    for entry in told:
        history.write(str(tmp_path), entry)
    assert history.read(str(tmp_path), "model") == told
    assert history.read(str(tmp_path), "other") == []
    assert history.joined(told[:2], told[1:]) == told

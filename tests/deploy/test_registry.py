"""MLflow's registry follows what is live: a real registry, in a database of the storage."""

from __future__ import annotations

import pytest

from ray_pipeline import registered, tracking
from ray_pipeline.deploy import registry


@pytest.fixture
def storage(tmp_path, told_to_mlflow):
    return tmp_path / "storage"


def entry(storage, version):
    return {
        "action": "rollback",
        "name": "model",
        "version": version,
        "bundle": str(storage / "income" / "bundles" / version),
        "digest": "d",
        "since": "2026-01-01T00:00:00+00:00",
        "by": "ada",
        "why": "they complain",
        "settings": "{}",
    }


def test_the_alias_is_moved_and_says_who_when_and_why(storage):
    from mlflow import MlflowClient

    storage.mkdir()
    client = MlflowClient(tracking.tracking_uri(str(storage)))
    client.create_registered_model("income")
    for version in ("one", "two"):
        source = str(storage / "income" / "bundles" / version)
        made = client.create_model_version("income", source, tags={"bundle": version})
        client.set_registered_model_alias("income", registered.ALIAS, made.version)
    assert registry.told(entry(storage, "one")) == "1"
    champion = client.get_model_version_by_alias("income", registered.ALIAS)
    assert str(champion.version) == "1"
    assert champion.tags["ray_pipeline.by"] == "ada"
    assert champion.tags["ray_pipeline.why"] == "they complain"
    assert registry.told(entry(storage, "three")) is None


def test_no_registry_is_made_for_it(storage):
    assert registry.told(entry(storage, "one")) is None
    assert not storage.exists()

"""What MLflow has of a job's bundles: each is a version of its model, and one is live."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from upath import UPath

from ray_pipeline import tracked

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

ALIAS, CHALLENGER = "champion", "challenger"
"""The model version that is live, and the newest that a run has made and that is not."""
ENDPOINT_TAG = "ray_pipeline.endpoint"
"""Of a version that an endpoint has had."""


def version(client: MlflowClient, run: Run, record: Mapping[str, Any], bundle: UPath) -> str:
    """The number of the model version that is this bundle: the champion, or a challenger if an
    endpoint has another."""
    from mlflow.exceptions import MlflowException

    name, known = record["job"]["name"], bundle.name
    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    found = client.search_model_versions(f"name = '{name}' and tags.bundle = '{known}'")
    if found:
        number = found[0].version
    else:
        manifest = json.loads((bundle / "manifest.json").read_text(encoding="utf-8"))
        tags = {"bundle": known, **tracked.of_model(manifest, record["run"])}
        source = _source(client, run, bundle)
        number = client.create_model_version(name, source, run.info.run_id, tags=tags).version
    if record.get("endpoint"):
        client.set_model_version_tag(name, number, ENDPOINT_TAG, record["endpoint"])
        crowned(client, name, str(number))
    else:
        alias = CHALLENGER if _is_beside(client, name, str(number)) else ALIAS
        client.set_registered_model_alias(name, alias, number)
    return str(number)


def crowned(client: MlflowClient, name: str, number: str) -> None:
    """Point the alias of the champion at a model version, which is a challenger no longer."""
    aliases = client.get_registered_model(name).aliases
    if str(aliases.get(CHALLENGER)) == number:
        client.delete_registered_model_alias(name, CHALLENGER)
    client.set_registered_model_alias(name, ALIAS, number)


def _is_beside(client: MlflowClient, name: str, number: str) -> bool:
    """Whether an endpoint has another version than this one."""
    champion = client.get_registered_model(name).aliases.get(ALIAS)
    if champion is None or str(champion) == number:
        return False
    return ENDPOINT_TAG in client.get_model_version(name, str(champion)).tags


def _source(client: MlflowClient, run: Run, bundle: UPath) -> str:
    """Where MLflow reads the bundle from: where it lies, or the server's copy of it.

    A tracking server refuses, rightly, to be pointed at files on its clients' disks.
    """
    if "://" in str(bundle) or not str(client.tracking_uri).startswith("http"):
        return str(bundle)
    client.log_artifacts(run.info.run_id, str(bundle), "bundle")
    return f"{run.info.artifact_uri}/bundle"

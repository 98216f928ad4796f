"""What MLflow's registry says of a release: the alias of the version that is live, who, when, why.

The pipeline registers each bundle (tracking.py); what is done by hand afterwards is told here.
"""

from __future__ import annotations

import logging
from pathlib import Path

from upath import UPath

from ray_pipeline import audit, registered, tracking
from ray_pipeline.deploy.history import Entry

_LOGGER = logging.getLogger(__name__)


def told(entry: Entry) -> str | None:
    """Point the alias at the model version that is the entry's bundle; that version.

    None where no registry knows the bundle. An outage is warned of: the release stands without.
    """
    storage = audit.storage_of(entry["bundle"])
    uri = tracking.tracking_uri(storage)
    if uri is None or (uri.startswith("sqlite:///") and not _is_there(uri)):
        return None
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    bundle = UPath(entry["bundle"])
    model = bundle.parent.parent.name
    try:
        client = MlflowClient(uri)
        found = client.search_model_versions(f"name = '{model}' and tags.bundle = '{bundle.name}'")
        if not found:
            return None
        version = str(found[0].version)
        registered.crowned(client, model, version)
        client.set_model_version_tag(model, version, registered.ENDPOINT_TAG, entry["name"])
        for key in ("action", "since", "by", "why"):
            client.set_model_version_tag(model, version, f"ray_pipeline.{key}", str(entry[key]))
    except (MlflowException, SQLAlchemyError, OSError) as error:
        _LOGGER.warning("MLflow was not told of the release: %s", str(error).splitlines()[0])
        return None
    return version


def _is_there(uri: str) -> bool:
    return Path(uri.removeprefix("sqlite:///")).exists()

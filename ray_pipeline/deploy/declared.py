"""Applications that Ray Serve builds by itself from a configuration, as KubeRay hands it over.

    import_path: ray_pipeline.deploy.declared:model
    args: {name: income, bundle: s3://…/bundles/ab12, serve: {…}}

How many replicas there are, and what each needs, stands beside it in the configuration.
"""

from __future__ import annotations

import os
from typing import Any

import ray
from ray import serve

from ray_pipeline import bundle
from ray_pipeline.deploy import keyring, release, runtime
from ray_pipeline.deploy.board import board
from ray_pipeline.deploy.front import FrontReplica
from ray_pipeline.deploy.replica import Replica
from ray_pipeline.errors import JobError
from ray_pipeline.job import Serve

KEY = "RAY_PIPELINE_KEY"
"""The variable with the key that opens the endpoint; only its hash goes to replicas."""


def model(arguments: dict[str, Any]) -> serve.Application:
    """The endpoint of one bundle.

    Args:
        arguments: `name`, the endpoint's; `bundle`, its folder or URI; `serve`, the settings of
            that section of a job.

    Raises:
        BundleError: the bundle is not whole, or does not predict.
        JobError: the endpoint needs a key, and RAY_PIPELINE_KEY is not set.
    """
    name, path = arguments["name"], arguments["bundle"]
    settings = Serve.model_validate(arguments["serve"])
    opened = bundle.opened(path)
    runtime.check_predicts(opened)
    made = release.described(opened, path, name, settings, _keyring(settings), by="a manifest")
    ray.get(board().released.remote(made))
    deployment = serve.deployment(name="model")(serve.ingress()(Replica))
    return deployment.bind(name, path, settings.model_dump_json(), made["keyring"], made["digest"])


def front(arguments: dict[str, Any]) -> serve.Application:
    """What answers outside the endpoints: health, metrics, the Open Inference Protocol."""
    return serve.deployment(name="front")(serve.ingress()(FrontReplica)).bind()


def _keyring(settings: Serve) -> str | None:
    """The id of the keys that open it, published; None for everybody."""
    if settings.auth == "none":
        return None
    if not (key := os.environ.get(KEY)):
        raise JobError(
            "the endpoint needs a key, and none is set",
            where=KEY,
            expected="the key in that variable of every node, from a Secret",
            hint="`ray-pipeline key` prints one",
        )
    return keyring.publish(key)

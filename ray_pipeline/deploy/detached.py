"""Actors of which a cluster has one, found by their names."""

from __future__ import annotations

from typing import Any

import ray

_NAMESPACE = "ray_pipeline"


def the_only(kind: type[Any], name: str, **options: Any) -> Any:
    """The cluster's actor of that name, made if there is none yet; it outlives who made it."""
    return (
        ray.remote(kind)
        .options(
            name=name,
            namespace=_NAMESPACE,
            lifetime="detached",
            get_if_exists=True,
            num_cpus=0,
            max_restarts=-1,
            **options,
        )
        .remote()
    )

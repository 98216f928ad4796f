"""What the processes of a cluster know together: kept with the head's state, which is in Redis
where the cluster has one, and so outlives the machine of whoever wrote it."""

from __future__ import annotations

from ray.experimental import internal_kv

_NAMESPACE = b"ray_pipeline"


def put(name: str, content: bytes) -> None:
    """Have everybody find `content` under that name from now on."""
    internal_kv._internal_kv_put(name.encode(), content, overwrite=True, namespace=_NAMESPACE)


def get(name: str) -> bytes | None:
    """What was put there last; None if nothing ever was."""
    found: bytes | None = internal_kv._internal_kv_get(name.encode(), namespace=_NAMESPACE)
    return found

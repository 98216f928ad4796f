"""What libraries with their own object-store clients must be told; the rest is in the environment.

They read AWS_ACCESS_KEY_ID and its like by themselves, in each process: no credential passes
through the job file, a record or a log.
"""

from __future__ import annotations

import os


def options() -> dict[str, str] | None:
    """For delta-rs and Lance: plain HTTP, where the endpoint in the environment is."""
    return {"allow_http": "true"} if _endpoint().startswith("http://") else None


def properties() -> dict[str, str]:
    """For PyIceberg, whose S3 client is Arrow's: the endpoint, and the region it would ask for."""
    region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
    said = {"s3.endpoint": _endpoint(), "s3.region": region}
    return {name: value for name, value in said.items() if value}


def _endpoint() -> str:
    return os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL", "")

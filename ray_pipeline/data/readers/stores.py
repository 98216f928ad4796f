"""What libraries with their own object-store clients must be told; the rest is in the environment.

They read AWS_ENDPOINT_URL, AWS_ACCESS_KEY_ID and their like by themselves, in each process: no
credential passes through the job file, a record or a log.
"""

from __future__ import annotations

import os


def options() -> dict[str, str] | None:
    """Options for delta-rs and Lance: plain HTTP, where the endpoint in the environment is."""
    endpoint = os.environ.get("AWS_ENDPOINT_URL", "")
    return {"allow_http": "true"} if endpoint.startswith("http://") else None

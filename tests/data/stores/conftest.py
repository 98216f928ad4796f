"""The session's servers, as URLs for a job file."""

from __future__ import annotations

import os

import pytest
from servers import PASSWORD


@pytest.fixture(scope="session")
def redis_url(redis_server) -> str:
    os.environ["STORES_PASSWORD"] = PASSWORD
    return f"redis://:${{STORES_PASSWORD}}@127.0.0.1:{redis_server.port}/1"


@pytest.fixture(scope="session")
def postgres_url(postgres_server) -> str:
    os.environ["STORES_PASSWORD"] = PASSWORD
    return f"postgresql://postgres:${{STORES_PASSWORD}}@127.0.0.1:{postgres_server.port}/postgres"

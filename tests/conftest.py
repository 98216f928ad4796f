"""One Ray cluster for the whole session: starting one takes seconds."""

from __future__ import annotations

import os
from collections.abc import Iterator

import hypothesis
import pytest

os.environ["RAY_AUTH_MODE"] = "disabled"

# A busy machine is slow, not wrong.
hypothesis.settings.register_profile("unhurried", deadline=None)
hypothesis.settings.load_profile("unhurried")


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[None]:
    import ray

    ray.init(
        address="local",
        num_cpus=4,
        include_dashboard=False,
        log_to_driver=False,
        configure_logging=False,
    )
    yield
    ray.shutdown()

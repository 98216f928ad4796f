"""One Ray cluster for the whole session: starting one takes seconds. And in what order and
company files are tested, which is for `pytest -n 2 --dist loadgroup` (see the Makefile)."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from typing import TYPE_CHECKING

import hypothesis
import pytest

if TYPE_CHECKING:
    from ray.cluster_utils import Cluster

os.environ["RAY_AUTH_MODE"] = "disabled"
# Small networks gain nothing by a second thread, and two test processes share the cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# A busy machine is slow, not wrong.
hypothesis.settings.register_profile("unhurried", deadline=None)
hypothesis.settings.load_profile("unhurried")

SERVERS = ("tests/data/stores/", "tests/data/privacy/test_stored_people.py")
"""Files that use the same database servers, which are then started once."""
FIRST = (
    "tests/test_readme.py",
    "tests/deploy/test_release.py",
)
"""What takes longest: begun last, it would keep one process busy while the other has nothing."""


def group(file: str) -> str:
    """The tests that one process runs, one after the other: a file's, which share its fixtures."""
    return "servers" if file.startswith(SERVERS) else file


def rank(file: str) -> int:
    return FIRST.index(file) if file in FIRST else len(FIRST)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    files = {item: item.path.relative_to(config.rootpath).as_posix() for item in items}
    items.sort(key=lambda item: rank(files[item]))
    for item in items:
        item.add_marker(pytest.mark.xdist_group(group(files[item])))


def stopped_by_sigterm() -> None:
    """Have SIGTERM end the session as Ctrl-C does: fixtures stop the clusters that they started.

    Ray's own handler, set by `ray.init`, would make it a failure of the test that runs.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)


def pytest_sessionstart() -> None:
    stopped_by_sigterm()


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[Cluster]:
    """A machine of 4 CPUs, to which tests may add others and take them away."""
    import ray
    from ray.cluster_utils import Cluster

    head = {
        "num_cpus": 4,
        "object_store_memory": 2**30,
        "include_dashboard": False,
        # A machine that is gone is known to be after five looks; those are 3 seconds apart.
        "_system_config": {"health_check_period_ms": 500},
    }
    cluster = Cluster(initialize_head=True, head_node_args=head)
    ray.init(cluster.address, log_to_driver=False, configure_logging=False)
    stopped_by_sigterm()
    yield cluster
    ray.shutdown()
    cluster.shutdown()

"""One Ray cluster for the whole session: starting one takes seconds. And in what order and
company files are tested, which is for `pytest -n 2` (see the Makefile)."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import tempfile
from collections.abc import Iterator
from typing import TYPE_CHECKING

import hypothesis
import psutil
import pytest

if TYPE_CHECKING:
    from ray.cluster_utils import Cluster
    from sites import Site

os.environ["RAY_AUTH_MODE"] = "disabled"
# Small networks gain nothing by a second thread, and two test processes share the cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# Ray's workers let every other program of the machine go first, such as the other test process.
os.environ.setdefault("RAY_worker_niceness", "0")
# Ray's agent on each node looks at all of its processes, by default every 5 seconds.
os.environ.setdefault("REPORTER_UPDATE_INTERVAL_MS", "60000")
# MLflow's import and the making of its database take five seconds of a core for each run; tests of
# it set this back.
os.environ.setdefault("RAY_PIPELINE_MLFLOW", "off")
# As `cluster.connect` has it. The thread that Ray Data would start parses code to show its errors;
# Python 3.11 does that in one thread at a time only, and tests do it too.
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

MARK = "TESTED_BY"
"""A variable whose value tells the processes of one session of tests from all others."""

SITE = pytest.StashKey["Site"]()
"""The cluster that serves, once it was started."""

# A busy machine is slow, not wrong.
hypothesis.settings.register_profile("unhurried", deadline=None)
hypothesis.settings.load_profile("unhurried")

SERVING = (
    *("tests/deploy/test_release.py", "tests/deploy/test_site_security.py"),
    *("tests/deploy/test_release_trial.py", "tests/deploy/test_release_changes.py"),
    *("tests/deploy/test_autoscaling.py", "tests/deploy/test_release_failures.py"),
    *("tests/test_images_job.py", "tests/test_online_job.py", "tests/deploy/test_together.py"),
    *("tests/test_watch_job.py", "tests/deploy/test_monitoring.py"),
    *("tests/deploy/test_ui.py", "tests/test_chat_job.py", "tests/chat/test_chat_apart.py"),
    "tests/chat/test_chat_vllm.py",
    *("tests/chat/test_chat_load.py", "tests/chat/test_chat_store_job.py"),
)
"""Files that use the same cluster that serves. The first expects no other endpoint on it."""
BUNDLES = ("tests/deploy/",)
"""Files that use the same small bundles."""
SERVERS = ("tests/data/stores/", "tests/data/privacy/test_stored_people.py")
"""Files that use the same database servers, which are then started once."""
WORKERS = ("tests/model/test_strategy", "tests/model/test_language.", "tests/model/test_embedding.")
"""Files whose workers are forked from the same process, which has imported what is slow to."""
FIRST = ("tests/test_readme.py", *SERVING, *BUNDLES)
"""What takes longest: begun last, it would keep one process busy while the other has nothing."""


def group(file: str) -> str:
    """The tests that one process runs, one after the other: a file's, which share its fixtures."""
    together = {"serving": SERVING, "bundles": BUNDLES, "servers": SERVERS, "workers": WORKERS}
    return next((name for name, files in together.items() if file.startswith(files)), file)


def group_of(item: pytest.Item) -> str:
    return group(item.nodeid.partition("::")[0])


def rank(file: str) -> int:
    return next((at for at, name in enumerate(FIRST) if file.startswith(name)), len(FIRST))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: rank(item.nodeid.partition("::")[0]))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> object:
    """Hands groups of files to processes; `loadgroup` of pytest-xdist 3.8 does nothing on pytest
    9.2."""
    from xdist.scheduler import LoadScopeScheduling

    class ByGroup(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return group(nodeid.partition("::")[0])

    return ByGroup(config, log)


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    """Stop the cluster that serves after the last test that uses it: its endpoints, idle, take a
    tenth of the machine."""
    made = item.session.stash.get(SITE, None)
    if made and nextitem and group_of(item) == "serving" != group_of(nextitem):
        made.down()


def stopped_by_sigterm() -> None:
    """Have SIGTERM end the session as Ctrl-C does: fixtures stop the clusters that they started.

    Ray's own handler, set by `ray.init`, would make it a failure of the test that runs.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)


def pytest_configure(config: pytest.Config) -> None:
    stopped_by_sigterm()
    if number := os.environ.get("PYTEST_XDIST_WORKER", "").removeprefix("gw"):
        # Ports that are found free and not taken yet may not be another process' as well.
        each = 10_000 // int(os.environ["PYTEST_XDIST_WORKER_COUNT"])
        first = 20_000 + each * int(number)
        os.environ["RAY_PIPELINE_PORTS"] = f"{first}-{first + each - 1}"
    if not hasattr(config, "workerinput"):
        os.environ[MARK] = secrets.token_hex(8)
        # Of all processes: what one has made of an encoder, others need not make again.
        os.environ["XDG_CACHE_HOME"] = tempfile.mkdtemp(prefix="cache")


def pytest_unconfigure(config: pytest.Config) -> None:
    """End what is left of this session's servers and clusters, HAProxy included: a process that
    crashed, or was not given the time, has not stopped those that it started."""
    if hasattr(config, "workerinput"):
        return
    shutil.rmtree(os.environ["XDG_CACHE_HOME"], ignore_errors=True)
    while left := [process for process in psutil.process_iter() if is_of_this_session(process)]:
        for process in left:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(left, timeout=1)


def is_of_this_session(process: psutil.Process) -> bool:
    try:
        ours = process.environ().get(MARK) == os.environ[MARK]
        return ours and process.pid != os.getpid() and process.status() != psutil.STATUS_ZOMBIE
    except (psutil.Error, OSError):
        return False


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[Cluster]:
    """A machine of 4 CPUs, to which tests may add others and take them away."""
    import ray
    from ray.cluster_utils import Cluster

    head = {
        "num_cpus": 4,
        "object_store_memory": 2**30,
        "include_dashboard": False,
        "include_log_monitor": False,
        # A machine that is gone is known to be after five looks; those are 3 seconds apart.
        "_system_config": {"health_check_period_ms": 500},
    }
    cluster = Cluster(initialize_head=True, head_node_args=head)
    ray.init(cluster.address, log_to_driver=False, configure_logging=False)
    stopped_by_sigterm()
    yield cluster
    ray.shutdown()
    cluster.shutdown()


@pytest.fixture(scope="session")
def site(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Site]:
    """A cluster that serves, with room for the endpoints of all tests and for jobs beside them."""
    from sites import Site

    made = Site(tmp_path_factory.mktemp("site"))
    made.up()
    request.session.stash[SITE] = made
    yield made
    made.down()


@pytest.fixture(scope="module")
def told_to_mlflow() -> Iterator[None]:
    """MLflow is told of runs, in their storage."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("RAY_PIPELINE_MLFLOW", "MLFLOW_TRACKING_URI"):
            patch.delenv(name, raising=False)
        yield

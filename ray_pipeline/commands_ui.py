"""What the command `ui` does: serve the operator's page until it is stopped."""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Callable, Mapping

from ray_pipeline.commands import printed


def ui(options: argparse.Namespace) -> None:
    """Serve a page with endpoints, traffic, drift, runs and decisions, to roll back and promote.

    Who signs in needs a key with the scope `admin`; `ray-pipeline key` prints yours.
    """
    import uvicorn

    from ray_pipeline.deploy import ports
    from ray_pipeline.errors import UsageError
    from ray_pipeline.ui.app import Operator
    from ray_pipeline.ui.state import State

    if not ports.is_free(options.port, options.host):
        raise UsageError(
            f"port {options.port} is taken by {ports.owner(options.port)}",
            where="--port",
            expected="a free one",
        )
    _connected()
    app = Operator(State(options.storage), options.port, _approving(options.job))
    url = f"http://{options.host}:{options.port}/"
    told = [url, "sign in with what `ray-pipeline key` prints; Ctrl-C ends it"]
    printed({"ui": url}, told, options.json)
    sys.stdout.flush()
    # Ray has handlers of its own, which end the process at once; uvicorn ends it well, and then
    # raises again what it was told.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)
    uvicorn.run(
        app, host=options.host, port=options.port, log_level="warning", server_header=False
    )  # fmt: skip


def _connected() -> None:
    """Connect to the cluster, if there is one; without, there are the runs."""
    from ray_pipeline import cluster
    from ray_pipeline.errors import ClusterError

    try:
        cluster.connect(start=False)
    except ClusterError as error:
        print(f"without a cluster: {error.what}", file=sys.stderr)


def _approving(paths: list[str]) -> Mapping[str, Callable[[], str]]:
    """By job name, what releases the challenger of one of these job files that waits."""
    from ray_pipeline import jobfile
    from ray_pipeline.commands_watch import watching_of
    from ray_pipeline.errors import UsageError
    from ray_pipeline.job import Job

    def release(job: Job) -> str:
        decision = watching_of(job).promoted()
        if decision is None:
            raise UsageError("no challenger waits", where=job.name)
        return f"{decision['outcome']}: {decision.get('verdict', decision['why'][0])}"

    jobs = [jobfile.read(path) for path in paths]
    return {job.name: lambda job=job: release(job) for job in jobs}  # type: ignore[misc]

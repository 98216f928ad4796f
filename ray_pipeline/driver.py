"""What a submitted job runs on the cluster: `run` or `watch --once`, watched over, and started
again if it is killed.

    python -m ray_pipeline.driver job.yaml [--set A.B=VALUE] [--until STAGE | --watch]

A driver that the system ends (out of memory, most often) leaves its run as it was, and the next
one goes on from the last stage that was stored. A run that fails by itself is not tried again: it
would fail again. Where the whole machine is lost, `submit --follow` submits again.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Any

from ray_pipeline import jobfile, payload
from ray_pipeline.errors import PipelineError, UsageError

RESTARTS = 3
"""How often a driver that was killed is started again."""
_PAUSE_S = 1.0
"""Before the first restart; twice as long before each next one."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the job until it has ended by itself, and return the exit status of the command."""
    parser = argparse.ArgumentParser(prog="ray_pipeline.driver")
    parser.add_argument("job")
    parser.add_argument("--set", action="append", default=[])
    parser.add_argument("--until")
    parser.add_argument("--watch", action="store_true")
    options = parser.parse_args(arguments)
    try:
        check_secrets(payload.secrets(jobfile.read(options.job, options.set)))
    except PipelineError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return kept_alive([sys.executable, "-m", "ray_pipeline.cli", *words(options)])


def words(options: argparse.Namespace) -> list[str]:
    """The command of the command line that is run."""
    verb = ["watch", options.job, "--once"] if options.watch else ["run", options.job]
    until = [f"--until={options.until}"] if options.until else []
    return [*verb, "--json", *(f"--set={override}" for override in options.set), *until]


def check_secrets(names: Sequence[str]) -> None:
    """Raise UsageError if an environment variable that the job names is not set here."""
    if missing := [name for name in names if name not in os.environ]:
        raise UsageError(
            f"the job names {', '.join(missing)}, which this node's environment does not have",
            expected="variables that are set before Ray starts, on every node",
            hint="a line in ~/.ray_pipeline/secrets.env of the nodes, or a Secret on Kubernetes",
        )


def kept_alive(command: Sequence[str], restarts: int = RESTARTS, pause_s: float = _PAUSE_S) -> int:
    """The exit status of `command`, which is started again when a signal ended it.

    A SIGTERM to this process is handed on, and ends both.
    """
    stopped = False

    def stop(*_: Any) -> None:
        nonlocal stopped
        stopped = True
        child.terminate()

    for attempt in range(restarts + 1):
        child = subprocess.Popen(command)  # noqa: S603 - our own arguments
        signal.signal(signal.SIGTERM, stop)
        code = child.wait()
        if code >= 0 or stopped:
            return code if code >= 0 else 128 - code
        name = signal.Signals(-code).name
        if attempt < restarts:
            print(
                f"{name} ended the driver; it goes on from the last stage that is stored "
                f"({attempt + 1} of {restarts})",
                file=sys.stderr,
                flush=True,
            )
            time.sleep(pause_s * 2**attempt)
    print(f"error: {name} ended the driver {restarts + 1} times", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())

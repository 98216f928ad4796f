"""A job on a cluster, through Ray's Jobs API: submitted once, followed, looked at, stopped.

The same job has the same submission: its name is the digest of all that is uploaded. One that
runs, or is done, is found again; after one that failed or was stopped a next attempt is made,
which goes on from the stages that are stored.
"""

from __future__ import annotations

import ipaddress
import json
import logging
import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from ray_pipeline.errors import ClusterError, UsageError
from ray_pipeline.payload import Payload

if TYPE_CHECKING:
    from ray.dashboard.modules.job.pydantic_models import JobDetails
    from ray.job_submission import JobSubmissionClient

ATTEMPTS = 3
"""How often a followed submission is made again because the cluster lost it."""
PATIENCE_S = 600.0
"""For so long a lost connection is sought again."""
_ENDED = {"SUCCEEDED", "FAILED", "STOPPED"}
_LOST = {"JOB_SUPERVISOR_ACTOR_DIED", "JOB_SUPERVISOR_ACTOR_UNKNOWN_FAILURE"}
_TIMEOUT_S = 60


def client(
    address: str, *, token: str | None = None, insecure: bool = False
) -> JobSubmissionClient:
    """A client of the Jobs API at `address`, such as http://127.0.0.1:8265.

    Args:
        token: shows who calls; the one that Ray would find here if not given.
        insecure: send the token unencrypted to another machine.

    Raises:
        UsageError: the token would be sent unencrypted.
        ClusterError: nothing answers there, or the token is wrong.
    """
    from ray.job_submission import JobSubmissionClient

    for name in ("dashboard.modules.dashboard_sdk", "_private.runtime_env.packaging"):
        logging.getLogger(f"ray.{name}").setLevel(logging.WARNING)  # of uploads that go well

    class Timed(JobSubmissionClient):
        """Ray's client, which by itself waits for a dead connection without end."""

        def _do_request(self, method: str, endpoint: str, **more: Any) -> Any:
            return super()._do_request(method, endpoint, timeout=_TIMEOUT_S, **more)

    address = address if "://" in address else f"http://{address}"
    token = _token() if token is None else token
    if token and not insecure and not _is_private(address):
        raise UsageError(
            "the cluster's token would be sent unencrypted",
            where=address,
            expected="https://, or a tunnel's end on this machine",
            hint="`ray dashboard cluster.yaml` or `kubectl port-forward` makes a tunnel; "
            "--insecure sends it nevertheless",
        )
    headers = {"Authorization": f"Bearer {token}"} if token else None
    with _answering(address), _without("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS"):
        return Timed(address, headers=headers)


def submitted(at: JobSubmissionClient, payload: Payload) -> JobDetails:
    """The submission of this payload that runs or is done, or else a new attempt; of what is to be
    done again, the one that runs.

    Raises:
        ClusterError: the cluster cannot be reached, or does not take it.
    """
    with _answering(at.get_address()):
        known = attempts(at, payload.id)
        over = _ENDED if payload.again else _ENDED - {"SUCCEEDED"}
        if known and known[-1].status not in over:
            return known[-1]
        name = f"{payload.id}-{len(known) + 1}" if known else payload.id
        try:
            at.submit_job(
                entrypoint=payload.command,
                submission_id=name,
                runtime_env={"working_dir": str(payload.folder)},
                metadata={"job": payload.job.name, "variables": ", ".join(payload.secrets)},
            )
        except (RuntimeError, OSError):
            # Another command was first; or this one was heard, and the answer lost.
            if name not in [details.submission_id for details in attempts(at, payload.id)]:
                raise
        return at.get_job_info(name)


def attempts(at: JobSubmissionClient, name: str) -> list[JobDetails]:
    """The submissions of one payload, oldest first."""
    whole = re.compile(re.escape(name) + r"(?:-(\d+))?")
    found = [(whole.fullmatch(d.submission_id or ""), d) for d in at.list_jobs()]
    numbered = [(int(match[1] or 1), details) for match, details in found if match]
    return [details for _, details in sorted(numbered, key=lambda pair: pair[0])]


def listed(at: JobSubmissionClient) -> list[JobDetails]:
    """All submissions that the cluster knows, newest first."""
    with _answering(at.get_address()):
        found = [details for details in at.list_jobs() if details.submission_id]
    return sorted(found, key=lambda details: details.start_time or 0, reverse=True)


def found(at: JobSubmissionClient, name: str) -> JobDetails:
    """The newest submission whose name is, or begins with, `name`.

    Raises:
        UsageError: there is none.
    """
    known = listed(at)
    matching = [details for details in known if str(details.submission_id).startswith(name)]
    if not matching:
        raise UsageError(
            f"no submission is called `{name}`",
            where=at.get_address(),
            expected="one of " + (", ".join(str(d.submission_id) for d in known[:5]) or "none yet"),
            hint="`ray-pipeline status` lists them",
        )
    return next((d for d in matching if d.submission_id == name), matching[0])


def logs(at: JobSubmissionClient, name: str) -> str:
    """What the submission's driver has printed so far."""
    with _answering(at.get_address()):
        return at.get_job_logs(name)


def followed(
    at: JobSubmissionClient,
    name: str,
    write: Callable[[str], object],
    *,
    patience_s: float = PATIENCE_S,
) -> JobDetails:
    """What became of a submission, once it has ended; `write` is handed what it prints meanwhile.

    A connection that is lost is sought again; nothing is written twice.

    Raises:
        ClusterError: the cluster has not answered for `patience_s` seconds, or does not know the
            submission any more.
    """
    written, heard = 0, time.monotonic()
    while True:
        try:
            details = at.get_job_info(name)  # before the logs, which are then whole if it has ended
            text = _printed(at, details)
        except (RuntimeError, OSError) as error:
            _check_known(error, name)
            if time.monotonic() - heard > patience_s:
                raise ClusterError(
                    f"no answer for {patience_s:.0f} s: {str(error).splitlines()[0]}",
                    where=at.get_address(),
                    hint="the job goes on without being watched; `ray-pipeline logs --follow` "
                    "watches it again",
                ) from error
            time.sleep(1)
            continue
        heard = time.monotonic()
        if len(text) > written:
            write(text[written:])
            written = len(text)
        if details.status in _ENDED:
            return details
        time.sleep(1 + len(text) / 1e6)  # the API sends all of it each time


def was_lost(details: JobDetails) -> bool:
    """Whether a submission failed because the machine was lost that its driver was on."""
    return details.status == "FAILED" and details.error_type in _LOST


def exit_code(details: JobDetails) -> int:
    """The exit status of the command `run`, had it run here: 1 where there was none."""
    if details.status == "SUCCEEDED":
        return 0
    return {2: 2, 3: 3}.get(details.driver_exit_code or 0, 1)


def stopped(at: JobSubmissionClient, name: str, within_s: float = 30) -> JobDetails:
    """The submission once it has been stopped, or had ended.

    Raises:
        ClusterError: it has not ended within `within_s` seconds.
    """
    with _answering(at.get_address()):
        at.stop_job(name)
        until = time.monotonic() + within_s
        while (details := at.get_job_info(name)).status not in _ENDED:
            if time.monotonic() > until:
                raise ClusterError(f"`{name}` does not stop", where=at.get_address())
            time.sleep(0.2)
        return details


def result(text: str) -> dict[str, Any] | None:
    """What `run --json` told at the end of a driver's log; None if it did not come to that."""
    for line in reversed(text.splitlines()):
        if line.startswith('{"run"'):
            told: dict[str, Any] = json.loads(line)
            return told
    return None


def _printed(at: JobSubmissionClient, details: JobDetails) -> str:
    """What the driver has printed; of one that has ended, nothing if its machine is gone."""
    try:
        return at.get_job_logs(str(details.submission_id))
    except RuntimeError:
        if details.status in _ENDED:
            return ""
        raise


def _token() -> str | None:
    """Ray's token, from where Ray has it."""
    if os.environ.get("RAY_AUTH_MODE") == "disabled":
        return None
    if text := os.environ.get("RAY_AUTH_TOKEN"):
        return text
    path = os.environ.get("RAY_AUTH_TOKEN_PATH") or Path.home() / ".ray" / "auth_token"
    return Path(path).read_text(encoding="utf-8").strip() if Path(path).is_file() else None


def _is_private(address: str) -> bool:
    """Whether nobody on the way to the address can read along."""
    url = urlsplit(address)
    if url.scheme == "https" or url.hostname == "localhost":
        return True
    try:
        return ipaddress.ip_address(url.hostname or "").is_loopback
    except ValueError:
        return False


def _check_known(error: Exception, name: str) -> None:
    if "status code 404" in str(error):
        raise ClusterError(
            f"the cluster does not know `{name}` any more",
            hint="it was started anew; submit the same again, and it goes on from what is stored",
        ) from error


@contextmanager
def _answering(address: str) -> Iterator[None]:
    """Raises ClusterError where Ray's client says in its own ways that nothing is to be had."""
    from ray.exceptions import AuthenticationError

    try:
        yield
    except AuthenticationError as error:
        raise ClusterError(
            str(error).splitlines()[0],
            where=address,
            expected="the cluster's token",
            hint="put it into ~/.ray/auth_token; on the head, `ray get-auth-token` prints it",
        ) from error
    except (RuntimeError, OSError) as error:
        raise ClusterError(
            f"the Jobs API: {str(error).splitlines()[0]}",
            where=address,
            hint="`ray-pipeline up --jobs` starts one here; `ray dashboard cluster.yaml` makes a "
            "tunnel to a cluster's",
        ) from error


@contextmanager
def _without(*names: str) -> Iterator[None]:
    """These variables unset: Ray's client would take their address, not the one that it is told."""
    kept = {name: os.environ.pop(name) for name in names if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(kept)

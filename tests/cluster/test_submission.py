"""Jobs on a real cluster, through the commands: submitted, followed, killed, cut off, stopped."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest
from sites import Site

from ray_pipeline import cluster, payload, submission
from ray_pipeline.errors import ClusterError, UsageError
from ray_pipeline.job import Job

JOB = """
name: {name}
storage: {folder}/storage
data: {{source: {folder}/rows.csv, label: left}}
label: {{functions: {{rule: {{call: "my_votes:votes"}}}}}}
"""
VOTES = """
import pathlib, time
import pyarrow as pa

def votes(rows):
    # As long as the test wants: it takes the file away.
    while pathlib.Path({gate!r}).exists():
        time.sleep(0.1)
    return pa.array([["yes", "no"][int(x) % 2] for x in rows["x"].to_pylist()])
"""


class Shop:
    """A job of a test's own, and the commands about it."""

    def __init__(self, jobs, folder: Path, name: str) -> None:
        self.jobs, self.folder, self.name = jobs, folder, name
        self.file, self.gate = folder / "job.yaml", folder / "gate"
        self.file.write_text(JOB.format(name=name, folder=folder))
        rows = [f"{i},{i % 7}" for i in range(60)]
        (folder / "rows.csv").write_text("\n".join(["x,y", *rows]) + "\n")
        (folder / "my_votes.py").write_text(VOTES.format(gate=str(self.gate)))
        python = f"{folder}:{jobs.environment['PYTHONPATH']}"
        self.environment = {**jobs.environment, "PYTHONPATH": python}

    def begun(self, *arguments: str, address: str | None = None) -> subprocess.Popen[str]:
        command = [sys.executable, "-W", "ignore", "-m", "ray_pipeline.cli", *arguments]
        environment = dict(self.environment)
        if address:
            command += ["--address", address]
            environment["RAY_AUTH_TOKEN"] = self.jobs.token
        return subprocess.Popen(
            command,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def submit(self, *arguments: str, **more) -> subprocess.Popen[str]:
        return self.begun(
            "submit", str(self.file), "--until", "label", "--json", *arguments, **more
        )

    def runs(self) -> list[dict]:
        found = sorted(self.folder.glob("storage/*/runs/*/run.json"))
        return [json.loads(path.read_text()) for path in found]

    def driver(self) -> psutil.Process:
        """The process that runs the job on the cluster, once it is at the stage `label`."""
        until = time.monotonic() + 90
        while time.monotonic() < until:
            if list(self.folder.glob("storage/*/stages/label-*")):
                for process in psutil.process_iter():
                    with contextlib.suppress(psutil.Error, OSError):
                        line = process.cmdline()
                        if "ray_pipeline.cli" in line and "run" in line and self.is_ours(process):
                            return process
            time.sleep(0.1)
        raise AssertionError("the driver did not come to the stage")

    def is_ours(self, process: psutil.Process) -> bool:
        return (Path(process.cwd()) / "job.yaml").read_text() == self.file.read_text()


def ended(command: subprocess.Popen[str], code: int = 0, seconds: float = 240) -> tuple[dict, str]:
    """What a command printed: its JSON, and its stderr."""
    out, told = command.communicate(timeout=seconds)
    assert command.returncode == code, told + out
    return json.loads(out.splitlines()[-1]) if out.strip() else {}, told


@pytest.fixture
def shop(jobs, tmp_path, request):
    return Shop(jobs, tmp_path, request.node.name.split("[")[0][5:45])


def test_a_job_is_run_once_however_often_it_is_submitted(shop):
    result, told = ended(shop.submit("--follow"))
    assert result["status"] == "succeeded"
    assert [stage["name"] for stage in result["stages"]] == ["clean", "label"]
    assert "clean" in told, "its progress is shown"
    (run,) = shop.runs()
    assert run["run"] == result["run"]
    assert run["status"] == "done"

    again, _ = ended(shop.submit())
    assert again["submission"] == result["submission"]
    assert len(shop.runs()) == 1
    listed, _ = ended(shop.begun("status", "--json"))
    assert [one["submission"] for one in listed["submissions"]].count(result["submission"]) == 1
    log = shop.begun("logs", result["submission"])
    out, _ = log.communicate(timeout=60)
    assert submission.result(out)["run"] == run["run"]


def test_a_killed_driver_goes_on_as_the_same_run(shop):
    shop.gate.touch()
    following = shop.submit("--follow")
    driver = shop.driver()
    (before,) = shop.runs()
    driver.kill()
    shop.gate.unlink()
    result, told = ended(following)
    assert "SIGKILL ended the driver; it goes on" in told
    (after,) = shop.runs()
    assert after["run"] == before["run"] == result["run"]
    assert after["status"] == "done"
    assert after["resumed"] == 1
    assert [stage["cached"] for stage in after["stages"]] == [True, False]


def test_it_is_stopped_and_goes_on_when_it_is_submitted_again(shop):
    shop.gate.touch()
    begun, _ = ended(shop.submit())
    driver = shop.driver()
    told, _ = ended(shop.begun("stop", shop.name, "--json"))
    assert told["status"] == "stopped"
    assert not driver.is_running() or driver.status() == psutil.STATUS_ZOMBIE
    shop.gate.unlink()
    result, _ = ended(shop.submit("--follow"))
    assert result["submission"] == f"{begun['submission']}-2"
    assert [run["run"] for run in shop.runs()] == [result["run"]]
    shown, _ = ended(shop.begun("status", result["submission"], "--json"))
    assert (shown["status"], shown["exit_code"]) == ("succeeded", 0)


def test_a_cluster_that_is_started_beside_gets_no_job_of_this_one(shop, tmp_path_factory):
    beside = Site(tmp_path_factory.mktemp("beside"))
    with beside.at_home(), pytest.MonkeyPatch.context() as patch:
        patch.delenv("RAY_AUTH_MODE")
        cluster.up(cpus=1)
    try:
        result, _ = ended(shop.submit("--follow"))
        assert result["status"] == "succeeded"
    finally:
        beside.down()


def test_a_job_that_is_wrong_ends_as_run_does(shop):
    (shop.folder / "rows.csv").unlink()
    result, told = ended(shop.submit("--follow"), code=2)
    assert result["status"] == "failed"
    assert "no such file" in told


def test_secrets_are_named_and_never_sent(shop):
    text = shop.file.read_text().replace(
        f"source: {shop.folder}/rows.csv",
        "source: {url: 'redis://:${SHOP_PASSWORD}@127.0.0.1:9/0', table: rows}",
    )
    shop.file.write_text(text)
    result, told = ended(shop.submit("--follow"), code=2)
    assert result["variables"] == "SHOP_PASSWORD"
    assert "environment does not have" not in told, "the cluster's nodes have it"
    assert shop.jobs.secret not in told

    shop.file.write_text(text.replace("SHOP_PASSWORD", "SHOP_TOKEN_NOBODY_HAS"))
    shop.environment["SHOP_TOKEN_NOBODY_HAS"] = (
        shop.jobs.secret
    )  # where it is submitted, which is elsewhere
    _, told = ended(shop.submit("--follow"), code=2)
    assert "SHOP_TOKEN_NOBODY_HAS, which this node's environment does not have" in told
    at = submission.client(shop.jobs.record["jobs"], token=shop.jobs.token)
    assert shop.jobs.secret not in "".join(
        details.model_dump_json() for details in submission.listed(at)
    )


class Wire:
    """A way to the cluster that can be cut: a port that leads to another."""

    def __init__(self, to: int) -> None:
        self.to, self.through = to, True
        self.listening = socket.create_server(("127.0.0.1", 0))
        self.port = self.listening.getsockname()[1]
        self.ends: list[socket.socket] = []
        threading.Thread(target=self.serve, daemon=True).start()

    def serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self.listening.accept()
                if not self.through:
                    near.close()
                    continue
                far = socket.create_connection(("127.0.0.1", self.to))
                self.ends += [near, far]
                for pair in ((near, far), (far, near)):
                    threading.Thread(target=self.carry, args=pair, daemon=True).start()

    def carry(self, source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                target.sendall(data)
        target.close()

    def cut(self) -> None:
        self.through = False
        for end in self.ends:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


def test_a_lost_connection_is_found_again(shop):
    shop.gate.touch()
    wire = Wire(int(shop.jobs.record["jobs"].rpartition(":")[2]))
    following = shop.submit("--follow", address=f"http://127.0.0.1:{wire.port}")
    shop.driver()
    wire.cut()
    time.sleep(3)
    assert following.poll() is None
    shop.gate.unlink()
    wire.through = True
    result, told = ended(following)
    assert result["status"] == "succeeded"
    assert told.count("Running entrypoint") == 1, "nothing is shown twice"
    wire.listening.close()


def test_who_has_no_token_is_not_let_in(jobs, monkeypatch):
    for token in ("", "wrong"):
        with pytest.raises(ClusterError) as raised:
            submission.client(jobs.record["jobs"], token=token)
        assert raised.value.expected == "the cluster's token"


def test_a_token_is_not_sent_where_others_read_it():
    for address in ("http://10.0.0.1:8265", "head.example:8265"):
        with pytest.raises(UsageError, match="unencrypted"):
            submission.client(address, token="t")
    with pytest.raises(ClusterError, match="Failed to connect"):
        submission.client("http://127.0.0.1:9", token="t")


def test_another_cluster_in_the_environment_is_not_taken_instead(jobs, monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "http://127.0.0.1:9")
    at = submission.client(jobs.record["jobs"], token=jobs.token)
    assert at.get_address() == jobs.record["jobs"]
    assert os.environ["RAY_ADDRESS"] == "http://127.0.0.1:9"


def test_no_such_submission(jobs):
    at = submission.client(jobs.record["jobs"], token=jobs.token)
    with pytest.raises(UsageError, match="no submission is called `nowhere`"):
        submission.found(at, "nowhere")


def test_what_is_to_be_done_again_is_done_again_once_it_is_done(jobs, tmp_path):
    """As a look of `watch` is; while it goes on it is found."""
    job = Job.model_validate({"name": "again", "data": {"source": "s3://b/x", "label": "y"}})
    folder = tmp_path / "upload"
    folder.mkdir()
    (folder / "job.yaml").touch()
    waits = f"while [ ! -e {tmp_path}/stop ]; do sleep 0.1; done"
    given = payload.Payload(folder, job, (), "digest", waits, again=True)
    at = submission.client(jobs.record["jobs"], token=jobs.token)
    first, found = submission.submitted(at, given), submission.submitted(at, given)
    assert found.submission_id == first.submission_id
    (tmp_path / "stop").touch()
    ended = submission.followed(at, str(first.submission_id), lambda text: None)
    assert ended.status == "SUCCEEDED"
    second = submission.submitted(at, given)
    assert second.submission_id == f"{first.submission_id}-2"
    once = submission.submitted(at, dataclasses.replace(given, again=False))
    assert once.submission_id == second.submission_id, "else what is done is found"

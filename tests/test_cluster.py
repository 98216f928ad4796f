"""A real local cluster: started, found again, and stopped to its last process."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys

import psutil
import pytest

from ray_pipeline import cluster
from ray_pipeline.errors import ClusterError


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("RAY_PIPELINE_HOME", str(tmp_path))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    yield tmp_path
    cluster.down()


def in_a_process(code: str) -> subprocess.CompletedProcess[str]:
    """Run code in a process of its own, as a command does; Ray keeps state in this one."""
    environment = {key: text for key, text in os.environ.items() if key != "RAY_AUTH_MODE"}
    return subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env=environment,
        timeout=60,
        check=False,
    )


CONNECT = """
from ray_pipeline import cluster
cluster.connect()
import ray
@ray.remote(num_cpus=0, lifetime="detached", name="stays")
class Actor:
    def pid(self):
        import os, subprocess
        self.child = subprocess.Popen(["sleep", "600"], start_new_session=False)
        return os.getpid(), self.child.pid
print(*ray.get(Actor.remote().pid.remote()))
"""


def stranger_hears(address: str) -> str:
    """What Ray says first to a process that has no token: a refusal, or `in`."""
    stranger = subprocess.Popen(
        [sys.executable, "-c", f"import ray; ray.init({address!r}); print('in')"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "RAY_AUTH_MODE": "disabled"},
    )
    try:
        return next(
            line for line in stranger.stdout if "InvalidAuthToken" in line or line == "in\n"
        )
    finally:
        stranger.kill()
        stranger.wait()


def living(pids):
    found = []
    for pid in pids:
        if psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
            found.append(pid)
    return found


def test_up_connect_and_down_leaving_nothing(home):
    record = cluster.up(cpus=2)
    assert cluster.up() == record, "a second `up` starts nothing"
    assert json.loads((home / "cluster.json").read_text()) == record
    assert (home / "ray_token").stat().st_mode & 0o077 == 0

    assert "InvalidAuthToken" in stranger_hears(record["address"])
    done = in_a_process(CONNECT)
    assert done.returncode == 0, done.stderr
    actor, child = map(int, done.stdout.split())
    members = [process.pid for process in cluster.processes(record)]
    assert {actor, child} <= set(members)
    assert len(members) >= 5

    bystander = subprocess.Popen(["sleep", "600"], start_new_session=True)
    try:
        assert cluster.down()
        assert living(members) == []
        assert bystander.poll() is None
    finally:
        bystander.kill()
        bystander.wait()
    assert cluster.record() is None
    assert not (home / "cluster.json").exists()
    assert not cluster.down(), "a second `down` has nothing to stop"


def test_a_record_of_a_dead_cluster_is_no_cluster(home):
    ended = subprocess.Popen(["true"], start_new_session=True)
    ended.wait()
    stale = {"pid": ended.pid, "mark": "abc", "address": "127.0.0.1:1", "token": ""}
    (home / "cluster.json").write_text(json.dumps(stale))
    assert cluster.record() is None
    assert not cluster.down()
    assert not (home / "cluster.json").exists()


def test_a_process_that_only_has_the_number_is_left_alone(home):
    other = subprocess.Popen(["sleep", "600"], start_new_session=True)
    try:
        stale = {"pid": other.pid, "mark": "abc", "address": "127.0.0.1:1", "token": ""}
        (home / "cluster.json").write_text(json.dumps(stale))
        assert cluster.record() is None
        assert not cluster.down()
        assert other.poll() is None
    finally:
        other.kill()
        other.wait()


def test_a_cluster_of_another_version_is_named(home):
    mark = "feed"
    environment = {**os.environ, "RAY_PIPELINE_CLUSTER": mark}
    running = subprocess.Popen(["sleep", "600"], start_new_session=True, env=environment)
    try:
        record = {
            "pid": running.pid,
            "mark": mark,
            "address": "127.0.0.1:1",
            "token": "",
            "ray": "1.0.0",
            "python": "3.11.0",
        }
        (home / "cluster.json").write_text(json.dumps(record))
        with pytest.raises(ClusterError, match=r"runs ray 1\.0\.0") as caught:
            cluster.up()
        assert "ray-pipeline down" in caught.value.hint
        assert cluster.down()
        running.wait(5)
    finally:
        running.kill()
        running.wait()


def test_a_taken_port_is_said_to_be_taken_and_by_whom(home):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ClusterError, match=rf"port {port} is taken by .*{os.getpid()}"):
            cluster.up(port=port)
    assert cluster.record() is None


def test_an_unreadable_record_is_an_error_that_names_the_file(home):
    (home / "cluster.json").write_text("{")
    with pytest.raises(ClusterError, match=r"cluster\.json"):
        cluster.record()
    (home / "cluster.json").unlink()


def test_nothing_runs_and_nothing_may_be_started(home):
    done = in_a_process("from ray_pipeline import cluster; cluster.connect(start=False)")
    assert done.returncode == 1
    assert "no local cluster is running" in done.stderr

"""`ray up` of machines of one's own over SSH: a job on three that share no folder, an endpoint that
is called across them, a link that is cut, `ray down`."""

from __future__ import annotations

import json
import time

import hosts
import pytest

PARQUET = "find ~ /var/spill -name '*.parquet'"


def answered(host: hosts.Host, asked: hosts.Host, key: str) -> str:
    told = json.loads(host.run(hosts.question(asked, key)))
    return told["predictions"][0]["label"]


def running(host: hosts.Host) -> str:
    """What the host runs of Ray's, of which what has ended may not be reaped there."""
    return host.run("pgrep --runstates D,R,S --full --list-full '[r]ay|[h]aproxy' || true")


def waited_until_none_runs(machines: list[hosts.Host], seconds: float) -> None:
    until = time.monotonic() + seconds
    while any(left := [running(host) for host in machines]):
        assert time.monotonic() < until, left
        time.sleep(1)


@pytest.mark.timeout(1800)
@pytest.mark.skipif(bool(hosts.refusal()), reason=f"no hosts can be made: {hosts.refusal()}")
def test_a_job_and_its_endpoint_on_machines_of_ones_own(tmp_path):
    with hosts.network(tmp_path, "head", "one", "other") as (laptop, head, one, other):
        hosts.stored(laptop)
        laptop.run("ray get-auth-token --generate")
        laptop.run(f"ray up {hosts.OWN} --yes")
        page = laptop.start(f"ray dashboard {hosts.OWN}")
        hosts.wait(laptop, (head, one, other), 600)
        laptop.run("cat > ~/job.yaml", given=hosts.JOB)
        told = laptop.run(f"ray-pipeline submit ~/job.yaml --address {hosts.PAGE} --follow --json")
        result = json.loads(told.splitlines()[-1])
        assert result["status"] == "succeeded"
        assert result["metrics"]["accuracy"] > 0.8
        for host in (head, one, other):
            assert host.run(PARQUET) == "", "it is in the store alone"

        key = head.run("~/venv/bin/ray-pipeline key").strip()
        assert answered(one, other, key) == answered(other, head, key) == "yes"
        hosts.cut(laptop, other)
        assert [answered(one, head, key) for _ in range(4)] == ["yes"] * 4
        hosts.wait(laptop, (head, one), 300)
        assert [answered(one, head, key) for _ in range(4)] == ["yes"] * 4

        laptop.run("pkill -x ssh")
        page.communicate(timeout=60)
        laptop.run(f"ray down {hosts.OWN} --yes")
        waited_until_none_runs([head, one], 300)

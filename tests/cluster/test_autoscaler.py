"""Ray's autoscaler with the machine types of cluster.yaml: a job makes machines come, from none,
and they go when it is done. Each machine is a raylet of its own on this one."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import httpx
import pytest
import yaml
from nodes import TOKEN, Node, cluster_file, machine
from ray.autoscaler._private.fake_multi_node.node_provider import FAKE_HEAD_NODE_ID
from ray.autoscaler._private.util import prepare_config

from ray_pipeline.deploy.ports import free_ports

HEAD = "ray.head.default"
"""What Ray's provider of machines that are processes calls the head's type."""
JOB = """
name: growing
storage: {folder}/storage
data: {{source: {folder}/rows.csv, label: left}}
train: {{workers: 3, cpus: 1, epochs: 2}}
prices: {{cpu-spot: 0.31}}
"""


def machine_types(address: str) -> dict:
    """cluster.yaml, smaller, for the provider whose machines are processes."""
    told = prepare_config(cluster_file())
    kinds = told["available_node_types"]
    for name, kind in kinds.items():
        kind["node_config"] = {}
        # What Ray makes of a type's name where a machine is started by a command.
        kind["labels"] = {"ray.io/node-group": name}
        if kind["resources"]["CPU"]:
            kind["resources"] |= {"CPU": 2, "object_store_memory": 200_000_000}
    told["provider"] = {
        # Under its own name Ray would read defaults for it that are not in its wheel.
        "type": "external",
        "module": "ray.autoscaler._private.fake_multi_node.node_provider.FakeMultiNodeProvider",
        "gcs_address": address,
        "use_node_id_as_ip": True,
        "disable_node_updaters": True,
        "disable_launch_config_check": True,
        "launch_multiple": True,
        "head_node_id": FAKE_HEAD_NODE_ID,
    }
    kinds[HEAD] = kinds.pop("head") | {"max_workers": 0}
    return told | {"head_node_type": HEAD, "idle_timeout_minutes": 0.2, "file_mounts": {}}


@pytest.fixture
def head():
    variables = {
        "RAY_FAKE_CLUSTER": "1",
        # As `ray up` has it.
        "RAY_enable_autoscaler_v2": "1",
        "RAY_CLOUD_INSTANCE_ID": FAKE_HEAD_NODE_ID,
        "RAY_OVERRIDE_NODE_ID_FOR_TESTING": FAKE_HEAD_NODE_ID,
        "AUTOSCALER_UPDATE_INTERVAL_S": "1",
    }
    with machine(free_ports(1)[0], cpus=0, variables=variables) as made:
        described = yaml.safe_dump(machine_types(made.address))
        (made.home / "ray_bootstrap_config.yaml").write_text(described)
        made.start("head")
        yield made


def nodes(head: Node) -> Counter[str]:
    """How many machines there are of each type, by Ray's page."""
    told = httpx.get(
        f"http://127.0.0.1:{head.page}/api/v0/nodes",
        params={"detail": "true"}, headers={"Authorization": f"Bearer {TOKEN}"}, timeout=60,
    )  # fmt: skip
    found = told.raise_for_status().json()["data"]["result"]["result"]
    alive = [node["labels"] for node in found if node["state"] == "ALIVE"]
    return Counter(labels.get("ray.io/node-group", "head") for labels in alive)


def test_machines_come_for_a_job_and_go_after_it(head, tmp_path: Path):
    rows = [f"{i % 89},{i % 7},{['no', 'yes'][i % 89 > 40]}" for i in range(2000)]
    (tmp_path / "rows.csv").write_text("\n".join(["x,y,left", *rows]) + "\n")
    (tmp_path / "job.yaml").write_text(JOB.format(folder=tmp_path))
    assert nodes(head) == {"head": 1}
    done = subprocess.run(
        [
            *(sys.executable, "-W", "ignore", "-m", "ray_pipeline.cli"),
            *("run", "job.yaml", "--until", "evaluate"),
        ],
        cwd=tmp_path, env=head.user(), capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    record = json.loads(next(tmp_path.glob("storage/growing/runs/*/run.json")).read_text())
    assert record["status"] == "done"
    used = {cost["type"]: cost for cost in record["costs"]}
    # Three workers do not fit on one machine of two CPUs; spot ones go first, and none has a GPU.
    assert used["cpu-spot"]["nodes"] >= 2
    assert used["cpu-spot"]["cost"] == pytest.approx(0.31 * used["cpu-spot"]["hours"])
    assert not {"cpu", "gpu", "gpu-spot"} & set(used)
    until = time.monotonic() + 120
    while (left := nodes(head)) != {"head": 1}:
        assert time.monotonic() < until, left
        time.sleep(2)

"""The cluster files, as Ray itself reads them: its schema, its loader, its provider for AWS."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
from pathlib import Path

import boto3
import jsonschema
import psutil
import pytest
import ray.autoscaler
import yaml
from moto import mock_aws
from ray.autoscaler._private.aws import config as aws
from ray.autoscaler._private.aws.node_provider import AWSNodeProvider
from ray.autoscaler._private.util import prepare_config, validate_config
from ray.scripts.scripts import start
from ray.util import get_node_ip_address

from ray_pipeline import cluster
from ray_pipeline.deploy import fast_path

ROOT = Path(__file__).parents[2]
FILES = [ROOT / "cluster.yaml", *sorted((ROOT / "clusters").glob("*.yaml"))]
CLOUDS = [file for file in FILES if file.name != "own.yaml"]
each = pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)


def read(file: Path) -> dict:
    return yaml.safe_load(file.read_text())


@each
def test_its_keys_are_those_of_rays_schema(file):
    schema = json.loads((Path(ray.autoscaler.__file__).parent / "ray-schema.json").read_text())
    found = read(file)
    found.pop("min_workers", None)  # Ray moves it before it looks
    validator = jsonschema.validators.validator_for(schema)(schema)
    assert list(validator.iter_errors(found)) == []
    assert len(list(validator.iter_errors(found | {"idle_timeout": 5}))) == 1  # it is in minutes


@each
def test_rays_loader_takes_it(file):
    prepared = prepare_config(read(file))
    validate_config(prepared)
    assert "ray start --head" in prepared["head_start_ray_commands"][-1]


@each
def test_what_is_mounted_is_there(file):
    for local in read(file)["file_mounts"].values():
        assert local.startswith("~") or (ROOT / local).exists(), local


@each
def test_rays_command_line_takes_what_starts_it(file):
    known = {option for parameter in start.params for option in parameter.opts}
    found = read(file)
    for commands in (found["head_start_ray_commands"], found["worker_start_ray_commands"]):
        (starting,) = (line for line in commands if "ray start" in line)
        environment, _, command = starting.partition(";")
        assert environment == ". ~/ray_pipeline/environment.sh"
        given = {word.partition("=")[0] for word in shlex.split(command) if word.startswith("--")}
        assert given <= known
        assert "--object-spilling-directory" in given


@pytest.mark.parametrize("file", CLOUDS, ids=lambda file: file.name)
def test_spot_machines_are_tried_first_and_the_same_on_demand_next(file):
    kinds = read(file)["available_node_types"]
    head = kinds.pop("head")
    assert head["resources"] == {"CPU": 0}, "no work where the head is"
    for name in ("cpu", "gpu"):
        spot, demand = kinds[f"{name}-spot"], kinds[name]
        assert spot["resources"] == demand["resources"], "one has to be able to replace the other"
        assert spot["priority"] > demand["priority"]
        assert spot["min_workers"] == demand["min_workers"] == 0
        market = {"InstanceMarketOptions", "scheduling"}
        assert market & set(spot["node_config"])


def sourced(home: Path) -> dict[str, str]:
    """The environment of a node: what a login shell has once it has read the file."""
    shell = ["bash", "-ec", f". {ROOT / 'clusters/environment.sh'}; env -0"]
    clean = {"HOME": str(home), "PATH": os.environ["PATH"]}
    done = subprocess.run(shell, env=clean, capture_output=True, text=True, check=True)
    return dict(line.split("=", 1) for line in done.stdout.split("\0") if line)


def test_every_node_has_the_fast_path_the_token_and_the_secrets(tmp_path):
    found = sourced(tmp_path)
    assert {**fast_path.SETTINGS, **cluster.ENVIRONMENT}.items() <= found.items()
    assert found["RAY_AUTH_MODE"] == "token"
    for name in fast_path.environment(Path("/own")):
        if "HAPROXY" in name and ("SOCKET" in name or "LOC" in name):
            assert found[name].startswith(str(tmp_path)), "where others cannot write"
    assert (tmp_path / ".ray_pipeline").stat().st_mode & 0o077 == 0

    (tmp_path / ".ray_pipeline" / "secrets.env").write_text("REDIS_PASSWORD='a b$c'\n")
    assert sourced(tmp_path)["REDIS_PASSWORD"] == "a b$c"


def test_workers_meet_in_the_network_by_which_nodes_reach_each_other(tmp_path):
    """Not at what their host's name says, which is often 127.0.1.1."""
    found = sourced(tmp_path)["GLOO_SOCKET_IFNAME"]
    addresses = [each.address for each in psutil.net_if_addrs().get(found, [])]
    assert get_node_ip_address() in addresses


def test_a_head_keeps_its_state_in_redis_where_the_nodes_name_one(tmp_path):
    none = sourced(tmp_path)
    assert "RAY_gcs_rpc_server_reconnect_timeout_s" not in none
    assert "RAY_external_storage_namespace" not in none
    (tmp_path / ".ray_pipeline" / "secrets.env").write_text("RAY_REDIS_ADDRESS=redis:6379\n")
    found = sourced(tmp_path)
    assert found["RAY_REDIS_ADDRESS"] == "redis:6379"
    assert int(found["RAY_gcs_rpc_server_reconnect_timeout_s"]) == 600
    assert found["RAY_external_storage_namespace"] == "ray-pipeline"


@each
@pytest.mark.parametrize("password", ["", "a 'b\"$c"])
def test_the_head_is_told_the_password_of_its_redis(file, password):
    command = read(file)["head_start_ray_commands"][-1].partition(";")[2]
    shell = ["bash", "-ec", f"ray() {{ printf '%s\\0' \"$@\"; }}; {command}"]
    clean = {"HOME": "/nowhere", **({"RAY_REDIS_PASSWORD": password} if password else {})}
    done = subprocess.run(shell, env=clean, capture_output=True, text=True, check=True)
    given = [one for one in done.stdout.split("\0") if one.startswith("--redis-password")]
    assert given == ([f"--redis-password={password}"] if password else [])


def test_machines_of_ones_own_all_join():
    """Ray knows what work they have room for only once they have."""
    found = prepare_config(read(ROOT / "clusters/own.yaml"))
    (kind,) = found["available_node_types"].values()
    assert kind["min_workers"] == len(found["provider"]["worker_ips"]) > 0


@mock_aws
def test_aws_starts_the_machines_that_it_asks_for(tmp_path, monkeypatch):
    """Ray's provider makes them from the file, on a server of the tests that knows EC2's rules."""
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    iam = boto3.client("iam", region_name="us-east-1")
    iam.create_instance_profile(InstanceProfileName="ray-pipeline")
    config = aws.bootstrap_aws(prepare_config(read(ROOT / "cluster.yaml")))
    provider = AWSNodeProvider(config["provider"], config["cluster_name"])
    for name, kind in config["available_node_types"].items():
        provider.create_node(kind["node_config"], {"ray-user-node-type": name}, 1)
    ec2 = boto3.client("ec2", region_name="us-east-1")
    made = [
        machine
        for reservation in ec2.describe_instances()["Reservations"]
        for machine in reservation["Instances"]
    ]
    kinds = {
        tag["Value"]: machine
        for machine in made
        for tag in machine["Tags"]
        if tag["Key"] == "ray-user-node-type"
    }
    assert set(kinds) == {"head", "cpu", "cpu-spot", "gpu", "gpu-spot"}
    spot = {name for name, machine in kinds.items() if machine.get("InstanceLifecycle") == "spot"}
    assert spot == {"cpu-spot", "gpu-spot"}
    assert kinds["gpu"]["InstanceType"] == kinds["gpu-spot"]["InstanceType"] == "g6.4xlarge"

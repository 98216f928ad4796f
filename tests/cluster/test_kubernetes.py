"""Manifests, held against KubeRay's CRDs, Kubernetes' own schemas, and Ray Serve's."""

from __future__ import annotations

import itertools
import json
import re
from pathlib import Path

import jsonschema
import kubernetes_validate
import pytest
import yaml
from ray._common.utils import import_attr
from ray.serve.schema import ServeDeploySchema

from ray_pipeline import cli
from ray_pipeline.deploy import fast_path, grpc_messages, kubernetes, kubernetes_ray
from ray_pipeline.job import Job

KUBERNETES = "1.33"
CRDS = json.loads((Path(__file__).parent / "kuberay.json").read_text())
"""KubeRay's ray.io/v1, without descriptions and without pods, which are looked at as such."""
JOB = """
name: shop_floor
storage: s3://bucket/storage
data: {source: {url: "postgresql://me:${SHOP_PASSWORD}@db/shop", table: rows}, label: left}
model: {name: "my_net.wide:network"}
train: {workers: {min: 2, max: 6}, cpus: 2}
serve: {replicas: {min: 2, max: 9}, cpus: 1, metrics: key, grpc: 9001}
"""

WATCHED = """
name: shop_floor
storage: s3://bucket/storage
data: {source: "s3://bucket/days/*.parquet", label: left}
watch: {log: {}, every_s: 1800}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """What the command writes for a job with a module, a secret, and a bundle."""
    home = tmp_path_factory.mktemp("kubernetes")
    (home / "my_net").mkdir()
    (home / "my_net" / "__init__.py").touch()
    (home / "my_net" / "wide.py").write_text("network = None\n")
    (home / "job.yaml").write_text(JOB)
    given = ["--image", "registry/shop:1", "--bundle", "s3://bucket/storage/shop_floor/bundles/ab"]
    given += ["--host", "shop.example", "--namespace", "shop", "--gpus", "8"]
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(home))
        command = ["kubernetes", str(home / "job.yaml"), "-o", str(home / "out"), *given]
        assert cli.main(command) == 0
    return home / "out"


@pytest.fixture(scope="module")
def resources(folder) -> dict[str, dict]:
    return {
        str(path.relative_to(folder)): yaml.safe_load(path.read_text())
        for path in sorted(folder.rglob("*.yaml"))
    }


def strict(schema):
    """A CRD's schema that refuses what the API server would silently drop."""
    if isinstance(schema, list):
        return [strict(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    told = {key: strict(value) for key, value in schema.items()}
    if isinstance(told.get("properties"), dict) and told.get("type") == "object":
        told.setdefault("additionalProperties", False)
    return told


def pods(value):
    """Every pod's template in a resource."""
    if isinstance(value, dict):
        for key, inner in value.items():
            if key == "template":
                yield inner
            else:
                yield from pods(inner)
    elif isinstance(value, list):
        yield from itertools.chain.from_iterable(map(pods, value))


def test_every_resource_is_what_kubernetes_takes(resources):
    checked = []
    for resource in resources.values():
        kind = resource["kind"]
        if resource["apiVersion"].startswith(("kustomize", "monitoring")):
            continue
        if resource["apiVersion"] == "ray.io/v1":
            whole = strict({**CRDS, **CRDS[kind]})
            whole["properties"]["metadata"] = {"type": "object"}
            whole.pop("additionalProperties")
            jsonschema.validate(resource, whole)
        else:
            kubernetes_validate.validate(resource, KUBERNETES, strict=True)
        checked.append(kind)
    assert set(checked) == {
        *("RayService", "RayJob", "RayCluster", "ConfigMap"),
        *("NetworkPolicy", "PodDisruptionBudget", "Ingress"),
    }


@pytest.mark.parametrize(
    ("file", "spoilt"),
    [
        ("job/rayjob.yaml", {"activeDeadlineSecond": 1}),
        ("job/rayjob.yaml", {"backoffLimit": "2"}),
        ("cluster/raycluster.yaml", {"authOptions": {"mode": "password"}}),
    ],
)
def test_the_schema_finds_what_is_wrong(resources, file, spoilt):
    resource = resources[file]
    wrong = {**resource, "spec": {**resource["spec"], **spoilt}}
    whole = strict({**CRDS, **CRDS[resource["kind"]]})
    whole["properties"]["metadata"] = {"type": "object"}
    whole.pop("additionalProperties")
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(wrong, whole)


def test_every_pod_is_one_that_kubernetes_takes(resources):
    count = 0
    for resource in resources.values():
        for template in pods(resource.get("spec", {})):
            whole = {"apiVersion": "v1", "kind": "PodTemplate", "metadata": {"name": "x"}}
            kubernetes_validate.validate({**whole, "template": template}, KUBERNETES, strict=True)
            count += 1
            (container,) = template["spec"]["containers"]
            assert container["resources"]["requests"] == container["resources"]["limits"]
            assert template["spec"]["securityContext"]["runAsNonRoot"]
            mounted = {mount["name"] for mount in container["volumeMounts"]}
            assert mounted == {volume["name"] for volume in template["spec"]["volumes"]}
            plain = {one["name"]: one.get("value") for one in container["env"]}
            assert fast_path.SETTINGS.items() <= plain.items()
    assert count == 2 + 3 + 3


def test_serve_takes_its_configuration(resources):
    text = resources["service/rayservice.yaml"]["spec"]["serveConfigV2"]
    config = ServeDeploySchema.model_validate(yaml.safe_load(text))
    endpoint, front = config.applications
    assert (endpoint.name, endpoint.route_prefix) == ("shop_floor", "/shop_floor")
    assert front.route_prefix == "/"
    assert endpoint.args["bundle"].startswith("s3://bucket/")
    (registers,) = config.grpc_options.grpc_servicer_functions
    assert import_attr(registers) is grpc_messages.registered


def test_grpc_is_let_in_where_serve_listens_for_it(resources):
    service = resources["service/rayservice.yaml"]["spec"]
    port = yaml.safe_load(service["serveConfigV2"])["grpc_options"]["port"]
    assert {"name": "grpc", "port": port, "targetPort": port} in service["serveService"]["spec"][
        "ports"
    ]
    for template in pods(service["rayClusterConfig"]):
        (container,) = template["spec"]["containers"]
        assert {"name": "grpc", "containerPort": port} in container["ports"]
    rules = resources["service/networkpolicy.yaml"]["spec"]["ingress"]
    to_all = [one["port"] for rule in rules if "from" not in rule for one in rule["ports"]]
    assert port in to_all


def test_pods_are_as_many_as_the_job_asks_for(resources):
    def groups(file: str, spec: str | None) -> dict[str, tuple[int, int]]:
        found = resources[file]["spec"]
        inner = found[spec] if spec else found
        return {
            one["groupName"]: (one["minReplicas"], one["maxReplicas"])
            for one in inner["workerGroupSpecs"]
        }

    # 4 replicas of 1 CPU are on a pod of 4: two pods hold 2 to 9 of them in 1 to 3.
    assert groups("service/rayservice.yaml", "rayClusterConfig") == {"cpu": (1, 3)}
    # 6 training workers of 2 CPUs are 3 pods, or as many GPUs.
    for file, spec in (("job/rayjob.yaml", "rayClusterSpec"), ("cluster/raycluster.yaml", None)):
        assert groups(file, spec) == {"cpu": (0, 3), "gpu": (0, 6)}


def test_a_chatbots_parts_get_workers_with_their_gpus():
    def gpus(apart, **given):
        chat = {"encoder": "base", "generate": {"by": "vllm", "model": "maker/writer"}}
        data, serve = {"source": "s3://bucket/pages"}, {"apart": apart}
        job = Job(name="desk", storage="s3://bucket", data=data, chat=chat, serve=serve)
        made = kubernetes_ray.cluster(kubernetes.site(job, image="i", **given))
        *_, group = made["spec"]["workerGroupSpecs"]
        (container,) = group["template"]["spec"]["containers"]
        asked = container["resources"]["limits"]["nvidia.com/gpu"]
        return group["groupName"], group["minReplicas"], group["maxReplicas"], asked

    writer = {"gpus": 2, "replicas": {"min": 1, "max": 3}}
    assert gpus({"generator": writer}) == ("gpu", 0, 3, "2")
    assert gpus({"generator": writer}, gpus=8) == ("gpu", 0, 8, "2")
    # Three replicas with 2 GPUs, and two with half of one, are on four nodes of two.
    encoder = {"gpus": 0.5, "replicas": {"max": 2}}
    assert gpus({"generator": writer, "encoder": encoder}) == ("gpu", 0, 4, "2")


def test_no_secret_is_in_a_manifest_and_each_is_named(folder, resources, capsys):
    text = "\n".join(path.read_text() for path in folder.rglob("*.yaml"))
    named = set(re.findall(r"name: (shop-floor-[a-z]+)\n\s+key: (\w+)", text))
    assert named == {
        ("shop-floor-environment", "SHOP_PASSWORD"),
        ("shop-floor-key", "key"),
        ("shop-floor-redis", "password"),
    }
    assert not [one for one in resources.values() if one["kind"] == "Secret"]
    service = resources["service/rayservice.yaml"]["spec"]
    for template in pods(service):
        key = {one["name"]: one for one in template["spec"]["containers"][0]["env"]}
        assert "valueFrom" in key["RAY_PIPELINE_KEY"]


def test_the_job_and_its_modules_are_mounted_as_they_were(resources):
    files = resources["job/configmap.yaml"]["data"]
    assert files["job.yaml"] == JOB
    for template in pods(resources["job/rayjob.yaml"]["spec"]):
        volume = next(one for one in template["spec"]["volumes"] if "configMap" in one)
        items = {one["path"]: one["key"] for one in volume["configMap"]["items"]}
        assert set(items) == {"job.yaml", "my_net/__init__.py", "my_net/wide.py"}
        assert set(items.values()) == set(files)


def test_each_folder_is_a_kustomize_base_of_what_is_in_it(folder, resources):
    for part in ("service", "job", "cluster"):
        listed = set(resources[f"{part}/kustomization.yaml"]["resources"])
        there = {path.name for path in (folder / part).iterdir()} - {"kustomization.yaml"}
        assert listed == there


def test_labels_lead_to_what_they_mean(resources):
    """Policies, budgets and the monitor choose by labels that the pods and the service have."""
    service = resources["service/rayservice.yaml"]["spec"]
    labels = [template["metadata"]["labels"] for template in pods(service)]
    policy = resources["service/networkpolicy.yaml"]["spec"]["podSelector"]["matchLabels"]
    assert all(policy.items() <= one.items() for one in labels)
    monitor = resources["service/servicemonitor.yaml"]["spec"]
    served = service["serveService"]
    assert monitor["selector"]["matchLabels"].items() <= served["metadata"]["labels"].items()
    assert monitor["endpoints"][0]["port"] == served["spec"]["ports"][0]["name"]
    assert monitor["endpoints"][0]["authorization"]["credentials"]["name"] == "shop-floor-key"
    (rule,) = resources["service/ingress.yaml"]["spec"]["rules"]
    for path in rule["http"]["paths"]:
        assert path["backend"]["service"]["name"] == served["metadata"]["name"]


def test_the_endpoint_needs_a_bundle_and_the_rest_does_not(tmp_path, capsys):
    (tmp_path / "job.yaml").write_text(JOB.replace("my_net.wide:network", "mlp"))
    command = ["kubernetes", str(tmp_path / "job.yaml"), "-o", str(tmp_path / "out")]
    assert cli.main([*command, "--image", "i"]) == 0
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"job", "cluster"}
    assert "--bundle" in capsys.readouterr().out


@pytest.fixture(scope="module")
def watched(tmp_path_factory):
    """What is written for a job that learns from files again and again."""
    home = tmp_path_factory.mktemp("watched")
    (home / "job.yaml").write_text(WATCHED)
    command = ["kubernetes", str(home / "job.yaml"), "-o", str(home / "out"), "--image", "i"]
    assert cli.main([*command, "--namespace", "shop"]) == 0
    return {
        str(path.relative_to(home / "out")): yaml.safe_load(path.read_text())
        for path in (home / "out").rglob("*.yaml")
    }


def test_a_watched_job_is_looked_at_by_a_cron_job(watched):
    cron, files = watched["watch/cronjob.yaml"], watched["watch/configmap.yaml"]
    for resource in (cron, files):
        kubernetes_validate.validate(resource, KUBERNETES, strict=True)
    assert cron["spec"]["schedule"] == "*/30 * * * *"
    assert cron["spec"]["concurrencyPolicy"] == "Forbid"
    template = cron["spec"]["jobTemplate"]["spec"]["template"]
    (container,) = template["spec"]["containers"]
    (volume,) = (one for one in template["spec"]["volumes"] if one["name"] == "job")
    assert volume["configMap"]["name"] == files["metadata"]["name"]
    cluster = watched["cluster/raycluster.yaml"]["metadata"]["name"]
    assert f"http://{cluster}-head-svc:8265" in container["command"]
    rules = watched["cluster/networkpolicy.yaml"]["spec"]["ingress"]
    labels = template["metadata"]["labels"]
    let_in = [
        rule
        for rule in rules
        for who in rule.get("from", ())
        if who["podSelector"]["matchLabels"].items() <= labels.items()
    ]
    assert [rule["ports"] for rule in let_in] == [[{"protocol": "TCP", "port": 8265}]]


def test_the_command_of_the_cron_job_is_one_that_the_command_line_takes(watched):
    template = watched["watch/cronjob.yaml"]["spec"]["jobTemplate"]["spec"]["template"]
    (container,) = template["spec"]["containers"]
    name, *words = container["command"]
    options = cli._parser().parse_args(words)
    assert (name, options.watch, options.follow) == ("ray-pipeline", True, True)
    assert options.job == "/job/job.yaml"


def test_a_job_that_cannot_be_watched_has_no_cron_job(resources, tmp_path, capsys):
    assert not [file for file in resources if file.startswith("watch/")]
    (tmp_path / "job.yaml").write_text(JOB.replace("my_net.wide:network", "mlp") + "watch: {}\n")
    command = ["kubernetes", str(tmp_path / "job.yaml"), "-o", str(tmp_path / "out")]
    assert cli.main([*command, "--image", "i"]) == 0
    assert "without a watch: data.source" in capsys.readouterr().out
    assert not (tmp_path / "out/watch").exists()


@pytest.mark.parametrize(
    ("every_s", "schedule"),
    [
        (1, "*/1 * * * *"),
        (300, "*/5 * * * *"),
        (3600, "0 */1 * * *"),
        (6 * 3600, "0 */6 * * *"),
        (7 * 86_400, "0 0 * * *"),
    ],
)
def test_a_schedule_is_as_often_as_the_job_says(every_s, schedule):
    from ray_pipeline.deploy import kubernetes_watch

    assert kubernetes_watch.schedule(every_s) == schedule

"""KubeRay's resources (ray.io/v1): the endpoint, a run, a cluster that stays."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any

import yaml

from ray_pipeline.deploy import declared, fast_path, grpc_calls
from ray_pipeline.job import Elastic, Job

Resource = dict[str, Any]
KEY, VARIABLES, REDIS = "key", "environment", "redis"
"""What the Secrets hold: the endpoint's key, variables that the job names, Redis's password."""
CODE = "/job"
_USER = 10001
POD_SECURITY: Resource = {
    "runAsNonRoot": True,
    "runAsUser": _USER,
    "fsGroup": _USER,
    "seccompProfile": {"type": "RuntimeDefault"},
}
SECURITY: Resource = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
_SERVE, _GRPC, _METRICS = 8000, 9000, 8080


@dataclass(frozen=True)
class Site:
    """A job and where it is to run on Kubernetes.

    `files` are the job file and the user's modules, by path; `variables` the environment variables
    that the job names; `cpus` and `memory_gb` those of a worker's pod.
    """

    job: Job
    image: str
    files: dict[str, str] = field(default_factory=dict)
    variables: tuple[str, ...] = ()
    bundle: str | None = None
    namespace: str = "default"
    host: str | None = None
    ingress_class: str = "nginx"
    redis: str = "redis:6379"
    cpus: int = 4
    memory_gb: int = 16
    gpus: int = 0
    deadline_s: int = 24 * 3600
    watched: bool = False

    @property
    def name(self) -> str:
        """The job's name as Kubernetes takes one."""
        return self.job.name.replace("_", "-").strip("-")

    def secret(self, what: str) -> str:
        return f"{self.name}-{what}"

    def labels(self, part: str) -> dict[str, str]:
        return {"app.kubernetes.io/name": self.name, "app.kubernetes.io/component": part}

    def metadata(self, name: str, part: str) -> Resource:
        return {"name": name, "namespace": self.namespace, "labels": self.labels(part)}


def service(site: Site) -> Resource:
    """The endpoint. A new bundle or image comes up as a second cluster, which takes the traffic
    once it answers; the state of the head is in Redis, so that requests go on while it restarts."""
    if gpus := site.job.serve.gpus:
        groups = [_group(site, "service", "gpu", **_replicas(site, gpus, 1), gpus=1)]
    else:
        fit = _replicas(site, site.job.serve.cpus, site.cpus)
        groups = [_group(site, "service", "cpu", **fit)]
    password = {"valueFrom": {"secretKeyRef": {"name": site.secret(REDIS), "key": "password"}}}
    return {
        "apiVersion": "ray.io/v1",
        "kind": "RayService",
        "metadata": site.metadata(site.name, "service"),
        "spec": {
            "upgradeStrategy": {"type": "NewCluster"},
            "rayClusterDeletionDelaySeconds": 60,
            "serviceUnhealthySecondThreshold": 900,
            "deploymentUnhealthySecondThreshold": 300,
            "excludeHeadPodFromServeSvc": True,
            "serveService": {
                "metadata": {"name": f"{site.name}-serve", "labels": site.labels("service")},
                "spec": {
                    "ports": [
                        {"name": name, "port": port, "targetPort": port}
                        for name, port in listening(site).items()
                    ]
                },
            },
            "serveConfigV2": yaml.safe_dump(serve_config(site), sort_keys=False),
            "rayClusterConfig": {
                **_spec(site, "service", groups),
                "gcsFaultToleranceOptions": {"redisAddress": site.redis, "redisPassword": password},
            },
        },
    }


def job(site: Site) -> Resource:
    """One run. A cluster that fails is replaced, and the run goes on from what is stored."""
    return {
        "apiVersion": "ray.io/v1",
        "kind": "RayJob",
        "metadata": site.metadata(site.name, "job"),
        "spec": {
            "entrypoint": f"python -m ray_pipeline.driver {CODE}/job.yaml",
            "submissionMode": "K8sJobMode",
            "activeDeadlineSeconds": site.deadline_s,
            "backoffLimit": 2,
            "submitterConfig": {"backoffLimit": 0},
            "shutdownAfterJobFinishes": True,
            "ttlSecondsAfterFinished": 600,
            "rayClusterSpec": _spec(site, "job", _training(site, "job"), code=True),
        },
    }


def cluster(site: Site) -> Resource:
    """A cluster that stays, for `ray-pipeline submit`; its workers come and go with the work."""
    return {
        "apiVersion": "ray.io/v1",
        "kind": "RayCluster",
        "metadata": site.metadata(f"{site.name}-cluster", "cluster"),
        "spec": _spec(site, "cluster", _training(site, "cluster")),
    }


def files(site: Site, part: str = "job") -> Resource:
    """The job file and the user's modules. A key cannot have a `/`; the volume puts it back."""
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": site.metadata(f"{site.name}-{part}", part),
        "data": {_key(path): text for path, text in sorted(site.files.items())},
    }


def code_volume(site: Site, part: str) -> Resource:
    """The volume that has a part's `files` at their paths."""
    items = [{"key": _key(path), "path": path} for path in sorted(site.files)]
    return {"name": "job", "configMap": {"name": f"{site.name}-{part}", "items": items}}


def serve_config(site: Site) -> Resource:
    """What Ray Serve runs: the endpoint, and what answers beside it."""
    settings = site.job.served
    actor = {"num_cpus": settings.cpus, "num_gpus": settings.gpus}
    front = {"name": "front", "max_ongoing_requests": 256, "ray_actor_options": {"num_cpus": 0}}
    model = {
        "name": "model",
        "max_ongoing_requests": settings.max_ongoing_requests,
        "max_queued_requests": settings.max_queued_requests,
        "ray_actor_options": actor,
        "autoscaling_config": {
            "min_replicas": settings.replicas.min,
            "max_replicas": settings.replicas.max,
            "target_ongoing_requests": settings.target_ongoing_requests,
            "upscale_delay_s": settings.upscale_delay_s,
            "downscale_delay_s": settings.downscale_delay_s,
        },
    }
    arguments = {
        "name": site.job.name,
        "bundle": site.bundle,
        "serve": settings.model_dump(mode="json", exclude_defaults=True),
    }
    own = {"name": site.job.name, "route_prefix": f"/{site.job.name}", "args": arguments}
    quiet = {"logging_config": {"enable_access_log": False}}
    module = declared.__name__
    return {
        "proxy_location": "EveryNode",
        "http_options": {"host": "0.0.0.0", "port": _SERVE},  # noqa: S104 - inside of a pod
        **({"grpc_options": grpc_calls.options(_GRPC)} if settings.grpc else {}),
        "applications": [
            {**own, "import_path": f"{module}:model", "deployments": [{**model, **quiet}]},
            {
                "name": "ray_pipeline",
                "route_prefix": "/",
                "import_path": f"{module}:front",
                "deployments": [{**front, **quiet}],
            },
        ],
    }


def _training(site: Site, part: str) -> list[Resource]:
    """Workers that a run may have: none at first, at most what its training asks for, or a
    chatbot's parts."""
    train = site.job.train
    asked = train.workers.max if isinstance(train.workers, Elastic) else train.workers
    workers = max(1, site.gpus if asked == "auto" else asked)
    most = max(2, math.ceil(workers * train.cpus / site.cpus))
    groups = [_group(site, part, "cpu", least=0, most=most)]
    each, apart = _apart(site.job)
    if most := max(apart, workers if site.gpus else 0):
        groups.append(_group(site, part, "gpu", least=0, most=most, gpus=each))
    return groups


def _apart(job: Job) -> tuple[int, int]:
    """The GPUs of a worker in which a replica of each of a chatbot's parts fits, as its language
    model is faster on those of one machine; and how many such workers all replicas need."""
    given = job.serve.apart.given.values() if job.serve.apart else ()
    each = max([1, *(math.ceil(part.gpus) for part in given)])
    return each, math.ceil(sum(part.gpus * part.replicas.max for part in given) / each)


def _replicas(site: Site, each: float, pod: float) -> dict[str, int]:
    """The least and the most pods for the endpoint's replicas."""
    bounds = site.job.serve.replicas
    fit = max(1, int(pod // each))
    return {"least": math.ceil(bounds.min / fit), "most": math.ceil(bounds.max / fit)}


def _spec(site: Site, part: str, groups: list[Resource], code: bool = False) -> Resource:
    head = _pod(site, part, "ray-head", {"cpu": "2", "memory": "8Gi"}, code=code)
    return {
        "rayVersion": version("ray"),
        "authOptions": {"mode": "token"},
        "enableInTreeAutoscaling": True,
        "autoscalerOptions": {
            "version": "v2",
            "upscalingMode": "Default",
            "idleTimeoutSeconds": 120,
            "resources": both({"cpu": "500m", "memory": "1Gi"}),
        },
        "headGroupSpec": {
            # No work where the head is: what takes its memory takes the cluster down.
            "rayStartParams": {"num-cpus": "0", "metrics-export-port": str(_METRICS)},
            "template": head,
        },
        "workerGroupSpecs": groups,
    }


def _group(site: Site, part: str, name: str, *, least: int, most: int, gpus: int = 0) -> Resource:
    size = {"cpu": str(site.cpus), "memory": f"{site.memory_gb}Gi"}
    size |= {"nvidia.com/gpu": str(gpus)} if gpus else {}
    return {
        "groupName": name,
        "replicas": least,
        "minReplicas": least,
        "maxReplicas": max(1, most),
        "rayStartParams": {"metrics-export-port": str(_METRICS)},
        "template": _pod(site, part, "ray-worker", size, code=part == "job"),
    }


def _pod(site: Site, part: str, name: str, size: dict[str, str], code: bool) -> Resource:
    mounts = {"spill": "/spill", "tmp": "/tmp", "shm": "/dev/shm"}  # noqa: S108
    volumes: list[Resource] = [
        {"name": "spill", "emptyDir": {"sizeLimit": "100Gi"}},
        {"name": "tmp", "emptyDir": {"sizeLimit": "20Gi"}},
        # Ray's object store; it counts as memory of the pod.
        {"name": "shm", "emptyDir": {"medium": "Memory"}},
    ]
    if code:
        mounts["job"] = CODE
        volumes.append(code_volume(site, "job"))
    ports = {**listening(site), "metrics": _METRICS}
    ports |= {"gcs": 6379, "dashboard": 8265, "client": 10001} if name == "ray-head" else {}
    container = {
        "name": name,
        "image": site.image,
        "ports": [{"name": port, "containerPort": number} for port, number in ports.items()],
        "env": _environment(site, part, code),
        # Credentials of the storage, where pods have no role of their cloud.
        "envFrom": [{"secretRef": {"name": site.secret("storage"), "optional": True}}],
        "resources": both(size),
        "volumeMounts": [{"name": one, "mountPath": path} for one, path in mounts.items()],
        "securityContext": SECURITY,
    }
    return {
        "metadata": {"labels": site.labels(part)},
        "spec": {
            "securityContext": POD_SECURITY,
            "containers": [container],
            "volumes": volumes,
        },
    }


def listening(site: Site) -> dict[str, int]:
    """The ports that the endpoint answers on, by name."""
    return {"serve": _SERVE, **({"grpc": _GRPC} if site.job.serve.grpc else {})}


def _environment(site: Site, part: str, code: bool) -> list[Resource]:
    plain = {**fast_path.SETTINGS, "RAY_object_spilling_directory": "/spill"}
    plain |= {"PYTHONPATH": CODE} if code else {}
    found: list[Resource] = [{"name": name, "value": value} for name, value in plain.items()]
    secret = {name: (site.secret(VARIABLES), name) for name in site.variables}
    if part == "service":
        secret[declared.KEY] = (site.secret(KEY), "key")
    return found + [
        {"name": name, "valueFrom": {"secretKeyRef": {"name": held, "key": key}}}
        for name, (held, key) in secret.items()
    ]


def both(size: dict[str, str]) -> Resource:
    """As much as is asked for is the most: Ray plans with all that a pod may take."""
    return {"requests": size, "limits": size}


def _key(path: str) -> str:
    return path.replace("/", ".")

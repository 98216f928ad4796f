"""The watch over a job on Kubernetes: a CronJob that has the cluster which stays look again."""

from __future__ import annotations

from ray_pipeline.deploy.kubernetes_ray import (
    CODE,
    POD_SECURITY,
    SECURITY,
    Resource,
    Site,
    both,
    code_volume,
)

_PART = "watch"


def cron(site: Site) -> Resource:
    """Submits one look of `watch` to the cluster of the folder `cluster/`, and follows it.

    Two looks at once are not made: Kubernetes begins none while one goes on (Forbid), and a look
    that goes on is found by its submission, should a pod have been lost.
    """
    assert site.job.watch is not None, "only of a job that is watched"
    return {
        "apiVersion": "batch/v1",
        "kind": "CronJob",
        "metadata": site.metadata(f"{site.name}-watch", _PART),
        "spec": {
            "schedule": schedule(site.job.watch.every_s),
            "concurrencyPolicy": "Forbid",
            "startingDeadlineSeconds": 300,
            "successfulJobsHistoryLimit": 3,
            "failedJobsHistoryLimit": 3,
            "jobTemplate": {
                "spec": {
                    "backoffLimit": 0,
                    "activeDeadlineSeconds": site.deadline_s,
                    "template": _pod(site),
                }
            },
        },
    }


def schedule(every_s: float) -> str:
    """About so often, as cron says it: each so many minutes or hours, or once a day."""
    minutes = max(1, round(every_s / 60))
    if minutes < 60:
        return f"*/{minutes} * * * *"
    hours = round(minutes / 60)
    return f"0 */{hours} * * *" if hours < 24 else "0 0 * * *"


def _pod(site: Site) -> Resource:
    cluster = f"{site.name}-cluster"
    command = ["ray-pipeline", "submit", f"{CODE}/job.yaml", "--watch", "--follow"]
    # The token stays inside of Kubernetes, where the network policy lets only these pods in.
    command += ["--address", f"http://{cluster}-head-svc:8265", "--insecure"]
    token = {"secretKeyRef": {"name": cluster, "key": "auth_token"}}  # KubeRay's operator makes it
    plain = {"RAY_AUTH_MODE": "token", "RAY_PIPELINE_HOME": "/tmp/home", "PYTHONPATH": CODE}  # noqa: S108
    container = {
        "name": "watch",
        "image": site.image,
        "command": command,
        "env": [
            *({"name": name, "value": value} for name, value in plain.items()),
            {"name": "RAY_AUTH_TOKEN", "valueFrom": token},
        ],
        "resources": both({"cpu": "500m", "memory": "1Gi"}),
        "volumeMounts": [
            {"name": "job", "mountPath": CODE},
            {"name": "tmp", "mountPath": "/tmp"},  # noqa: S108
        ],
        "securityContext": SECURITY,
    }
    return {
        "metadata": {"labels": site.labels(_PART)},
        "spec": {
            "restartPolicy": "Never",
            "automountServiceAccountToken": False,
            "securityContext": POD_SECURITY,
            "containers": [container],
            "volumes": [code_volume(site, _PART), {"name": "tmp", "emptyDir": {}}],
        },
    }

"""A job as Kubernetes manifests for KubeRay: plain data, one function a resource.

    service/   the endpoint of a bundle: RayService, Ingress, ServiceMonitor, …
    job/       one run of the job on a cluster of its own, which goes when it is done: RayJob
    cluster/   a cluster that stays and grows with its work, for `submit`: RayCluster
    watch/     looks of `watch` on that cluster, again and again: CronJob

Each is a Kustomize base. No secret's value is in any of them: they name Secrets.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from ray_pipeline.deploy import kubernetes_net as net
from ray_pipeline.deploy import kubernetes_ray as ray
from ray_pipeline.deploy import kubernetes_watch as watch
from ray_pipeline.deploy.kubernetes_ray import Resource, Site
from ray_pipeline.job import Job

Manifests = dict[str, Resource]


@dataclass(frozen=True)
class _Part:
    """A folder of manifests: what is in it, by file name."""

    name: str
    resources: Callable[[Site], Manifests]


def written(site: Site, folder: Path) -> list[Path]:
    """The manifest files of a site, written below `folder`, sorted."""
    parts = [_Part("job", _job), _Part("cluster", _cluster)]
    parts += [_Part("service", _service)] if site.bundle else []
    parts += [_Part("watch", _watch)] if site.watched else []
    made = []
    for part in parts:
        resources = part.resources(site)
        kustomization = {
            "apiVersion": "kustomize.config.k8s.io/v1beta1",
            "kind": "Kustomization",
            "namespace": site.namespace,
            "resources": sorted(resources),
        }
        for file, resource in {**resources, "kustomization.yaml": kustomization}.items():
            path = folder / part.name / file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(_text(resource), encoding="utf-8")
            made.append(path)
    return sorted(made)


def secrets(site: Site) -> list[str]:
    """The commands that make the Secrets which the manifests name; values are left to the user."""
    given = {ray.KEY: ["key=$(ray-pipeline key)"] if site.bundle else []}
    given[ray.VARIABLES] = [f"{name}=…" for name in site.variables]
    given[ray.REDIS] = ["password=…"] if site.bundle else []
    return [
        f"kubectl -n {site.namespace} create secret generic {site.secret(name)} "
        + " ".join(f'--from-literal="{text}"' for text in literals)
        for name, literals in given.items()
        if literals
    ]


def site(job: Job, **given: Any) -> Site:
    """Where a job is to run, by its own settings and those that are `given`."""
    return Site(job=job, **{name: value for name, value in given.items() if value is not None})


def _service(site: Site) -> Manifests:
    return {
        "rayservice.yaml": ray.service(site),
        "networkpolicy.yaml": net.policy(site, "service"),
        "poddisruptionbudget.yaml": net.budget(site, "worker"),
        "poddisruptionbudget-head.yaml": net.budget(site, "head"),
        "servicemonitor.yaml": net.monitor(site),
        **({"ingress.yaml": net.ingress(site)} if site.host else {}),
    }


def _job(site: Site) -> Manifests:
    return {
        "rayjob.yaml": ray.job(site),
        "configmap.yaml": ray.files(site),
        "networkpolicy.yaml": net.policy(site, "job"),
    }


def _cluster(site: Site) -> Manifests:
    return {
        "raycluster.yaml": ray.cluster(site),
        "networkpolicy.yaml": net.policy(site, "cluster"),
    }


def _watch(site: Site) -> Manifests:
    return {"cronjob.yaml": watch.cron(site), "configmap.yaml": ray.files(site, "watch")}


class _Dumper(yaml.SafeDumper):
    """Texts of several lines as blocks, and no references between equal parts."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


_Dumper.add_representer(
    str,
    lambda dumper, text: dumper.represent_scalar(
        "tag:yaml.org,2002:str", text, style="|" if "\n" in text else None
    ),
)


def _text(resource: Resource) -> str:
    return yaml.dump(resource, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=100)

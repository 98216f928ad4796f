"""Kubernetes' own resources around a cluster: who may reach it, and what keeps it up."""

from __future__ import annotations

from ray_pipeline.deploy.kubernetes_ray import KEY, Resource, Site, listening


def policy(site: Site, part: str) -> Resource:
    """Only the cluster itself, and KubeRay's operator, reach Ray; ports of endpoints and figures
    are open inside of the Kubernetes cluster. Where pods may connect to is not restricted."""
    own = {"podSelector": {"matchLabels": site.labels(part)}}
    operator = {
        "namespaceSelector": {},
        "podSelector": {"matchLabels": {"app.kubernetes.io/name": "kuberay-operator"}},
    }
    rules: list[Resource] = [
        {"from": [own]},
        {"from": [operator], "ports": _ports(8265, 52365, 8000)},
        {"ports": _ports(8080)},
    ]
    if part == "service":
        rules.append({"ports": _ports(*listening(site).values())})
    if part == "job":  # KubeRay's pod that hands the job over has labels of its own
        handing = {"podSelector": {"matchLabels": {"batch.kubernetes.io/job-name": site.name}}}
        rules.append({"from": [handing], "ports": _ports(8265)})
    if part == "cluster":
        watching = {"podSelector": {"matchLabels": site.labels("watch")}}
        rules.append({"from": [watching], "ports": _ports(8265)})
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": site.metadata(f"{site.name}-{part}", part),
        "spec": {
            "podSelector": {"matchLabels": site.labels(part)},
            "policyTypes": ["Ingress"],
            "ingress": rules,
        },
    }


def budget(site: Site, kind: str) -> Resource:
    """Nodes are emptied one pod at a time."""
    chosen = {**site.labels("service"), "ray.io/node-type": kind}
    return {
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": site.metadata(f"{site.name}-{kind}", "service"),
        "spec": {"maxUnavailable": 1, "selector": {"matchLabels": chosen}},
    }


def monitor(site: Site) -> Resource:
    """Prometheus reads the endpoint's figures; with its key, where they take one."""
    endpoint: Resource = {"port": "serve", "path": "/metrics", "interval": "15s"}
    if site.job.serve.metrics == "key":
        credentials = {"name": site.secret(KEY), "key": "key"}
        endpoint["authorization"] = {"type": "Bearer", "credentials": credentials}
    return {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "ServiceMonitor",
        "metadata": site.metadata(site.name, "service"),
        "spec": {
            "selector": {"matchLabels": site.labels("service")},
            "endpoints": [endpoint],
        },
    }


def ingress(site: Site) -> Resource:
    """The endpoint's way in, with TLS; figures and the list of endpoints stay inside."""
    backend = {"service": {"name": f"{site.name}-serve", "port": {"name": "serve"}}}
    paths = [
        {"path": path, "pathType": "Prefix", "backend": backend}
        for path in (f"/{site.job.name}", "/v2")
    ]
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "Ingress",
        "metadata": site.metadata(site.name, "service"),
        "spec": {
            "ingressClassName": site.ingress_class,
            "tls": [{"hosts": [site.host], "secretName": site.secret("tls")}],
            "rules": [{"host": site.host, "http": {"paths": paths}}],
        },
    }


def _ports(*numbers: int) -> list[Resource]:
    return [{"protocol": "TCP", "port": number} for number in numbers]

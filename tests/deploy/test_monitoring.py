"""What is watched from outside: alert rules, the dashboard, and a real Prometheus that scrapes."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import httpx
import pytest
import yaml
from releases import waited

from ray_pipeline.deploy.counters import no_counts
from ray_pipeline.deploy.exposition import exposition
from ray_pipeline.deploy.ports import free_ports

MONITORING = Path(__file__).parents[2] / "monitoring"
FIGURES = {
    "counts": {**no_counts(), "requests": {200: 3, 500: 1}, "flags": {'a "b"': 1}},
    "in_flight": 0,
    "replicas": 1,
    "version": "v1",
    "watched": {
        "looked": 1.5,
        "alarms": 1,
        "findings": [
            {"column": "x", "question": "missing", "size": 0.1, "bound": 0.05, "chance": 0.2}
        ],
    },
}
TEXT = exposition({"income": FIGURES})


def promtool(*arguments, text=None):
    done = subprocess.run(
        ["promtool", *map(str, arguments)], input=text, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def names_in(expression):
    return set(re.findall(r"ray_pipeline_\w+", expression))


def shown():
    """The names of samples that an endpoint shows."""
    return {line.partition("{")[0] for line in TEXT.splitlines() if not line.startswith("#")}


def test_metrics_are_named_as_prometheus_has_it():
    assert "drift" in TEXT
    assert promtool("check", "metrics", text=TEXT).strip() == ""


def test_alerts_come_when_they_should_and_not_before():
    assert "SUCCESS" in promtool("check", "rules", MONITORING / "alerts.yaml")
    assert "SUCCESS" in promtool("check", "config", MONITORING / "prometheus.yaml")
    assert "SUCCESS" in promtool("test", "rules", MONITORING / "alerts_test.yaml")
    rules = yaml.safe_load((MONITORING / "alerts.yaml").read_text())["groups"][0]["rules"]
    tests = yaml.safe_load((MONITORING / "alerts_test.yaml").read_text())["tests"]
    tried = {one["alertname"] for test in tests for one in test["alert_rule_test"]}
    assert tried == {rule["alert"] for rule in rules}, "each is tried"
    assert {name for rule in rules for name in names_in(rule["expr"])} <= shown()


def test_the_dashboard_shows_what_there_is(tmp_path):
    board = json.loads((MONITORING / "grafana.json").read_text())
    asked = [target["expr"] for panel in board["panels"] for target in panel["targets"]]
    named = {name for expression in asked for name in names_in(expression)}
    assert named <= shown()
    told = {line.split()[2] for line in TEXT.splitlines() if line.startswith("# TYPE")}
    of = {re.sub(r"_(bucket|sum|count)$", "", name) for name in named}
    assert told - of == {"ray_pipeline_flags_total", "ray_pipeline_drift_chance"}
    # Each is a query that Prometheus can read, once Grafana has filled in what is its own.
    rules = [
        {"record": f"panel:{at}", "expr": one.replace("$__rate_interval", "5m")}
        for at, one in enumerate(asked)
    ]
    made = tmp_path / "panels.yaml"
    made.write_text(json.dumps({"groups": [{"name": "panels", "rules": rules}]}))
    assert f"{len(asked)} rules found" in promtool("check", "rules", made)


@pytest.fixture
def prometheus(site, tmp_path):
    """A Prometheus that scrapes the site's endpoints, by the configuration that is given here."""
    (port,) = free_ports(1)
    config = yaml.safe_load((MONITORING / "prometheus.yaml").read_text())
    config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    config["rule_files"] = [str(MONITORING / "alerts.yaml")]
    target = config["scrape_configs"][0]["static_configs"][0]
    target["targets"] = [site.url.removeprefix("http://")]
    (tmp_path / "prometheus.yaml").write_text(yaml.safe_dump(config))
    command = [
        *("prometheus", f"--config.file={tmp_path / 'prometheus.yaml'}"),
        *(f"--storage.tsdb.path={tmp_path / 'data'}", f"--web.listen-address=127.0.0.1:{port}"),
    ]
    with (tmp_path / "log").open("w") as log, subprocess.Popen(command, stderr=log) as process:
        yield f"http://127.0.0.1:{port}/api/v1"
        process.terminate()


def test_a_prometheus_scrapes_an_endpoint(live, site, rows, prometheus):
    assert site.predict(rows[0]).status_code == 200

    def asked(expression):
        try:
            answer = httpx.get(f"{prometheus}/query", params={"query": expression})
        except httpx.TransportError:
            return []  # it has not begun to listen
        if answer.status_code == 503:
            return []  # or to answer
        return answer.json().get("data", {}).get("result", [])

    counted = waited(lambda: asked('ray_pipeline_requests_total{endpoint="model",code="200"} > 0'))
    assert counted[0]["metric"]["job"] == "ray_pipeline"
    (info,) = asked('ray_pipeline_model_info{endpoint="model"}')
    assert info["metric"]["version"] == live
    rules = httpx.get(f"{prometheus}/rules").json()["data"]["groups"][0]["rules"]
    assert {rule["health"] for rule in rules} <= {"ok", "unknown"}
    page = httpx.get(f"{prometheus}/targets").json()["data"]["activeTargets"][0]
    assert page["health"] == "up", page["lastError"]

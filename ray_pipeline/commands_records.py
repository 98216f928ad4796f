"""What the commands do that tell of a storage's runs and of who did what to it."""

from __future__ import annotations

import argparse
from typing import Any

from ray_pipeline.commands import printed

_HEADLINE = ("accuracy", "roc_auc", "r2", "rmse", "recall_at_5", "mrr")


def runs(options: argparse.Namespace) -> None:
    """List runs, newest first."""
    from ray_pipeline import runs as store

    records = store.listed(options.storage, options.job)
    rows = [
        {
            "run": record["run"],
            "job": record["job"]["name"],
            "status": record["status"],
            "seconds": record["seconds"],
            **_headline(record),
        }
        for record in records
    ]
    lines = [
        f"{row['run']}  {row['job']:<16} {row['status']:<8} {row['seconds']:>8.1f} s  "
        + "  ".join(f"{key} {row[key]:.4f}" for key in _HEADLINE if key in row)
        for row in rows
    ]
    printed({"runs": rows}, lines or ["no runs yet"], options.json)


def show(options: argparse.Namespace) -> None:
    """Print what a run did."""
    from ray_pipeline import runs as store

    record = store.found(options.storage, options.run)
    lines = [record.get("curl") or "nothing is deployed"] if options.curl else run_lines(record)
    printed(record, lines, options.json)


def report(options: argparse.Namespace) -> None:
    """Print where a run's page is."""
    from ray_pipeline import runs as store

    record = store.found(options.storage, options.run)
    printed({"report": record["report"]}, [record["report"]], options.json)


def compare(options: argparse.Namespace) -> None:
    """Print how two runs differ, and where a page is that shows both."""
    from upath import UPath

    from ray_pipeline import comparison
    from ray_pipeline import runs as store

    first, second = (store.found(options.storage, run) for run in (options.a, options.b))
    found = comparison.compared(first, second)
    folder = UPath(options.storage) / second["job"]["name"] / "runs" / second["run"]
    page = str(comparison.write(first, second, folder))
    printed(
        {**found, "page": page}, [*comparison.told(found), "", f"page      {page}"], options.json
    )


def audit(options: argparse.Namespace) -> None:
    """Print who did what to a storage, or verify that nothing in this log was changed."""
    from ray_pipeline import audit as log

    if options.verify or options.head:
        result = log.verify(options.storage, options.head or "")
        printed(
            result,
            [f"{result['entries']:,} entries, unbroken; head {result['head']}"],
            options.json,
        )
        return
    entries = list(log.entries(options.storage))
    lines = [f"{e['time']}  {e['who']:<12} {e['action']:<8} {e.get('what', '')}" for e in entries]
    printed({"entries": entries}, lines or ["nothing yet"], options.json)


def run_lines(record: dict[str, Any]) -> list[str]:
    lines = [f"run       {record['run']} {record['status']} in {record['seconds']:.1f} s"]
    if headline := _headline(record):
        lines.append("test      " + ", ".join(f"{k} {v:.4f}" for k, v in headline.items()))
    for name in ("bundle", "report", "endpoint"):
        if record.get(name):
            lines.append(f"{name:<9} {record[name]}")
    if record.get("error"):
        lines += ["error     " + record["error"]["message"]]
    if record.get("curl"):
        lines += ["", record["curl"]]
    return lines


def _headline(record: dict[str, Any]) -> dict[str, float]:
    metrics = record.get("metrics", {})
    return {key: metrics[key] for key in _HEADLINE if key in metrics}

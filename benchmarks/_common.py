"""What benchmarks share: a cluster of their own, and what each prints, which is the machine, the
versions, a table, and one line of JSON."""

from __future__ import annotations

import http.client
import json
import os
import platform
import subprocess
import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any


def open_and_not_nice() -> None:
    """Let Ray's processes that this one will start take no token, count nothing for Ray's makers,
    and be no nicer to others than the rivals' processes are, as `ray-pipeline up` has it."""
    os.environ["RAY_AUTH_MODE"] = "disabled"
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112 - its name


def start_ray(**settings: Any) -> None:
    """Start a Ray cluster on this machine that prints nothing; `ray.shutdown()` ends it."""
    open_and_not_nice()
    import ray

    quiet = {"include_dashboard": False, "log_to_driver": False, "configure_logging": False}
    ray.init(address="local", **quiet, **settings)


def said_by(script: str, *arguments: object) -> dict[str, Any]:
    """The JSON that a benchmark prints last, run as a process of its own; exits if it fails."""
    command = [sys.executable, "-W", "ignore", script, *map(str, arguments)]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    if ended.returncode:
        sys.exit(ended.stderr)
    return dict(json.loads(ended.stdout.splitlines()[-1]))


def is_ready(port: int, key: str, path: str) -> bool:
    """Whether a server of this machine answers 200 at `path`."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", path, headers={"X-API-Key": key})
        return connection.getresponse().status == 200
    except OSError:
        return False
    finally:
        connection.close()


def hardware() -> str:
    """The processor's name, the cores this process may use, and the memory, in one line."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return f"{_processor()}, {cores} cores, {memory:.0f} GiB"


def versions(*packages: str) -> dict[str, str]:
    """The installed version of each package, and Python's; `absent` where it is not installed."""
    return {"python": platform.python_version(), **{name: _version(name) for name in packages}}


def finish(
    name: str,
    rows: Sequence[Mapping[str, Any]],
    ratios: Mapping[str, float],
    figures: Mapping[str, Any],
    as_json: bool,
    *,
    packages: Sequence[str] = ("ray", "torch", "onnxruntime", "optuna"),
) -> None:
    """Print `rows` as a table, then the ratios (above 1: ours is better).

    With `as_json`, the last line is one JSON object of name, hardware, versions, ratios, figures.
    """
    print(f"{name} on {hardware()}\n")
    print(_table(rows))
    print()
    for key, value in ratios.items():
        print(f"{key} = {value:.3g}")
    if as_json:
        print(
            json.dumps(
                {
                    "name": name,
                    "hardware": hardware(),
                    "versions": versions(*packages),
                    "ratios": {key: round(value, 4) for key, value in ratios.items()},
                    "figures": dict(figures),
                }
            )
        )


def _processor() -> str:
    information = Path("/proc/cpuinfo")
    if information.exists():
        for line in information.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "absent"


def _table(rows: Sequence[Mapping[str, Any]]) -> str:
    if not rows:
        return ""
    heads = list(dict.fromkeys(key for row in rows for key in row))
    cells = [heads, *([_text(row.get(head, "")) for head in heads] for row in rows)]
    widths = [max(len(line[column]) for line in cells) for column in range(len(heads))]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in cells
    ]
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])


def _text(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)

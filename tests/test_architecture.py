"""The house's rules that a reader would otherwise have to check by eye."""

from __future__ import annotations

import ast
import resource
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "ray_pipeline"
FLOORS = [
    {"errors", "__init__"},
    {
        *("job", "jobfile", "schema", "bundle", "starter", "svg", "charts", "charts_search"),
        *("report", "report_view", "report_learning", "report_findings", "comparison"),
        "charts_shapes",
    },
    {
        *("runs", "audit", "tracking", "progress", "files", "sessions", "journal"),
        *("registered", "tracked"),
        *("stuck", "costs", "every", "run_metrics", "system_metrics"),
    },
    {"data"},
    {"model"},
    {"deploy"},
    {"chat", "watch"},
    {"ui"},
    {"pipeline", "path", "path_chat", "path_rows", "cluster", "payload", "submission", "driver"},
    {
        *("commands", "commands_chat", "commands_cluster", "commands_records"),
        *("commands_release", "commands_watch", "commands_ui"),
    },
    {"results"},
    {"cli"},
]


def floor(module: str) -> int:
    """The floor of a dotted module name below the package."""
    return next(height for height, names in enumerate(FLOORS) if module.partition(".")[0] in names)


def modules() -> list[tuple[str, Path]]:
    return [
        (".".join(path.relative_to(PACKAGE).with_suffix("").parts), path)
        for path in sorted(PACKAGE.rglob("*.py"))
    ]


def imported(path: Path) -> set[str]:
    """The package's own modules that a file imports, wherever in the file."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module == "ray_pipeline":
            names |= {alias.name for alias in node.names if alias.name != "__version__"}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("ray_pipeline."):
            names.add(str(node.module).removeprefix("ray_pipeline."))
    return names


@pytest.mark.parametrize(("module", "path"), modules(), ids=str)
def test_imports_run_one_way(module, path):
    upward = {name for name in imported(path) if floor(name) > floor(module)}
    assert not upward, f"{module} imports from above: {upward}"


@pytest.mark.parametrize(("module", "path"), modules(), ids=str)
def test_no_error_is_swallowed(module, path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ExceptHandler):
            assert node.type is not None, f"{path}:{node.lineno}: catches everything"
            assert not all(isinstance(line, ast.Pass) for line in node.body), (
                f"{path}:{node.lineno}: swallows an error"
            )


def test_nothing_in_the_package_unpickles():
    for _, path in modules():
        text = path.read_text()
        assert "pickle.load" not in text, path
        for line in text.splitlines():
            if "torch.load(" in line:
                assert "weights_only=True" in line, f"{path}: {line}"


EXTRAS = (
    *("langchain_core", "lancedb", "openai", "xllamacpp", "transformers", "tokenizers", "peft"),
    *("deepspeed", "selectolax", "pypdfium2", "av", "deltalake", "pyiceberg", "lance", "s3fs"),
    *("pymysql", "adbc_driver_postgresql", "redis", "pymongo", "crowdkit", "presidio_analyzer"),
    *("rapidfuzz", "pint", "datasketch", "py3langid", "jwt", "python_calamine", "gguf"),
    "vllm",
)
"""Modules that only extras install."""


def test_no_command_needs_an_extra_before_a_job_does():
    script = f"""
import importlib, sys

for name in {EXTRAS}:
    sys.modules[name] = None  # importing it fails, as where it is not installed
for name in (
    *("pipeline", "driver", "submission", "tracking", "watch.loop", "ui.app", "deploy.replica"),
    *("deploy.front", "deploy.batch", "deploy.release", "commands_chat", "commands_watch"),
    "path_rows",
):
    importlib.import_module(f"ray_pipeline.{{name}}")
"""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


TRAINS = ("torch", "transformers", "ray.train", "ray.data")
SEARCHES = ("ray.tune", "optuna")


@pytest.mark.parametrize(
    ("names", "unused"),
    [
        (("pipeline", "path_chat", "chat.replica", "chat.parts"), TRAINS + SEARCHES),
        (("deploy.replica", "deploy.front"), TRAINS + SEARCHES),
        (("path_rows",), SEARCHES),
    ],
    ids=["chatbots", "endpoints", "rows"],
)
def test_what_is_not_used_is_not_imported(names, unused):
    """It would cost each process seconds, and memory."""
    script = (
        f"import importlib, sys; [importlib.import_module('ray_pipeline.' + n) for n in {names}];"
        f"print([m for m in {unused} if m in sys.modules])"
    )
    command = [sys.executable, "-W", "ignore", "-c", script]
    printed = subprocess.run(command, capture_output=True, text=True, check=False)
    assert printed.stdout.strip() == "[]", printed.stderr


def test_help_imports_nothing_heavy():
    script = (
        "import sys; from ray_pipeline import cli; cli._parser();"
        "print([m for m in ('ray', 'torch', 'pyarrow', 'pydantic', 'numpy') if m in sys.modules])"
    )
    command = [sys.executable, "-c", script]
    printed = subprocess.run(command, capture_output=True, text=True, check=False)
    assert printed.stdout.strip() == "[]", printed.stderr


def test_help_answers_at_once():
    """In seconds of a core, which do not depend on what else the machine does."""
    command = [sys.executable, "-m", "ray_pipeline.cli", "--help"]
    seconds = []
    for _ in range(3):
        begun = cpu_seconds()
        subprocess.run(command, capture_output=True, check=True)
        seconds.append(cpu_seconds() - begun)
    assert min(seconds) < 0.3


def cpu_seconds() -> float:
    """Of the processes that this one has started and waited for."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime

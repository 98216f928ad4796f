"""The image's recipe, as far as it can be held without a Docker engine."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from ray_pipeline import cli, jobfile
from ray_pipeline.errors import JobError

ROOT = Path(__file__).parents[1]
TRAINING = ("torch", "mlflow", "lightgbm", "optuna", "onnx", "sklearn", "deepspeed", "transformers")


def instructions() -> list[tuple[str, str]]:
    text = re.sub(r"\\\n\s*", " ", (ROOT / "Dockerfile").read_text())
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return [(line.partition(" ")[0], line.partition(" ")[2]) for line in lines]


def values(name: str) -> list[str]:
    return [value for instruction, value in instructions() if instruction == name]


def test_its_commands_are_ours():
    """Each target's command line, as Docker puts it together, is one that we read."""
    entry = json.loads(values("ENTRYPOINT")[0])
    assert entry[:3] == ["tini", "--", "ray-pipeline"]
    found = [
        cli._parser().parse_args([*entry[3:], *json.loads(command)]) for command in values("CMD")
    ]
    assert [options.bundle for options in found] == [["/bundle"], ["/bundle"]]
    settings = [jobfile.serving(options.set) for options in found]
    assert [(one.host, one.gpus) for one in settings] == [("0.0.0.0", 0), ("0.0.0.0", 1)]
    assert str(settings[0].port) in values("EXPOSE")
    assert f"127.0.0.1:{settings[0].port}/v2/health/ready" in values("HEALTHCHECK")[0]


def test_it_is_nobodys_root_and_copies_what_is_there():
    assert values("USER") == ["${UID}"]
    assert int(values("ARG")[1].partition("=")[2]) > 1000
    for value in values("COPY"):
        if not value.startswith("--from"):
            assert all((ROOT / name).exists() for name in value.split()[:-1]), value
    let_in = re.findall(r"^!(\S+)", (ROOT / ".dockerignore").read_text(), re.MULTILINE)
    for name in ("constraints.txt", "docker", "pyproject.toml", "ray_pipeline", "README.md"):
        assert name in let_in


def test_what_it_installs_is_pinned():
    pinned = {
        re.split("[=\\[]", line)[0].lower().replace("_", "-")
        for line in (ROOT / "constraints.txt").read_text().splitlines()
        if "==" in line
    }
    needed = (ROOT / "docker/serving.txt").read_text().splitlines()
    names = {re.split("[=\\[]", line)[0] for line in needed if not line.startswith("#")}
    assert {"ray", "onnxruntime", "msgspec"} <= pinned
    assert names - pinned <= {"python-multipart", "pyjwt"}


IMPORTED = """
import json, sys
import ray_pipeline.deploy.release, ray_pipeline.deploy.replica, ray_pipeline.commands
print(json.dumps(sorted({name.partition(".")[0] for name in sys.modules})))
"""


def test_an_endpoint_imports_nothing_of_training():
    done = subprocess.run(
        [sys.executable, "-c", IMPORTED], capture_output=True, text=True, check=True
    )
    assert not set(json.loads(done.stdout.splitlines()[-1])) & {*TRAINING}


def test_settings_without_a_job_file():
    found = jobfile.serving(["port=9000", "replicas={min: 2, max: 3}", "providers.order=[cpu]"])
    assert (found.port, found.replicas.max, found.providers.tried) == (9000, 3, ("cpu",))
    for wrong in (["prt=1"], ["port=no"], ["port"]):
        with pytest.raises(JobError, match="--set"):
            jobfile.serving(wrong)

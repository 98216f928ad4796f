"""Every command block of the README, run in order as a new user would; then what they left."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from ray_pipeline import cli
from ray_pipeline.deploy import ports

ROOT = Path(__file__).parents[1]
BLOCKS = re.findall(r"```sh\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
TESTING = "make test\n"


@dataclass
class Place:
    """A copy of the checkout with storage, port and state of its own."""

    folder: Path
    port: int
    environment: dict[str, str]
    printed: dict[str, str]

    def run(self, script: str, code: int = 0) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", script],
            cwd=self.folder, env=self.environment, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == code, f"{script}\n{done.stdout}\n{done.stderr}"
        return done

    @property
    def command(self) -> str:
        return (
            f"run jobs/income.yaml --set storage={self.folder}/storage "
            f"--set serve.port={self.port} "
        )

    def job(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return self.run("ray-pipeline " + self.command + " ".join(arguments))

    def called(self, *arguments: str, code: int = 0) -> None:
        """The command without a process of its own, whose imports take seconds; it runs on the
        session's cluster."""
        with contextlib.chdir(self.folder), pytest.MonkeyPatch.context() as patch:
            patch.setenv("RAY_PIPELINE_HOME", self.environment["RAY_PIPELINE_HOME"])
            patch.delenv("RAY_PIPELINE_MLFLOW", raising=False)
            assert cli.main(shlex.split(self.command + " ".join(arguments))) == code

    def records(self) -> list[dict[str, Any]]:
        paths = sorted((self.folder / "storage" / "income" / "runs").glob("*/run.json"))
        return [json.loads(path.read_text()) for path in paths]


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Iterator[Place]:
    """The README's blocks have been run here, all but `make test`, which runs this very test, and
    the last, which ends it all."""
    folder = tmp_path_factory.mktemp("readme")
    for name in ("jobs", "Makefile"):
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, folder / name)
    # The set-up step itself is what made the environment that runs this test.
    binaries = Path(sys.executable).parent
    for name in ("pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, folder / name)
    (folder / ".venv").mkdir()
    (folder / ".venv" / "bin").symlink_to(binaries)
    (folder / ".venv" / "demo").touch()
    port = ports.free_ports(1)[0]
    environment = {
        **os.environ,
        "PATH": f"{binaries}:{os.environ['PATH']}",
        "RAY_PIPELINE_HOME": str(folder / "home"),
        "PORT": str(port),
    }
    environment.pop("RAY_ADDRESS", None)
    for name in ("MAKEFLAGS", "MAKELEVEL", "MFLAGS", "OMP_NUM_THREADS", "RAY_PIPELINE_MLFLOW"):
        environment.pop(name, None)
    here = Place(folder, port, environment, {})
    try:
        for block in BLOCKS[:-1]:
            if block != TESTING:
                script = block.replace(":8000", f":{port}").replace("/tmp/", f"{folder}/")
                here.printed[block] = here.run(script).stdout
        yield here
    finally:
        here.run(BLOCKS[-1])
        mark = f"RAY_PIPELINE_HOME={folder}/home"
        left = subprocess.run(
            f"grep -laz '{mark}' /proc/[0-9]*/environ", shell=True, capture_output=True, text=True,
            check=False,
        )  # fmt: skip
        assert not left.stdout, f"left running: {left.stdout}"


def test_the_first_two_commands_set_up_everything(place):
    assert BLOCKS[:2] == ["make demo\n", TESTING]
    assert "pytest" in place.run("make --dry-run test BIN=bin -o .venv/dev").stdout


def test_the_demo_ends_with_an_answer(place):
    printed = place.printed["make demo\n"]
    assert '"probability"' in printed
    assert "report.html" in printed
    (demo,) = place.records()[:1]
    assert demo["status"] == "done"
    assert demo["metrics"]["accuracy"] >= 0.855
    assert demo["metrics"]["accuracy"] > demo["metrics"]["baseline"]["accuracy"]


def test_no_row_is_lost(place):
    demo = place.records()[0]
    clean = demo["stages"][0]
    assert clean["rows_in"] == 32_561 + 16_281 + 1  # the test file's first line is no row
    assert clean["rows_in"] == clean["rows_out"] + clean["rows_quarantined"]


def test_the_batch_predicts_what_the_endpoint_does(place):
    predicted = pq.read_table(place.folder / "predicted.parquet").slice(0, 20)
    fields = json.loads(place.run("ray-pipeline show latest --json").stdout)["schema"]["columns"]
    names = [column["name"] for column in fields if column["role"] == "feature"]
    body = json.dumps({"rows": predicted.select(names).to_pylist()}).encode()
    key = place.run("ray-pipeline key").stdout.strip()
    request = urllib.request.Request(
        f"http://127.0.0.1:{place.port}/income/predict", body, {"X-API-Key": key}
    )
    with urllib.request.urlopen(request) as response:
        answers = json.load(response)["predictions"]
    assert [answer["label"] for answer in answers] == predicted["prediction"].to_pylist()
    # Rounding to 8 bits, where it pays, is by the batch's own range.
    form = json.loads(next(place.folder.glob("storage/income/bundles/*/manifest.json")).read_text())
    tolerance = 1e-5 if form["parity"]["form"] == "fp32" else 0.05
    assert [answer["probability"] for answer in answers] == pytest.approx(
        predicted["probability"].to_pylist(), abs=tolerance
    )


def test_a_second_run_makes_nothing_again(place):
    result = json.loads(place.job("--json").stdout.splitlines()[-1])
    assert set(result) == {"run", "bundle", "endpoint", "report", "metrics", "stages"}
    assert all(stage["cached"] for stage in result["stages"]), result["stages"]


def test_a_changed_setting_redoes_what_depends_on_it(place, ray_cluster, capsys):
    done = place.job("--set serve.max_rows=10", "--json").stdout.splitlines()[-1]
    cached = {stage["name"]: stage["cached"] for stage in json.loads(done)["stages"]}
    assert not cached.pop("deploy")
    assert all(cached.values())
    changed = "--set train.learning_rate=0.002 --set tune=null --set train.epochs=1 --until train"
    place.called(changed, "--json")
    done = capsys.readouterr().out.splitlines()[-1]
    cached = {stage["name"]: stage["cached"] for stage in json.loads(done)["stages"]}
    before = dict.fromkeys(("clean", "split", "bias", "features"), True)
    assert cached == {**before, "train": False}


def test_a_killed_run_goes_on_under_its_id(place):
    settings = "--set tune.trials=4 --set tune.epochs=1 --until tune"
    command = f"exec ray-pipeline {place.command} {settings}"
    before = len(place.records())
    killed = subprocess.Popen(
        ["bash", "-c", command], cwd=place.folder, env=place.environment, stderr=subprocess.PIPE
    )
    work = place.folder / "storage" / "income" / "stages"
    until = time.monotonic() + 60
    while time.monotonic() < until:
        if any(
            "ended" in p.read_text() or p.stat().st_size > 2
            for p in work.glob("tune-*/work/trials.json")
        ):
            break
        time.sleep(0.1)
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    running = place.records()[-1]
    assert len(place.records()) == before + 1
    assert running["status"] == "running"
    result = json.loads(place.job(settings, "--json").stdout.splitlines()[-1])
    assert result["run"] == running["run"]
    assert len(place.records()) == before + 1
    assert place.records()[-1]["status"] == "done"
    assert place.records()[-1]["resumed"] == 1


def test_mlflow_has_one_run_for_each(place):
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{place.folder}/storage/mlflow.db")
    experiment = client.get_experiment_by_name("income")
    assert experiment is not None
    found = client.search_runs([experiment.experiment_id])
    runs = [one for one in found if "mlflow.parentRunId" not in one.data.tags]  # no trials
    assert len(runs) == len(place.records())
    assert int(client.get_model_version_by_alias("income", "champion").version) == 1


def test_a_gate_that_is_not_met_refuses(place, ray_cluster, capsys):
    place.called("--set evaluate.gates.accuracy.min=0.99", code=3)
    assert "0.99" in capsys.readouterr().err
    assert place.records()[-1]["status"] == "refused"
    assert "0.99" in Path(place.records()[-1]["report"]).read_text()


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ("--set data.source=no/such.csv", "no/such.csv"),
        ("--set data.lable=x", "did you mean `label`?"),
        ("--set evaluate.groups='[sexx]'", "sex"),
        ("--set model.name=mpl", "mlp"),
        ("--until trian", "train"),
    ],
)
def test_what_is_wrong_is_said_before_anything_is_trained(
    place, ray_cluster, capsys, settings, expected
):
    place.called(settings, code=2)
    said = capsys.readouterr().err
    assert expected in said
    assert "Traceback" not in said

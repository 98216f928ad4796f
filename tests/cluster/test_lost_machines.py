"""In every stage of a job one of its two machines is lost, and another joins: the job ends as if
nothing had been."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import ExitStack, contextmanager
from pathlib import Path

from nodes import machine

from ray_pipeline.deploy.ports import free_ports

STAGES = ("clean", "features", "train", "evaluate", "export")
ROWS = 60_000
JOB = """
name: unlucky
storage: {folder}/storage
data: {{source: "{folder}/rows/*.csv", label: left}}
train: {{workers: 2, cpus: 1, epochs: 6, checkpoint_every: 20}}
"""


def begun(storage: Path, stage: str) -> Path | None:
    """The folder of a stage that is being made."""
    found = list(storage.glob(f"stages/{stage}-*"))
    return found[0] if found else None


@contextmanager
def standing_still(process: subprocess.Popen[str]) -> Iterator[None]:
    """What it does is not over before the block is, however slow this machine."""
    process.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        process.send_signal(signal.SIGCONT)


def written(folder: Path) -> None:
    folder.mkdir()
    for part in range(4):
        rows = [f"{i},{i % 89},{i % 7},{['no', 'yes'][i % 89 > 40]}" for i in range(part, ROWS, 4)]
        (folder / f"{part}.csv").write_text("\n".join(["id,x,y,left", *rows]) + "\n")


def test_a_machine_lost_in_every_stage_changes_nothing(tmp_path):
    written(tmp_path / "rows")
    (tmp_path / "job.yaml").write_text(JOB.format(folder=tmp_path))
    storage, port, struck = tmp_path / "storage" / "unlucky", free_ports(1)[0], []
    with ExitStack() as stack:
        head = stack.enter_context(machine(port, cpus=0))
        head.start("head")
        pool = stack.enter_context(ThreadPoolExecutor())

        def joining():
            made = stack.enter_context(machine(port, cpus=2))
            return made, pool.submit(made.start, "worker")

        workers = [joining(), joining()]
        wait([started for _, started in workers])
        command = [sys.executable, "-W", "ignore", "-m", "ray_pipeline.cli", "run", "job.yaml"]
        with (tmp_path / "told").open("w") as told:
            run = subprocess.Popen(
                [*command, "--until", "export", "--json"],
                cwd=tmp_path, env=head.user(), stdout=subprocess.PIPE, stderr=told, text=True,
            )  # fmt: skip
            for stage in STAGES:
                while (folder := begun(storage, stage)) is None and run.poll() is None:
                    time.sleep(0.02)
                time.sleep(0.2)  # it is at work
                with standing_still(run):
                    if folder is not None and not (folder / "stage.json").exists():
                        struck.append(stage)
                    workers.pop(0)[0].kill()
                    workers.append(joining())
                    workers[0][1].result()  # the next to be lost is there
            out, _ = run.communicate(timeout=300)
        text = (tmp_path / "told").read_text()
        assert run.returncode == 0, text
    assert set(struck) >= {"clean", "train", "evaluate", "export"}, (struck, text)
    result = json.loads(out.splitlines()[-1])
    assert result["metrics"]["accuracy"] > 0.99
    record = json.loads(next(storage.glob("runs/*/run.json")).read_text())
    clean = next(stage["record"] for stage in record["stages"] if stage["name"] == "clean")
    assert (clean["rows_in"], clean["rows_out"]) == (ROWS, ROWS)

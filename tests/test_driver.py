"""A driver that is killed is started again; one that ended by itself is not."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

from ray_pipeline import driver
from ray_pipeline.errors import UsageError

DIES = """
import os, pathlib, signal, sys
file = pathlib.Path(sys.argv[1])
begun = len(file.read_text()) if file.exists() else 0
file.write_text("x" * (begun + 1))
if begun < int(sys.argv[2]):
    os.kill(os.getpid(), signal.SIGKILL)
sys.exit(int(sys.argv[3]))
"""


@pytest.mark.parametrize(
    ("deaths", "ends", "begun", "code"),
    [(0, 0, 1, 0), (2, 0, 3, 0), (0, 1, 1, 1), (1, 3, 2, 3), (9, 0, 3, 1)],
)
def test_it_is_started_again_only_where_a_signal_ended_it(tmp_path, deaths, ends, begun, code):
    file = tmp_path / "begun"
    command = [sys.executable, "-c", DIES, str(file), str(deaths), str(ends)]
    assert driver.kept_alive(command, restarts=2, pause_s=0.01) == code
    assert len(file.read_text()) == begun


STAYS = """
import sys
from ray_pipeline import driver
run = "import time; print(1, flush=True); time.sleep(600)"
sys.exit(driver.kept_alive([sys.executable, "-c", run]))
"""


def test_who_stops_it_stops_the_run(tmp_path):
    watching = subprocess.Popen([sys.executable, "-c", STAYS], stdout=subprocess.PIPE, text=True)
    try:
        assert watching.stdout.readline() == "1\n"
        begun = time.monotonic()
        os.kill(watching.pid, signal.SIGTERM)
        assert watching.wait(10) == 128 + signal.SIGTERM
        assert time.monotonic() - begun < 5
        assert watching.stdout.read() == "", "the run has ended too, and was not begun again"
    finally:
        watching.kill()
        watching.wait()


def test_what_the_environment_lacks_is_named(monkeypatch):
    monkeypatch.setenv("THERE", "1")
    driver.check_secrets(["THERE"])
    with pytest.raises(UsageError, match="SHOP_PASSWORD") as raised:
        driver.check_secrets(["SHOP_PASSWORD", "THERE"])
    assert "THERE" not in str(raised.value)
    assert "secrets.env" in raised.value.hint


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ([], ["run", "job.yaml", "--json"]),
        (
            ["--set", "train.epochs=1", "--until", "clean"],
            ["run", "job.yaml", "--json", "--set=train.epochs=1"],
        ),
        (
            ["--watch", "--set", "train.epochs=1"],
            ["watch", "job.yaml", "--once", "--json", "--set=train.epochs=1"],
        ),
    ],
)
def test_it_runs_a_command_that_the_command_line_takes(given, words, monkeypatch, tmp_path):
    from ray_pipeline import cli

    begun = []
    monkeypatch.setattr(driver, "kept_alive", lambda command: begun.append(command) or 0)
    (tmp_path / "job.yaml").write_text("name: x\ndata: {source: rows.csv, label: y}\n")
    monkeypatch.chdir(tmp_path)
    assert driver.main(["job.yaml", *given]) == 0
    ((_, _, module, *command),) = begun
    assert module == "ray_pipeline.cli"
    assert command[: len(words)] == words
    assert cli._parser().parse_args(command).json

from __future__ import annotations

import subprocess
import sys
import threading

import pytest

from ray_pipeline.results import Results


def test_only_the_main_thread_writes_to_standard_output(capsys: pytest.CaptureFixture[str]) -> None:
    stream = Results(sys.stdout)
    print('{"result": 1}', file=stream)
    other = threading.Thread(target=print, args=("a node was lost",), kwargs={"file": stream})
    other.start()
    other.join()
    stream.flush()
    assert capsys.readouterr() == ('{"result": 1}\n', "a node was lost\n")


def test_a_command_has_it_for_all_that_is_printed() -> None:
    script = """
import sys, threading
from ray_pipeline import cli, commands

def beside(text):
    other = threading.Thread(target=print, args=(text,))
    other.start()
    other.join()

def schema(options):
    "Prints, while another thread does."
    print("{}")
    beside("late")

commands.schema, sys.argv = schema, ["ray-pipeline", "schema"]
assert cli.main() == 0
beside("later")
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    assert done.stdout == "{}\n"
    assert done.stderr == "late\nlater\n"

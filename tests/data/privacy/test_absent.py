"""What is not loaded with Presidio and spaCy: each time in a process of its own."""

from __future__ import annotations

import subprocess
import sys
import threading

import pytest

from ray_pipeline.data.privacy.absent import absent

MASKING = """
import sys
from ray_pipeline.data.privacy import recognise

text = "Mary Jones has the address ann@example.com."
known = list(sys.meta_path)
assert recognise.masked([text], ["EMAIL", "PERSON"]) == ["<PERSON> has the address <EMAIL>."]
assert {"presidio_analyzer", "spacy"} < set(sys.modules)
assert not {"torch", "transformers"} & set(sys.modules)
assert [finder for finder in sys.meta_path if finder in known] == known

import torch
assert torch.ones(2).sum() == 2
assert recognise.masked([text], ["PERSON"]) == ["<PERSON> has the address ann@example.com."]
"""
AFTER_TORCH = """
import torch
from ray_pipeline.data.privacy import recognise

assert recognise.masked(["Mary Jones, a@example.com"], ["EMAIL", "PERSON"]) == ["<PERSON>, <EMAIL>"]
import thinc.compat
assert thinc.compat.torch is torch
"""


@pytest.mark.parametrize("script", [MASKING, AFTER_TORCH], ids=["before", "after"])
def test_who_masks_loads_no_torch_and_may_load_it(script):
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.fixture
def package(tmp_path, monkeypatch):
    """The name of one that can be imported, and is not yet."""
    (tmp_path / "some_package").mkdir()
    (tmp_path / "some_package" / "__init__.py").touch()
    (tmp_path / "some_package" / "inner.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    yield "some_package"
    for name in [name for name in sys.modules if name.startswith("some_package")]:
        del sys.modules[name]


def test_only_the_thread_that_says_so_goes_without(package):
    known = sys.meta_path
    with absent(package):
        for name in (package, f"{package}.inner"):
            with pytest.raises(ModuleNotFoundError) as refused:
                __import__(name)
            assert refused.value.name == package
        assert package not in sys.modules
        loading = threading.Thread(target=__import__, args=(f"{package}.inner",))
        loading.start()
        loading.join()
        assert f"{package}.inner" in sys.modules
        __import__(package)  # what is loaded is there for all
    assert sys.meta_path == known


def test_what_is_absent_in_several_threads_is_there_after_the_last(package):
    begun, other_done = threading.Event(), threading.Event()
    known = list(sys.meta_path)

    def other():
        with absent(package):
            begun.set()
            other_done.wait(60)

    thread = threading.Thread(target=other)
    with absent(package):
        thread.start()
        assert begun.wait(60)
        assert len(sys.meta_path) == len(known) + 2
    __import__(package)
    other_done.set()
    thread.join()
    assert sys.meta_path == known

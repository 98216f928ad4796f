"""The audit log: whole under many writers, and no entry changed, moved or left out unnoticed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from upath import UPath

from ray_pipeline import audit
from ray_pipeline.errors import DataError


def log_in(folder: Path) -> Path:
    return folder / "audit" / "log.jsonl"


@pytest.fixture
def written(tmp_path: Path) -> Path:
    for number in range(5):
        audit.write(str(tmp_path), "write", what=f"stage {number}", digest="ab")
    return tmp_path


def test_entries_say_who_what_and_when_and_verify(written):
    entries = list(audit.entries(str(written)))
    assert [entry["what"] for entry in entries] == [f"stage {n}" for n in range(5)]
    assert entries[0]["previous"] == audit.START
    assert all(entry["who"] and entry["time"] and entry["digest"] == "ab" for entry in entries)
    assert audit.verify(str(written)) == {"entries": 5, "head": entries[-1]["hash"]}


def test_a_log_that_is_not_there_has_no_entries(tmp_path):
    assert audit.verify(str(tmp_path)) == {"entries": 0, "head": audit.START}


def test_a_user_without_a_name_is_a_number(monkeypatch):
    for name in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os, "getuid", lambda: 4_000_001)
    assert audit.user() == "uid 4000001"


@pytest.mark.parametrize("victim", range(5))
@pytest.mark.parametrize("key", ["what", "who", "time", "previous", "hash"])
def test_a_changed_entry_is_found(written, victim, key):
    lines = log_in(written).read_text().splitlines()
    entry = json.loads(lines[victim])
    entry[key] = "f" * 64
    lines[victim] = json.dumps(entry)
    log_in(written).write_text("\n".join(lines) + "\n")
    with pytest.raises(DataError, match=r"altered|missing"):
        audit.verify(str(written))


@pytest.mark.parametrize("victim", range(4))
def test_an_entry_left_out_or_moved_is_found(written, victim):
    lines = log_in(written).read_text().splitlines()
    left = lines[:victim] + lines[victim + 1 :]
    for changed in (left, [*left, lines[victim]]):
        log_in(written).write_text("\n".join(changed) + "\n")
        with pytest.raises(DataError, match="missing"):
            audit.verify(str(written))


def test_a_log_cut_at_its_end_is_found_by_a_head_noted_before(written):
    head = audit.verify(str(written))["head"]
    assert audit.verify(str(written), head[:20])["entries"] == 5
    lines = log_in(written).read_text().splitlines()
    log_in(written).write_text("\n".join(lines[:-1]) + "\n")
    assert audit.verify(str(written))["entries"] == 4
    with pytest.raises(DataError, match="cut"):
        audit.verify(str(written), head[:20])


def test_half_a_line_is_found(written):
    text = log_in(written).read_text()
    log_in(written).write_text(text[:-40])
    with pytest.raises(DataError, match="entry 5 is cut"):
        audit.verify(str(written))
    with pytest.raises(DataError, match="last entry is cut"):
        audit.write(str(written), "read")


def test_many_processes_write_one_chain(tmp_path):
    script = (
        "import sys; from ray_pipeline import audit\n"
        "for n in range(25): audit.write(sys.argv[1], 'read', what=f'{sys.argv[2]} {n}')"
    )
    running = [
        subprocess.Popen([sys.executable, "-c", script, str(tmp_path), str(number)])
        for number in range(4)
    ]
    assert [process.wait(60) for process in running] == [0] * 4
    assert audit.verify(str(tmp_path))["entries"] == 100
    written = {entry["what"] for entry in audit.entries(str(tmp_path))}
    assert written == {f"{number} {n}" for number in range(4) for n in range(25)}


def test_an_object_store_holds_an_object_an_entry():
    storage = "memory://audited"
    for number in range(4):
        audit.write(storage, "write", what=str(number))
    assert audit.verify(storage)["entries"] == 4
    objects = sorted(UPath(storage, "audit").glob("*.json"), key=str)
    objects[1].unlink()
    with pytest.raises(DataError, match="missing"):
        audit.verify(storage)


@settings(max_examples=20)
@given(st.dictionaries(st.sampled_from(["what", "rows", "bundle"]), st.text(max_size=5000)))
def test_any_text_survives(tmp_path_factory, what):
    storage = str(tmp_path_factory.mktemp("log"))
    audit.write(storage, "read", **what)
    audit.write(storage, "read")
    first, _ = audit.entries(storage)
    assert {key: first[key] for key in what} == what
    assert audit.verify(storage)["entries"] == 2


def test_the_storage_of_a_bundle(tmp_path, monkeypatch):
    monkeypatch.setenv("RAY_PIPELINE_HOME", str(tmp_path / "home"))
    assert audit.storage_of(tmp_path / "store/job/bundles/ab") == str(tmp_path / "store")
    assert audit.storage_of("memory://store/job/bundles/ab") == "memory://store"
    assert audit.storage_of(tmp_path / "a copy") == str(tmp_path / "home")

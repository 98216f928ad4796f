"""What is uploaded: the job file, the user's own modules that it names, and nothing else."""

from __future__ import annotations

import shlex
import sys

import pytest

from ray_pipeline import payload
from ray_pipeline.errors import JobError

JOB = """
name: shop
storage: s3://bucket/storage
data: {source: s3://bucket/rows, label: left}
"""
LABELLED = """
name: shop
storage: s3://bucket/storage
data: {source: {url: "postgresql://me:${SHOP_PASSWORD}@db/shop", table: rows}, label: left}
label: {functions: {rule: {call: "my_rules.simple:votes"}}}
"""
FILES = {
    "job.yaml": JOB,
    "labelled.yaml": LABELLED,
    "secret.env": "KEY=1",
    "data/rows.csv": "left\n",
    "my_rules/__init__.py": "",
    "my_rules/simple.py": "import pyarrow\nimport my_helper\nfrom . import deep\n",
    "my_rules/deep.py": "",
    "my_rules/notes.txt": "",
    "my_helper.py": "import os, json, numpy, ray_pipeline\n",
    "my_other.py": "",
}


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A user's folder, from which Python imports."""
    folder = tmp_path / "home"
    for name, text in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    monkeypatch.syspath_prepend(str(folder))
    yield folder
    for name in [name for name in sys.modules if name.startswith("my_")]:
        del sys.modules[name]


@pytest.fixture
def packed(home, tmp_path):
    """Packs a file of the user's folder into a new one."""
    made = iter(range(100))

    def pack(file: str, *overrides: str, until: str | None = None, watch=False) -> payload.Payload:
        folder = tmp_path / f"upload{next(made)}"
        folder.mkdir()
        return payload.packed(home / file, overrides, folder, until, watch=watch)

    return pack


def held(found: payload.Payload) -> set[str]:
    return {str(p.relative_to(found.folder)) for p in found.folder.rglob("*") if p.is_file()}


def test_a_job_without_code_of_its_own_is_one_file(packed):
    found = packed("job.yaml")
    assert held(found) == {"job.yaml"}
    assert (found.folder / "job.yaml").read_text() == JOB


def test_modules_come_with_what_they_import_of_the_users_own(packed, home):
    rules = {f"my_rules/{name}.py" for name in ("__init__", "simple", "deep")}
    assert held(packed("labelled.yaml")) == {"job.yaml", "my_helper.py", *rules}


@pytest.mark.parametrize("key", ["model.name", "serve.autoscaling"])
def test_code_of_the_users_own(packed, home, key):
    found = packed("job.yaml", f"{key}=my_helper:made")
    assert held(found) == {"job.yaml", "my_helper.py"}


def test_passwords_stay_names(packed):
    assert packed("labelled.yaml").secrets == ("SHOP_PASSWORD",)
    assert packed("job.yaml").secrets == ()


def test_the_same_is_the_same_submission_and_each_change_another(packed, home):
    first = packed("labelled.yaml").id
    assert packed("labelled.yaml").id == first
    assert first.startswith("shop-")
    (home / "my_other.py").write_text("changed = 1")
    (home / "data/rows.csv").write_text("left\nno\n")
    assert packed("labelled.yaml").id == first, "what is not uploaded"
    (home / "my_helper.py").write_text("changed = 1")
    others = [
        packed("labelled.yaml").id,
        packed("labelled.yaml", "train.epochs=3").id,
        packed("labelled.yaml", until="label").id,
    ]
    assert len({first, *others}) == 4


def test_the_command_is_one_that_a_shell_reads_back(packed):
    found = packed("job.yaml", "data.missing=['?', '$HOME']", until="clean")
    words = "python -m ray_pipeline.driver job.yaml"
    assert found.command.startswith(words)
    assert shlex.split(found.command)[4:] == [
        "--set=data.missing=['?', '$HOME']",
        "--until=clean",
    ]


def test_a_look_of_the_watch_is_made_anew_once_it_is_done(packed):
    run, look = packed("job.yaml"), packed("job.yaml", "watch={}", watch=True)
    assert (run.again, look.again) == (False, True)
    assert packed("job.yaml", "watch={}").id != look.id
    assert shlex.split(look.command)[-1] == "--watch"
    with pytest.raises(JobError, match="nothing is to be watched"):
        packed("job.yaml", watch=True)


@pytest.mark.parametrize(
    ("override", "key"),
    [
        ("storage=storage", "storage"),
        ("data.source=data/rows.csv", "data.source.url"),
        ("data.test=../rows.csv", "data.test.url"),
        ("model.base=data", "model.base"),
    ],
)
def test_places_beside_the_job_file_are_refused(packed, override, key):
    with pytest.raises(JobError, match=rf"`{key}`: relative to the job file") as raised:
        packed("job.yaml", override)
    assert "s3://" in raised.value.expected


def test_a_folder_that_all_nodes_mount_is_a_place(packed):
    assert packed("job.yaml", "storage=/mnt/shared/storage").job.storage == "/mnt/shared/storage"

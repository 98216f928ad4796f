"""What a submission carries to a cluster: the job file, the user's own modules that it names, and
nothing else.

No data, no storage, no environment, no passwords: a job file names those by `${NAME}`, and each
node of the cluster has its own environment.
"""

from __future__ import annotations

import ast
import importlib.util
import json
import re
import shlex
import shutil
import sysconfig
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from ray_pipeline import __version__, jobfile, runs
from ray_pipeline.errors import JobError
from ray_pipeline.job import Job

JOB = "job.yaml"
_NAMED = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")


@dataclass(frozen=True)
class Payload:
    """A folder ready to be uploaded, the job in it, and a digest that the same content has again.

    `secrets` are the names of environment variables that the job needs where it runs.
    """

    folder: Path
    job: Job
    secrets: tuple[str, ...]
    digest: str
    command: str
    """What runs it, in a shell whose current folder is the uploaded one."""
    again: bool = False
    """Whether it is something else to do once it is done: a look of `watch` is."""

    @property
    def id(self) -> str:
        """The submission's name: of the same job, the same."""
        return f"{self.job.name}-{self.digest}"


def packed(
    path: Path | str,
    overrides: Sequence[str],
    folder: Path,
    until: str | None = None,
    *,
    watch: bool = False,
) -> Payload:
    """The job file at `path`, and what it needs of the user's own code, put into `folder`.

    Args:
        overrides: assignments such as `train.epochs=5`.
        folder: an empty one.
        until: the stage after which the job stops.
        watch: instead of a run, one look of `watch`.

    Raises:
        JobError: the file is wrong, has no section `watch` where a look is to be made, or names
            places that are only on this machine.
    """
    job = jobfile.read(path, overrides)
    if watch and job.watch is None:
        raise JobError("nothing is to be watched", where="watch", expected="a section `watch`")
    shutil.copyfile(path, folder / JOB)
    _check_places(job, _elsewhere(path, overrides), str(path))
    for name in _modules(job):
        _copy(name, folder)
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    code = {
        str(file.relative_to(folder)): sha256(file.read_bytes()).hexdigest()
        for file in files
        if file.name != JOB
    }
    digest = runs.digest_of([job, code, "watch" if watch else until, __version__])
    words = ["python", "-m", "ray_pipeline.driver", JOB]
    words += [f"--set={override}" for override in overrides]
    words += [f"--until={until}"] if until else []
    words += ["--watch"] if watch else []
    return Payload(folder, job, secrets(job), digest, shlex.join(words), again=watch)


def texts(payload: Payload) -> dict[str, str]:
    """The uploaded files, by their paths."""
    files = (file for file in payload.folder.rglob("*") if file.is_file())
    return {str(f.relative_to(payload.folder)): f.read_text(encoding="utf-8") for f in files}


def secrets(job: Job) -> tuple[str, ...]:
    """The names of environment variables that the job file refers to."""
    return tuple(sorted(set(_NAMED.findall(json.dumps(job.model_dump(mode="json"))))))


def _elsewhere(path: Path | str, overrides: Sequence[str]) -> Job:
    """The job as it reads from a folder that has nothing in common with its own."""
    with tempfile.TemporaryDirectory() as folder:
        deep = Path(folder, *["-"] * 20)  # no `..` leads out of it
        deep.mkdir(parents=True)
        shutil.copyfile(path, deep / JOB)
        return jobfile.read(deep / JOB, overrides)


def _check_places(here: Job, there: Job, where: str) -> None:
    """Raise JobError if a place means one thing here and another where the file is put."""
    keys = list(_differing(here.model_dump(mode="json"), there.model_dump(mode="json")))
    if keys:
        names = ", ".join(f"`{key}`" for key in keys)
        raise JobError(
            f"{names}: relative to the job file, which moves to the cluster without what is "
            "beside it",
            where=where,
            expected="places that every node sees: s3://… or another object store, a database, or "
            "the absolute path of a folder that all of them mount",
            hint="change them for this run with --set, such as --set storage=s3://bucket/storage",
        )


def _differing(one: Any, other: Any, at: str = "") -> Iterator[str]:
    """The dotted keys under which two settings differ."""
    if isinstance(one, dict):
        for key in one:
            yield from _differing(one[key], other[key], f"{at}.{key}".strip("."))
    elif isinstance(one, list):
        for index, (item, twin) in enumerate(zip(one, other, strict=True)):
            yield from _differing(item, twin, f"{at}.{index}")
    elif one != other:
        yield at


def _modules(job: Job) -> list[str]:
    """The top-level modules of the user's own that the job names as `module:function`, and those
    that they import."""
    named = [job.model.name]
    if job.label is not None:
        named += [function.call for function in job.label.functions.values() if function.call]
    if job.tune is not None and "model.name" in job.tune.space:
        named += map(str, job.tune.space["model.name"].choice or ())
    if job.serve.autoscaling:
        named.append(job.serve.autoscaling)
    waiting = [name.partition(":")[0].partition(".")[0] for name in named if ":" in name]
    found: list[str] = []
    while waiting:
        name = waiting.pop()
        if name not in found and (files := _files(name)):
            found.append(name)
            waiting += [imported for file in files for imported in _imports(file)]
    return sorted(found)


def _files(name: str) -> list[Path]:
    """The source files of a top-level module of the user's own; none if it is someone else's."""
    at = _place(name)
    if at is None:
        return []
    return sorted(at.rglob("*.py")) if at.is_dir() else [at]


def _place(name: str) -> Path | None:
    """The file or the folder of a top-level module of the user's own."""
    spec = importlib.util.find_spec(name)
    folders = list(spec.submodule_search_locations or ()) if spec else []
    if spec is None or not (spec.has_location or folders):
        return None
    at = Path(folders[0] if folders else str(spec.origin)).resolve()
    installed = {Path(sysconfig.get_path(kind)).resolve() for kind in ("stdlib", "purelib")}
    return None if name == "ray_pipeline" or installed & set(at.parents) else at


def _imports(file: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(file.read_bytes(), str(file))):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module.partition(".")[0]


def _copy(name: str, folder: Path) -> None:
    """Copy a module so that it is imported from `folder` by the same name."""
    at = _place(name)
    assert at is not None
    for file in _files(name):
        target = folder / file.relative_to(at.parent)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, target)

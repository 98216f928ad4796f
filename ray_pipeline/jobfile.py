"""Reading a job file: YAML to a `Job`, with errors that say which key on which line is wrong."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from ray_pipeline.errors import JobError
from ray_pipeline.job import Job

Location = tuple[str | int, ...]


class _Loader(yaml.SafeLoader):
    """YAML 1.2 numbers and booleans: `1e-4` is a number, `no` and `on` are texts."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:bool"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:bool", re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF")
)
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)[eE][-+]?[0-9]+$"),
    list("-+0123456789."),
)


def read(path: Path | str, overrides: Sequence[str] = ()) -> Job:
    """The job in the YAML file `path`, with `a.b=c` overrides applied.

    Relative paths in it are made absolute, starting from the file's own folder.

    Raises:
        JobError: the file or a key in it is wrong; the message has the line and the nearest key.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise JobError(
            f"cannot be read: {getattr(error, 'strerror', None) or error}",
            where=str(path),
            expected="a YAML job file",
            hint="`ray-pipeline init` writes one to start from",
        ) from error
    raw, lines = _parsed(text, str(path))
    for override in overrides:
        _apply(raw, override)
    return _resolved(_validated(raw, lines, str(path)), path.parent.resolve())


def json_schema() -> dict[str, Any]:
    """The job file's JSON Schema (draft 2020-12), for editors."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **Job.model_json_schema(),
    }


def _parsed(text: str, where: str) -> tuple[dict[str, Any], dict[Location, int]]:
    try:
        node = yaml.compose(text, Loader=_Loader)
        raw = yaml.load(text, Loader=_Loader)  # noqa: S506 - _Loader is a SafeLoader
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f"{where}, line {mark.line + 1}" if mark else where
        problem = getattr(error, "problem", None) or str(error)
        raise JobError(f"not YAML: {problem}", where=place) from error
    if not isinstance(raw, dict):
        raise JobError("holds no settings", where=where, expected="`name:`, `data:` and so on")
    lines: dict[Location, int] = {}
    _note_lines(node, (), lines, where)
    return raw, lines


def _note_lines(
    node: yaml.Node | None, at: Location, lines: dict[Location, int], where: str
) -> None:
    """Write down the line of every key, and refuse keys that stand twice."""
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            place = (*at, str(key.value))
            line = key.start_mark.line + 1
            if place in lines:
                raise JobError(
                    f"`{'.'.join(map(str, place))}` stands twice",
                    where=f"{where}, line {line}",
                    hint=f"the first is on line {lines[place]}; keep one",
                )
            lines[place] = line
            _note_lines(value, place, lines, where)
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            lines[(*at, index)] = value.start_mark.line + 1
            _note_lines(value, (*at, index), lines, where)


def _apply(raw: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise JobError(f"--set {override}: not an assignment", expected="--set a.b=value")
    try:
        value = yaml.load(text, Loader=_Loader)  # noqa: S506 - _Loader is a SafeLoader
    except yaml.YAMLError as error:
        raise JobError(f"--set {override}: the value is not YAML") from error
    *sections, last = key.split(".")
    here = raw
    for depth, section in enumerate(sections):
        inner = here.get(section)
        if inner is None:
            here[section] = inner = {}
        if not isinstance(inner, dict):
            place = ".".join(sections[: depth + 1])
            raise JobError(f"--set {override}: `{place}` is a value, not a section")
        here = inner
    here[last] = value


def _validated(raw: dict[str, Any], lines: dict[Location, int], where: str) -> Job:
    try:
        return Job.model_validate_json(json.dumps(raw, default=str), strict=True)
    except ValidationError as error:
        details = error.errors(include_url=False)
    # A union reports every branch that failed; a misspelt key explains more than its echoes.
    details.sort(key=lambda detail: detail["type"] != "extra_forbidden")
    messages = list(dict.fromkeys(_message(detail, lines) for detail in details))
    raise JobError("\n".join(messages), where=where, hint=_hint(details))


def _message(detail: ErrorDetails, lines: dict[Location, int]) -> str:
    location = _existing(detail["loc"], lines)
    key = ".".join(map(str, location)) or "the job"
    line = next((lines[location[:n]] for n in range(len(location), 0, -1) if location[:n] in lines), None)
    place = f"line {line}: " if line else ""
    if detail["type"] == "extra_forbidden":
        near = difflib.get_close_matches(str(location[-1]), _keys_at(location[:-1]), n=1, cutoff=0.5)
        suffix = f"; did you mean `{near[0]}`?" if near else ""
        return f"{place}unknown key `{key}`{suffix}"
    if detail["type"] == "missing":
        return f"{place}`{key}` is required"
    problem = detail["msg"].removeprefix("Value error, ")
    found = detail["input"]
    shown = "" if isinstance(found, (dict, list)) else f" (found {found!r})"
    return f"{place}`{key}`: {problem}{shown}"


def _existing(location: Iterable[str | int], lines: dict[Location, int]) -> Location:
    """`location` without the tags that pydantic adds for the branches of a union."""
    kept: Location = ()
    parts = list(location)
    for index, part in enumerate(parts):
        is_last = index == len(parts) - 1
        if (*kept, part) in lines or (is_last and isinstance(part, str) and part in _keys_at(kept)):
            kept = (*kept, part)
    return kept or tuple(parts[:1])


def _keys_at(location: Location) -> list[str]:
    """The keys that the job file allows under `location`; none under a free mapping."""
    model: Any = Job
    for part in location:
        field = model.model_fields.get(part) if _is_model(model) else None
        model = next(filter(_is_model, _types_in(field.annotation)), None) if field else None
    return list(model.model_fields) if _is_model(model) else []


def _is_model(value: Any) -> bool:
    return isinstance(value, type) and issubclass(value, BaseModel)


def _types_in(annotation: Any) -> list[Any]:
    arguments = getattr(annotation, "__args__", ())
    return [annotation, *(inner for argument in arguments for inner in _types_in(argument))]


def _hint(details: list[ErrorDetails]) -> str:
    if any(detail["type"] == "extra_forbidden" for detail in details):
        return "`ray-pipeline schema` prints every key with its meaning"
    return ""


def _resolved(job: Job, folder: Path) -> Job:
    data = {"source": _absolute(job.data.source, folder)}
    if job.data.test:
        data["test"] = _absolute(job.data.test, folder)
    return job.model_copy(
        update={
            "storage": _absolute(job.storage, folder),
            "data": job.data.model_copy(update=data),
        }
    )


def _absolute(path: str, folder: Path) -> str:
    return path if "://" in path else str((folder / Path(path).expanduser()).resolve())

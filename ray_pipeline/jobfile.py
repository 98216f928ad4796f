"""Reading a job file: YAML to a `Job`, with errors that say which key on which line is wrong."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from ray_pipeline.errors import JobError, UsageError
from ray_pipeline.job import Chat, Features, Job, Label, Serve, Source

Location = tuple[str | int, ...]


class Loader(yaml.SafeLoader):
    """YAML 1.2 numbers and booleans: `1e-4` is a number, `no` and `on` are texts."""


Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:bool"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
Loader.add_implicit_resolver(
    "tag:yaml.org,2002:bool", re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF")
)
Loader.add_implicit_resolver(
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


def source(url: str, **options: str | None) -> Source:
    """A source that a command names, its relative path starting from the current folder.

    Raises:
        UsageError: no job could name it so; what it says is not repeated, for it may be secret.
    """
    given = {name: value for name, value in options.items() if value is not None}
    try:
        found = Source.model_validate({"url": url, **given})
    except ValidationError as error:
        said = error.errors(include_url=False)[0]["msg"].removeprefix("Value error, ")
        raise UsageError(said) from None
    return _placed(found, Path.cwd())


def serving(overrides: Sequence[str], base: Serve | None = None) -> Serve:
    """The settings of an endpoint that has no job file: `serve` by assignments such as `port=8080`,
    the rest as in `base` or by default.

    Raises:
        JobError: an assignment is none, or a setting is not known or does not fit.
    """
    raw: dict[str, Any] = base.model_dump(mode="json", exclude_defaults=True) if base else {}
    for override in overrides:
        _apply(raw, override)
    try:
        return Serve.model_validate(raw)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(map(str, first["loc"]))
        raise JobError(
            f"`{place}`: {first['msg']}",
            where="--set",
            expected="settings of a job's `serve` section",
            hint="`ray-pipeline schema` describes them",
        ) from error


def json_schema() -> dict[str, Any]:
    """The job file's JSON Schema (draft 2020-12), for editors."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **Job.model_json_schema(),
    }


def _parsed(text: str, where: str) -> tuple[dict[str, Any], dict[Location, int]]:
    try:
        node = yaml.compose(text, Loader=Loader)
        raw = yaml.load(text, Loader=Loader)  # noqa: S506 - Loader is a SafeLoader
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
        value = yaml.load(text, Loader=Loader)  # noqa: S506 - Loader is a SafeLoader
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
        # As JSON, so that strict checks still take YAML's lists for tuples.
        return Job.model_validate_json(json.dumps(raw, default=str), strict=True)
    except ValidationError as error:
        details = error.errors(include_url=False)
    places: dict[Location, list[ErrorDetails]] = {}
    for detail in details:
        places.setdefault(_existing(detail["loc"], raw), []).append(detail)
    messages = [_message(location, found, lines) for location, found in places.items()]
    raise JobError("\n".join(messages), where=where, hint=_hint(details))


def _message(location: Location, details: list[ErrorDetails], lines: dict[Location, int]) -> str:
    key = ".".join(map(str, location)) or "the job"
    known = [location[:n] for n in range(len(location), 0, -1) if location[:n] in lines]
    place = f"line {lines[known[0]]}: " if known else ""
    if details[0]["type"] == "extra_forbidden":
        near = difflib.get_close_matches(str(location[-1]), _keys_at(location[:-1]), n=1)
        return f"{place}unknown key `{key}`" + (f"; did you mean `{near[0]}`?" if near else "")
    if details[0]["type"] == "missing":
        return f"{place}`{key}` is required"
    problems = [detail["msg"].removeprefix("Value error, ") for detail in details]
    found = details[0]["input"]
    # A URL may hold a password, which is perhaps what is wrong with it.
    hidden = isinstance(found, dict | list) or "://" in str(found)
    shown = "" if hidden else f" (found {found!r})"
    return f"{place}`{key}`: {', or '.join(problems)}{shown}"


def _existing(location: Iterable[str | int], raw: dict[str, Any]) -> Location:
    """`location` without the tags that pydantic adds for the branches of a union."""
    kept: Location = ()
    here: Any = raw
    for part in location:
        inside = part in here if isinstance(here, dict) else isinstance(part, int)
        if inside or part in _keys_at(kept):
            kept = (*kept, part)
            here = _at(here, part)
    return kept


def _at(value: Any, part: str | int) -> Any:
    if isinstance(value, dict):
        return value.get(part)
    return value[part] if isinstance(value, list) and isinstance(part, int) else None


def _keys_at(location: Location) -> list[str]:
    """The keys that the job file allows under `location`; none under a free mapping."""
    types: list[Any] = [Job]
    for part in location:
        types = [inner for kind in types for inner in _under(kind, part)]
    return [
        field.alias or name
        for kind in types
        if _is_model(kind)
        for name, field in kind.model_fields.items()
    ]


def _under(kind: Any, part: str | int) -> list[Any]:
    """The types that may stand under the key `part` of a model or a mapping."""
    if _is_model(kind):
        return _types_in(kind.model_fields[part].annotation) if part in kind.model_fields else []
    return _types_in(get_args(kind)[1]) if get_origin(kind) is dict else []


def _types_in(annotation: Any) -> list[Any]:
    """`annotation`, and if it is a union its members."""
    members = () if get_origin(annotation) is dict else get_args(annotation)
    return [annotation, *(inner for member in members for inner in _types_in(member))]


def _is_model(value: Any) -> bool:
    return isinstance(value, type) and issubclass(value, BaseModel)


def _hint(details: list[ErrorDetails]) -> str:
    if any(detail["type"] == "extra_forbidden" for detail in details):
        return "`ray-pipeline schema` prints every key with its meaning"
    return ""


def _resolved(job: Job, folder: Path) -> Job:
    data: dict[str, Any] = {"source": _placed(job.data.source, folder)}
    if job.data.test:
        data["test"] = _placed(job.data.test, folder)
    data["features"] = _encoders(job.data.features, folder)
    data["history"] = tuple(
        past.model_copy(update={"source": _placed(past.source, folder)})
        for past in job.data.history
    )
    return job.model_copy(
        update={
            "chat": job.chat and _chat_placed(job.chat, folder),
            "label": job.label and _label_placed(job.label, folder),
            "storage": _absolute(job.storage, folder),
            "stores": tuple(
                store.model_copy(update={"url": _absolute(store.url, folder)})
                for store in job.stores
            ),
            "data": job.data.model_copy(update=data),
            "model": job.model.model_copy(
                update={"base": job.model.base and _base(job.model.base, folder)}
            ),
        }
    )


def _chat_placed(chat: Chat, folder: Path) -> Chat:
    generate, judged = chat.generate, ("unanswerable", "paraphrases", "attacks")
    if generate.by == "llama" and generate.model:
        generate = generate.model_copy(update={"model": _absolute(generate.model, folder)})
    if generate.by == "vllm" and generate.model:
        generate = generate.model_copy(update={"model": _base(generate.model, folder)})
    files = {name: getattr(chat.judge, name) for name in judged}
    intents = chat.intents and chat.intents.model_copy(
        update={"examples": _absolute(chat.intents.examples, folder)}
    )
    judge = {name: path and _absolute(path, folder) for name, path in files.items()}
    rerank = chat.retrieve.rerank and chat.retrieve.rerank.model_copy(
        update={"model": _base(chat.retrieve.rerank.model, folder)}
    )
    return chat.model_copy(
        update={
            "encoder": _base(chat.encoder, folder),
            "corrections": chat.corrections and _absolute(chat.corrections, folder),
            "intents": intents,
            "retrieve": chat.retrieve.model_copy(update={"rerank": rerank}),
            "generate": generate,
            "judge": chat.judge.model_copy(update=judge),
        }
    )


def _label_placed(label: Label, folder: Path) -> Label:
    functions = {
        name: function.model_copy(
            update={"bundle": function.bundle and _absolute(function.bundle, folder)}
        )
        for name, function in label.functions.items()
    }
    annotations = tuple(_absolute(place, folder) for place in label.annotations)
    return label.model_copy(update={"functions": functions, "annotations": annotations})


def _encoders(features: Features, folder: Path) -> Features:
    """With the encoders that are folders by their absolute paths; others are a hub's."""
    columns = {
        name: column.model_copy(update={"encoder": _base(column.encoder, folder)})
        if column.encoder
        else column
        for name, column in features.columns.items()
    }
    return features.model_copy(update={"columns": columns})


def _base(name: str, folder: Path) -> str:
    placed = folder / Path(name).expanduser()
    return str(placed.resolve()) if placed.is_dir() else name


def _placed(source: Source, folder: Path) -> Source:
    labels = source.labels and _absolute(source.labels, folder)
    return source.model_copy(update={"url": _absolute(source.url, folder), "labels": labels})


def _absolute(path: str, folder: Path) -> str:
    if path.startswith("sqlite:///") and not path.startswith("sqlite:////"):
        return "sqlite:///" + str((folder / path.removeprefix("sqlite:///")).resolve())
    return path if "://" in path else str((folder / Path(path).expanduser()).resolve())

"""Parts of a chatbot that have replicas of their own: `serve.apart`.

Each is a Serve deployment of the chatbot's application, so that it is deployed, ready and taken
down with it. A replica of the chatbot gets a handle of each, under the part's name.
"""

from __future__ import annotations

import json
from importlib import import_module
from typing import Any, NamedTuple

import ray
from ray import serve
from upath import UPath

from ray_pipeline.bundle import Bundle
from ray_pipeline.deploy import scaling, vllm
from ray_pipeline.errors import JobError
from ray_pipeline.job import Apart, Job, Part, Serve
from ray_pipeline.job.chat import Generate


class _Kind(NamedTuple):
    """What runs a part, as `module:class`; the file of the bundle that it opens; and the calls
    in flight that one of its replicas is to have, and has at the most."""

    replica: str
    file: str
    target: float
    most: int


_KINDS = {
    "encoder": _Kind("ray_pipeline.chat.parts:EncoderReplica", "encoder.onnx", 4, 64),
    # It writes one answer after the other.
    "generator": _Kind("ray_pipeline.chat.parts:GeneratorReplica", "model.gguf", 1, 4),
}
_VLLM = "ray_pipeline.chat.vllm:VllmReplica"
"""The generator of `chat.generate.by: vllm`, of which a bundle holds the name alone."""


def check(apart: Apart | None, opened: Bundle) -> None:
    """Raises JobError: the bundle has no such part, or needs one that is not apart or cannot run
    here."""
    given, chatbot = apart.given if apart else {}, opened.manifest.task == "chat"
    generate = _generate(UPath(opened.path)) if chatbot else Generate()
    far = generate.by == "vllm"
    for name in given:
        file = _KINDS[name].file
        held = chatbot and file in opened.manifest.files
        if not (held or (far and name == "generator")):
            raise JobError(
                f"the bundle has no {name} to run apart: it holds no {file}",
                where=f"serve.apart.{name}",
                expected="a chatbot's bundle"
                + (", with `chat.generate.by: llama` or `vllm`" if name == "generator" else ""),
                hint="leave it out; `--set serve.apart=null` leaves out all",
            )
    if far:
        vllm.check(given.get("generator"), generate)


def ready(job: Job) -> None:
    """Raises JobError: what the job's chatbot needs besides its bundle is not there."""
    if job.chat and job.chat.generate.by == "vllm":
        apart = job.serve.apart
        vllm.check(apart.generator if apart else None, job.chat.generate)


def applications(path: str, settings: Serve) -> dict[str, serve.Application]:
    """The parts of the bundle at `path` that are apart, by name, to be bound to its replicas."""
    given = settings.apart.given if settings.apart else {}
    return {name: _application(name, part, path, settings) for name, part in given.items()}


def _application(name: str, part: Part, path: str, settings: Serve) -> serve.Application:
    if name == "generator" and (generate := _generate(UPath(path))).by == "vllm":
        return vllm.application(_class(_VLLM), part, generate, settings, name)
    return _deployment(name, part, settings).bind(path, max(1, int(part.cpus)))


def _generate(bundle: UPath) -> Generate:
    """Who puts a chatbot's answers into words, by its bundle."""
    told = json.loads((bundle / "chat.json").read_text(encoding="utf-8"))
    return Generate.model_validate_json(json.dumps(told["chat"]["generate"]))


def _class(named: str) -> Any:
    module, _, name = named.partition(":")
    return getattr(import_module(module), name)


def _deployment(name: str, part: Part, settings: Serve) -> serve.Deployment:
    kind = _KINDS[name]
    has_gpus = ray.cluster_resources().get("GPU")  # type: ignore[no-untyped-call]
    return serve.deployment(
        name=name,
        autoscaling_config=scaling.bounds(settings, part.replicas, kind.target),
        max_ongoing_requests=kind.most,
        ray_actor_options={
            "num_cpus": scaling.reserved(part.cpus),
            "num_gpus": part.gpus if has_gpus else 0,
        },
        max_surge_percent=100,
        logging_config={"enable_access_log": False},
    )(_class(kind.replica))

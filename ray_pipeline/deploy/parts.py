"""Parts of a chatbot that have replicas of their own: `serve.apart`.

Each is a Serve deployment of the chatbot's application, so that it is deployed, ready and taken
down with it. A replica of the chatbot gets a handle of each, under the part's name.
"""

from __future__ import annotations

from importlib import import_module
from typing import NamedTuple

import ray
from ray import serve

from ray_pipeline.bundle import Bundle
from ray_pipeline.deploy import scaling
from ray_pipeline.errors import JobError
from ray_pipeline.job import Apart, Part, Serve


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


def check(apart: Apart, opened: Bundle) -> None:
    """Raises JobError: the bundle has no such part."""
    for name in apart.given:
        file = _KINDS[name].file
        if opened.manifest.task != "chat" or file not in opened.manifest.files:
            raise JobError(
                f"the bundle has no {name} to run apart: it holds no {file}",
                where=f"serve.apart.{name}",
                expected="a chatbot's bundle"
                + (", with `chat.generate.by: llama`" if name == "generator" else ""),
                hint="leave it out; `--set serve.apart=null` leaves out all",
            )


def applications(path: str, settings: Serve) -> dict[str, serve.Application]:
    """The parts of the bundle at `path` that are apart, by name, to be bound to its replicas."""
    given = settings.apart.given if settings.apart else {}
    return {
        name: _deployment(name, part, settings).bind(path, max(1, int(part.cpus)))
        for name, part in given.items()
    }


def _deployment(name: str, part: Part, settings: Serve) -> serve.Deployment:
    kind = _KINDS[name]
    module, _, replica = kind.replica.partition(":")
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
    )(getattr(import_module(module), replica))

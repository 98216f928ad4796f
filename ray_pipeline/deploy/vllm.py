"""How Ray Serve runs a chatbot's language model by vLLM: through `ray.serve.llm`, whose deployment
reserves the GPUs in a placement group and starts the engine."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import ray
from ray import serve

from ray_pipeline.deploy import scaling
from ray_pipeline.errors import JobError
from ray_pipeline.job import Part, Serve
from ray_pipeline.job.chat import Generate

if TYPE_CHECKING:
    from ray.serve.llm import LLMConfig
    from ray.serve.llm.deployment import LLMServer

_WHERE = "chat.generate.by: vllm"
_OTHERS = "or choose another with --set chat.generate.by=…"
_TARGET, _MOST = 16, 256
"""Answers that a replica is to write at a time, and that it takes: vLLM writes many in the time of
one, and by default no more than 256 (Ray's own defaults have no bound, and would not scale)."""


def check(part: Part | None, generate: Generate) -> None:
    """See that the replicas can be made, before anything is deployed.

    Raises:
        JobError: they have no whole GPUs to run on, vLLM is not installed or does not know an
            argument, or there are too few GPUs.
    """
    if part is None or not part.whole_gpus:
        raise JobError(
            "the chatbot's language model has no GPU",
            where="serve.apart.generator",
            expected="replicas of its own, on whole GPUs",
            hint="set it to {gpus: 1}, or to more of them",
        )
    _check_gpus(part)
    try:
        _config(part, generate, {}).get_engine_config()
    except ImportError as error:
        raise JobError(
            f"vLLM is not installed here: {error}",
            where=_WHERE,
            expected="it on GPU nodes, and where the job is validated and deployed",
            hint=f"pip install 'ray-pipeline[vllm]', {_OTHERS}",
        ) from error
    except ValueError as error:
        raise JobError(str(error), where="chat.generate.engine") from error


def application(
    replica: type[LLMServer], part: Part, generate: Generate, settings: Serve, name: str
) -> serve.Application:
    """The deployment `name` of the class `replica`, to be bound to the chatbot's replicas."""
    from ray.serve.llm import build_llm_deployment

    return build_llm_deployment(
        _config(part, generate, _deployment(part, settings)),
        bind_kwargs={"tokens": generate.tokens},
        override_serve_options={"name": name},
        deployment_cls=replica,
    )


def _config(part: Part, generate: Generate, deployment: dict[str, Any]) -> LLMConfig:
    """What Ray is told of the model, its engine and its deployment. Raises ImportError: vLLM is not
    installed; ValueError: Ray does not take it."""
    from ray.serve.llm import LLMConfig, ModelLoadingConfig

    model = str(generate.model)
    return LLMConfig(
        model_loading_config=ModelLoadingConfig(
            # What is fetched from a URI is kept under the ID, so that it may not be one.
            model_id=model.rstrip("/").rpartition("/")[2],
            model_source=model,
        ),
        # -1: as long as the GPUs have room for, where the model could read more.
        engine_kwargs={
            "max_model_len": -1,
            **generate.engine,
            "tensor_parallel_size": part.whole_gpus,
        },
        deployment_config=deployment,
    )


def _deployment(part: Part, settings: Serve) -> dict[str, Any]:
    """Ray Serve's options. The GPUs are not among them: Ray puts one into each bundle of the
    replica's placement group, beside these CPUs in the first."""
    free = ray.available_resources().get("GPU", 0)  # type: ignore[no-untyped-call]
    return {
        "autoscaling_config": scaling.bounds(settings, part.replicas, _TARGET),
        "max_ongoing_requests": _MOST,
        "ray_actor_options": {"num_cpus": scaling.reserved(part.cpus)},
        # A new version waits for ever for GPUs that the old one has: where none are free, that goes
        # first, and answers are quoted meanwhile.
        "max_surge_percent": 100 if free >= part.whole_gpus else 0,
        "logging_config": {"enable_access_log": False},
    }


def _check_gpus(part: Part) -> None:
    """Refuse a machine, or a cluster of it alone, without the GPUs of a replica; to others they may
    be added when they are asked for. Raises JobError."""
    if ray.is_initialized():
        there = ray.cluster_resources().get("GPU", 0)  # type: ignore[no-untyped-call]
    else:
        import torch

        there = torch.cuda.device_count()
    if there < part.whole_gpus and (not ray.is_initialized() or scaling.alone()):
        raise JobError(
            f"this machine has {there:g} GPUs",
            where="serve.apart.generator",
            expected=f"{part.whole_gpus} for a replica",
            hint=f"do it where the GPUs are (`ray-pipeline submit`), {_OTHERS}",
        )

"""How many replicas Ray Serve runs and what they reserve; and the job's own autoscaling policy, in
processes that do not have its module.

Ray Serve imports a policy by its name wherever it reads a deployment's settings, which is also done
to tell an application's status. So it is given the name of one of ours, and the code of the job's.
"""

from __future__ import annotations

import hashlib
import importlib
from typing import Any

import ray
from ray import cloudpickle
from ray.serve.config import AutoscalingPolicy

from ray_pipeline.deploy import fast_path
from ray_pipeline.errors import JobError
from ray_pipeline.job import Replicas, Serve


def bounds(settings: Serve, replicas: Replicas, target: float) -> dict[str, Any]:
    """Ray Serve's autoscaling settings that aim at `target` requests in flight for a replica."""
    return {
        "min_replicas": replicas.min,
        "max_replicas": replicas.max,
        "target_ongoing_requests": target,
        "upscale_delay_s": settings.upscale_delay_s,
        "downscale_delay_s": settings.downscale_delay_s,
        # Load is averaged over this; the default of 30 answers a rush half a minute late.
        # It has to be above Serve's nominal interval of 10.
        "look_back_period_s": 11,
    }


def reserved(cpus: float) -> float:
    """What a replica reserves: `cpus`, but nothing on a cluster that is this machine alone.

    Two cores are soon reserved by some endpoints. The next run, whose tasks need a whole one, would
    wait until somebody takes an endpoint down; the system shares cores better than that."""
    return 0 if alone() else cpus


def alone() -> bool:
    """Whether the cluster is this machine alone, to which none will be added."""
    nodes = [node for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]
    return len(nodes) == 1 and fast_path.ALONE in (nodes[0].get("Labels") or {})


def own(context: Any) -> Any:
    """What the job's policy is called in Ray Serve, which carries its code beside the name."""
    raise NotImplementedError("Ray Serve calls the job's own policy in its place")


def policy(function: str | None) -> dict[str, Any]:
    """What Ray Serve's autoscaling settings say of the function `module:name`; nothing of none.

    Raises:
        JobError: it cannot be imported here.
    """
    if function is None:
        return {}
    module_name, _, name = function.partition(":")
    try:
        module = importlib.import_module(module_name)
        found = getattr(module, name)
    except (ImportError, AttributeError) as error:
        raise JobError(
            f"`{function}` cannot be imported: {error}",
            where="serve.autoscaling",
            expected="module:function",
            hint="put its folder on PYTHONPATH",
        ) from error
    code = _carried(module, found)
    # Ray Serve compares settings by what is shown: another code is another policy.
    shown = {"function": function, "digest": hashlib.sha256(code).hexdigest()}
    settings = {"policy_function": f"{__name__}:{own.__name__}", "policy_kwargs": shown}
    return {"policy": AutoscalingPolicy.from_serialized_policy_def(settings, code)}


def _carried(module: Any, function: Any) -> bytes:
    """A function with its module's code."""
    cloudpickle.register_pickle_by_value(module)  # type: ignore[no-untyped-call]
    try:
        return bytes(cloudpickle.dumps(function))  # type: ignore[no-untyped-call]
    finally:
        cloudpickle.unregister_pickle_by_value(module)  # type: ignore[no-untyped-call]

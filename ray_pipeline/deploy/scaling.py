"""The job's own autoscaling policy, in processes that do not have its module.

Ray Serve imports a policy by its name wherever it reads a deployment's settings, which is also done
to tell an application's status. So it is given a class of ours, with the function inside.
"""

from __future__ import annotations

import base64
import importlib
from typing import Any

from ray import cloudpickle

from ray_pipeline.errors import JobError


class Own:
    """Ray Serve's policy that asks the job's; `function` is what `_carried` made of it."""

    def __init__(self, function: str) -> None:
        self._decide = cloudpickle.loads(base64.b64decode(function))

    def __call__(self, context: Any) -> Any:
        """As the job's function: replicas wanted, and the state to find the next time."""
        return self._decide(context)


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
    carried = {"function": _carried(module, found)}
    return {"policy": {"policy_function": f"{__name__}:{Own.__name__}", "policy_kwargs": carried}}


def _carried(module: Any, function: Any) -> str:
    """A function with its module's code, as text."""
    cloudpickle.register_pickle_by_value(module)  # type: ignore[no-untyped-call]
    try:
        pickled: bytes = cloudpickle.dumps(function)  # type: ignore[no-untyped-call]
        return base64.b64encode(pickled).decode()
    finally:
        cloudpickle.unregister_pickle_by_value(module)  # type: ignore[no-untyped-call]

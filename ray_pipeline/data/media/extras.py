"""Libraries that only some jobs need, or an error that says how to install them."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from ray_pipeline.errors import DataError


def library(module: str, extra: str) -> Any:
    """The module. Raises DataError where it is not installed."""
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        if error.name != module.partition(".")[0]:
            raise
        raise DataError(
            f"{error.name} is not installed",
            where=f"the extra `{extra}`",
            hint=f"pip install 'ray-pipeline[{extra}]'",
        ) from None

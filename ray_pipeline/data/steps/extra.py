"""Libraries that only some steps need."""

from __future__ import annotations

import importlib
from typing import Any

from ray_pipeline.errors import DataError


def needed(module: str, what: str) -> Any:
    """The module, imported. Raises DataError, which says how to install it."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise DataError(
            f"{what} needs the library {module.partition('.')[0]}, which is not installed",
            where="data.clean.steps",
            hint="pip install 'ray-pipeline[clean]'",
        ) from error

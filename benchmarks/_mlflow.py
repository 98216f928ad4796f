"""The bundle, which is an MLflow model, behind MLflow's own scoring server, with a key before it.

`mlflow models serve` runs this app by uvicorn as well, but lets everybody in.
"""

from __future__ import annotations

from typing import Any

import _rivals


def app(bundle: str, key: str) -> Any:
    import mlflow
    from mlflow.pyfunc import scoring_server

    return _rivals.Keyed(scoring_server.init(mlflow.pyfunc.load_model(bundle)), key)

"""A bundle's model on this machine's GPU: by the first provider that agrees with the training."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ray_pipeline.bundle import Bundle
from ray_pipeline.deploy import halves, probe, providers, texts
from ray_pipeline.deploy.halves import Predict
from ray_pipeline.deploy.parity import Tried, judged
from ray_pipeline.errors import BundleError, ClusterError
from ray_pipeline.job.providers import Providers

READING, NETWORK = "gpu/reading.onnx", "gpu/network.onnx"
ENGINE = "gpu/network.tensorrt.onnx"


@dataclass(frozen=True)
class Opened:
    """What serves a bundle here: `run` takes columns as a Predictor's `of_clean` does, and is None
    for the CPU, which runs the bundle's own graph. `refused` are those tried before, and why."""

    provider: str
    run: Predict | None = None
    refused: tuple[Tried, ...] = ()


def opened(bundle: Bundle, settings: Providers, threads: int = 1) -> Opened:
    """The first of the providers in `settings` that agrees with the trained model here.

    They are asked for the bundle's probe, since an engine or a processor may be another than that
    on which they were measured.

    Raises:
        ClusterError: none of them does, and the CPU is not among them.
    """
    refused: list[Tried] = []
    for name in settings.tried:
        if name == "cpu":
            return Opened("cpu", None, tuple(refused))
        run, tried = _tried(bundle, name, settings, threads)
        if tried.passed:
            return Opened(name, run, tuple(refused))
        refused.append(tried)
    raise ClusterError(
        "no provider can serve this bundle here: "
        + "; ".join(f"{tried.provider}: {tried.why}" for tried in refused),
        where="serve.providers",
        hint="add `cpu` to serve.providers.order, or export the bundle on the GPU it is to run on",
    )


def _tried(
    bundle: Bundle, name: str, settings: Providers, threads: int
) -> tuple[Predict | None, Tried]:
    try:
        run = _run(bundle, name, threads)
        asked = probe.of(bundle)
        found = run(asked.columns)
    except (ClusterError, BundleError) as error:
        return None, Tried(name, False, error.what)
    except providers.LOADING_ERRORS as error:
        return None, Tried(name, False, str(error).splitlines()[0])
    return run, judged(name, found, asked.outputs, asked.deviation, settings)


def _run(bundle: Bundle, name: str, threads: int) -> Predict:
    files, told = bundle.manifest.files, bundle.manifest.accelerated
    network = ENGINE if name == "tensorrt" else NETWORK
    if network not in files:
        raise BundleError(f"the bundle has no {network}", where=str(bundle.path))
    behind = "cuda" if name == "tensorrt" else name
    reading = None
    if READING in files:
        reading = providers.session(str(bundle.path / READING), threads, behind)
    opened = providers.session(
        str(bundle.path / network), threads, name, optimize=name != "tensorrt"
    )
    run = halves.predicting(reading, opened, told["raw"], told["rows"])
    # A GPU begins a run in the time of thousands of tokens.
    return texts.reading(run, texts.columns_of(bundle), run_tokens=math.inf)

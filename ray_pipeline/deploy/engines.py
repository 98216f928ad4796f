"""The stage that prepares a bundle for GPUs: engines are built, and providers measured, on one."""

from __future__ import annotations

import math
import tempfile
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import onnx
import ray
from numpy.typing import NDArray
from upath import UPath

from ray_pipeline import bundle
from ray_pipeline.bundle import Bundle
from ray_pipeline.data import feature_graph
from ray_pipeline.data import features as prepared
from ray_pipeline.data.encoders.tokens import CHUNK
from ray_pipeline.data.statistics import Statistics, TokenStatistics
from ray_pipeline.deploy import calibrate, graph, halves, measure, providers, texts
from ray_pipeline.deploy.accelerated import ENGINE, NETWORK, READING
from ray_pipeline.deploy.halves import Columns, Halves, Predict
from ray_pipeline.deploy.parity import Tried, judged
from ray_pipeline.deploy.providers import Profile
from ray_pipeline.errors import ClusterError, GateRefused
from ray_pipeline.job.providers import Providers
from ray_pipeline.model import compress, train
from ray_pipeline.model.multilabel import Thresholds
from ray_pipeline.schema import Schema

GPUS = 1
"""That the task asks of the cluster for as long as it measures."""
_NOTE = (
    "Each provider was asked for validation rows on a GPU of this cluster, and held against the "
    "trained network. The first that agrees serves; a replica checks it again where it starts."
)


@dataclass(frozen=True)
class Work:
    """What a GPU node is given: a model, validation rows and what the trained network says of
    them, and what is to be tried. `ranges` is the table for TensorRT's 8 bits, if they are
    wanted."""

    model: Halves
    tokens: tuple[TokenStatistics, ...]
    columns: Columns
    truth: NDArray[Any]
    deviation: float
    settings: Providers
    profile: Profile
    ranges: bytes | None
    thresholds: Thresholds | None = None


@dataclass(frozen=True)
class Built:
    """What came of it: each provider but the CPU, the engine if it passed, and on which GPU."""

    tried: tuple[Tried, ...]
    engine: bytes | None
    gpu: str


def gpus() -> list[str]:
    """The kinds of GPU that this cluster has; empty if it has none."""
    found = ray.cluster_resources()  # type: ignore[no-untyped-call]
    if not found.get("GPU"):
        return []
    kinds = (name.partition(":")[2] for name in found if name.startswith("accelerator_type:"))
    return sorted(kinds) or ["unknown"]


def write(  # noqa: PLR0917 - a stage's inputs come by position
    exported: UPath,
    trained: UPath,
    features: UPath,
    split: UPath,
    schema: Schema,
    settings: Providers,
    usual: float,
    most: int,
    *,
    out: UPath,
) -> dict[str, Any]:
    """Write the bundle in `exported/bundle` to `out/bundle`, with what its replicas need on GPUs.

    Engines are made for runs of one to `most` rows, and are fastest at `usual`. The record says
    what was measured of each provider.

    Raises:
        GateRefused: no provider agrees with the network, and the CPU may not serve.
    """
    opened = bundle.opened(exported / "bundle")
    statistics, network = prepared.load(features), train.load(trained)
    reading = feature_graph.onnx_graph(statistics)
    plain = graph.network_graph(network, statistics, graph.opset_of(reading))
    model = graph.apart(reading, plain, statistics.raw)
    columns, truth = measure.first(split / "validation", schema, network, statistics)
    in_8_bits = settings.precision == "int8" and "tensorrt" in settings.tried
    work = Work(
        model,
        texts.tokenized(statistics),
        columns,
        truth,
        statistics.label.deviation if statistics.label.classes is None else 1.0,
        settings,
        profile(statistics, usual, most),
        calibrate.table(model.network, measure.calibration(features)) if in_8_bits else None,
        opened.manifest.thresholds,
    )
    made = ray.get(ray.remote(num_gpus=GPUS)(built).remote(work))
    return _written(opened, work, made, out)


def built(work: Work) -> Built:
    """Try every provider of `work` on the GPU that this process has."""
    tried: list[Tried] = []
    engine = None
    with tempfile.TemporaryDirectory() as folder:
        for name in work.settings.tried:
            if name == "cpu":
                break
            one = _tried(name, work, Path(folder))
            tried.append(one)
            if name == "tensorrt" and one.passed:
                engine = (Path(folder) / Path(ENGINE).name).read_bytes()
    return Built(tuple(tried), engine, _gpu())


def profile(statistics: Statistics, usual: float, most: int) -> Profile:
    """The shapes that a network of `statistics` meets at an endpoint: runs of 1 to `most` rows.

    Large images and texts go through it fewer at a time, as they do elsewhere.
    """
    image, tokens = statistics.image, statistics.tokens
    if image is not None:
        most = min(most, max(1, providers.PIXELS // (image.height * image.width)))
    if tokens is not None:
        most = min(most, CHUNK)

    def of(rows: int, length: int) -> dict[str, tuple[int, ...]]:
        inner: dict[str, tuple[int, ...]] = {
            "numbers": (statistics.number_width,),
            "categories": (len(statistics.category_sizes),),
            "tokens": (length,),
            "image": image.shape if image else (),
        }
        # An input without columns is not given to the network, which makes it itself.
        return {name: (rows, *inner[name]) for name in statistics.inputs if all(inner[name])}

    longest = max(2, tokens.longest) if tokens else 2
    aimed = max(1, min(round(usual), most))
    return Profile(of(1, 2), of(aimed, max(2, longest // 2)), of(most, longest))


def _tried(name: str, work: Work, folder: Path) -> Tried:
    try:
        run = _run(name, work, folder)
        found = run(work.columns)
    except ClusterError as error:
        return Tried(name, False, error.what)
    except providers.LOADING_ERRORS as error:
        return Tried(name, False, str(error).splitlines()[0])
    told = judged(name, found, work.truth, work.deviation, work.settings, work.thresholds)
    return replace(told, **asdict(compress.latencies({name: run}, work.columns)[name]))


def _run(name: str, work: Work, folder: Path) -> Predict:
    model, behind = work.model, "cuda" if name == "tensorrt" else name
    reading = providers.session(model.reading, provider=behind) if model.reading else None
    if name == "tensorrt":
        context = _engine(work, folder)
        network = providers.session(str(context), provider=name, optimize=False)
    else:
        network = providers.session(model.network, provider=name)
    run = halves.predicting(reading, network, model.raw, work.profile.rows)
    return texts.reading(run, work.tokens, run_tokens=math.inf)


def _engine(work: Work, folder: Path) -> Path:
    """The model that holds the network's engine, built in `folder`."""
    context, plain = folder / Path(ENGINE).name, folder / Path(NETWORK).name
    plain.write_bytes(work.model.network)
    if work.ranges is not None:
        (folder / providers.CALIBRATION).write_bytes(work.ranges)
    options = providers.tensorrt_options(work.profile, work.settings.precision, folder, context)
    providers.session(str(plain), provider="tensorrt", options=options)
    # The provider writes no such model of a network that it can only run in parts.
    if not context.exists():
        raise ClusterError("TensorRT cannot run the whole network")
    kinds = {node.op_type for node in onnx.load(context).graph.node}
    if kinds != {"EPContext"}:
        raise ClusterError(f"TensorRT leaves {', '.join(sorted(kinds - {'EPContext'}))} to others")
    return context


def _gpu() -> str:
    import torch

    return torch.cuda.get_device_name() if torch.cuda.is_available() else "none that torch knows"


def _written(source: Bundle, work: Work, made: Built, out: UPath) -> dict[str, Any]:
    passed = [tried.provider for tried in made.tried if tried.passed]
    if not passed and "cpu" not in work.settings.tried:
        reasons = "; ".join(f"{tried.provider}: {tried.why}" for tried in made.tried)
        raise GateRefused(
            f"no provider may serve: {reasons}",
            where="serve.providers",
            expected=f"a difference of at most {work.settings.max_difference:g}",
            hint="nothing was deployed; add `cpu` to serve.providers.order, or raise its precision",
        )
    content = {name: (source.path / name).read_bytes() for name in source.manifest.files}
    if passed:
        content[NETWORK] = work.model.network
        content |= {READING: work.model.reading} if work.model.reading else {}
        content |= {ENGINE: made.engine} if made.engine else {}
    tried = [asdict(one) for one in made.tried]
    told = {"raw": work.model.raw, "rows": work.profile.rows, "gpu": made.gpu, "providers": tried}
    version = out.name.rpartition("-")[2]
    manifest = replace(source.manifest, version=version, accelerated=told)
    bundle.write(out / "bundle", manifest, content)
    columns = list(tried[0]) if tried else []
    table = {"columns": columns, "rows": [list(one.values()) for one in tried]}
    return {
        "rows_in": len(work.truth),
        "rows_out": len(work.truth),
        "version": version,
        "provider": passed[0] if passed else "cpu",
        **told,
        "findings": [{"title": "Providers", "note": _NOTE, "tables": [table]}],
    }

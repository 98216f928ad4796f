"""The job file's settings: typed, frozen, checked when they are made.

A field's description is its documentation: `ray-pipeline schema` prints them as JSON Schema, and
editors show them. Reading the YAML and saying where in it an error stands is `jobfile.py`.
"""

from __future__ import annotations

from pydantic import Field, field_validator, model_validator

from ray_pipeline.job.augment import Augment
from ray_pipeline.job.balance import Balance
from ray_pipeline.job.base import Bound, Fraction, Price, Settings
from ray_pipeline.job.behaviour import Behaviour
from ray_pipeline.job.chat import Chat
from ray_pipeline.job.clean import Clean
from ray_pipeline.job.data import ColumnSettings, Data, Split
from ray_pipeline.job.evaluate import Evaluate, Importance, Robustness
from ray_pipeline.job.expect import Expectation
from ray_pipeline.job.features import Features
from ray_pipeline.job.history import History
from ray_pipeline.job.judge import Compress, Distill, Prune
from ray_pipeline.job.label import Function, Label, When
from ray_pipeline.job.model import Model
from ray_pipeline.job.privacy import Privacy
from ray_pipeline.job.providers import Providers
from ray_pipeline.job.serve import Apart, Jwt, Online, Part, Replicas, Serve
from ray_pipeline.job.source import Join, Source
from ray_pipeline.job.steps import Step
from ray_pipeline.job.store import Store
from ray_pipeline.job.train import Elastic, Offload, Train
from ray_pipeline.job.trial import Trial
from ray_pipeline.job.tune import CHANGEABLE, Range, Tune
from ray_pipeline.job.watch import Log, Watch

__all__ = [
    "CHANGEABLE",
    "Apart",
    "Augment",
    "Balance",
    "Behaviour",
    "Bound",
    "Chat",
    "Clean",
    "ColumnSettings",
    "Compress",
    "Data",
    "Distill",
    "Elastic",
    "Evaluate",
    "Expectation",
    "Features",
    "Fraction",
    "Function",
    "History",
    "Importance",
    "Job",
    "Join",
    "Jwt",
    "Label",
    "Log",
    "Model",
    "Offload",
    "Online",
    "Part",
    "Privacy",
    "Providers",
    "Prune",
    "Range",
    "Replicas",
    "Robustness",
    "Serve",
    "Settings",
    "Source",
    "Split",
    "Step",
    "Store",
    "Train",
    "Trial",
    "Tune",
    "Watch",
    "When",
]


CHAT = {"name", "storage", "data", "chat", "evaluate", "serve", "prices"}
"""The sections of a job with a chatbot."""
JUDGED = {"bootstrap", "gates"}
OF_ROWS = {
    "release",
    "online",
    "max_rows",
    "graphql",
    "jobs",
    "log",
    "guard",
    "round",
    "gpus",
    "providers",
}
"""What of `serve` a chatbot has not."""


class Job(Settings):
    """A job: from raw data to an answering endpoint."""

    name: str = Field(pattern=r"^[a-z][a-z0-9_-]{0,62}$", description="Names the endpoint too.")
    storage: str = Field(
        "storage", description="Where all that the job makes is kept: a path or an fsspec URI."
    )
    data: Data
    chat: Chat | None = Field(
        None,
        description="A chatbot that answers from the documents in `data.source`, and no model.",
    )
    label: Label | None = Field(None, description="Labels by functions that vote.")
    model: Model = Model()
    train: Train = Train()
    tune: Tune | None = None
    evaluate: Evaluate = Evaluate()
    compress: Compress = Compress()
    serve: Serve = Serve()
    watch: Watch | None = Field(None, description="What is kept of requests, and watched.")
    stores: tuple[Store, ...] = Field(
        (), description="Where clean rows are kept besides, for others to read and search."
    )
    prices: dict[str, Price] = Field(
        {},
        description="What a node costs in an hour by its type, as cluster.yaml calls it, or by its "
        "size, as in the report: for the cost of a run.",
        examples=[{"cpu-spot": 0.31, "gpu": 4.1, "8 CPU": 0.4}],
    )

    @model_validator(mode="after")
    def _a_model_or_a_chat(self) -> Job:
        if self.chat is None:
            if not self.data.label:
                raise ValueError("`data.label` is required: the column to predict")
            if self.serve.apart:
                raise ValueError("`serve.apart` is for a `chat`: other models have no parts")
            return self
        for part, kept in ((self, CHAT), (self.data, {"source"}), (self.evaluate, JUDGED)):
            if others := sorted(part.model_fields_set - kept):
                raise ValueError(f"`{others[0]}` is for jobs that train a model, not for a `chat`")
        if others := sorted(self.serve.model_fields_set & OF_ROWS):
            raise ValueError(f"`serve.{others[0]}` is for endpoints that predict rows")
        if self.chat.memory and self.serve.auth == "none":
            raise ValueError("`chat.memory` needs `serve.auth: key`: conversations belong to a key")
        return self

    @model_validator(mode="after")
    def _a_language_model_where_it_runs(self) -> Job:
        if self.chat is None:
            return self
        by, apart = self.chat.generate.by, self.serve.apart
        generator = apart.generator if apart else None
        if generator and by not in ("llama", "vllm"):
            raise ValueError(
                f"`serve.apart.generator` is for `chat.generate.by: llama` or `vllm`, and `{by}` "
                "has no model of its own; leave it out"
            )
        if by == "vllm" and not (generator and generator.whole_gpus):
            raise ValueError(
                "`chat.generate.by: vllm` runs in replicas of its own, on whole GPUs: it needs "
                "`serve.apart: {generator: {gpus: 1}}`, or more of them"
            )
        return self

    @model_validator(mode="after")
    def _something_to_search(self) -> Job:
        if self.tune is not None and not self.tune.space and self.model.name != "auto":
            raise ValueError("tune.space: say what to search, or set model.name to auto")
        return self

    @model_validator(mode="after")
    def _a_population_of_networks(self) -> Job:
        if self.tune is not None and self.tune.scheduler == "pbt":
            named = self.tune.space.get("model.name")
            if "trees" in (named.choice or () if named else (self.model.name,)):
                raise ValueError("tune.scheduler: pbt is for networks; trees have no weights")
        return self

    @model_validator(mode="after")
    def _texts_by_their_models(self) -> Job:
        if self.data.written != (self.model.name in ("language", "embedding")):
            raise ValueError(
                "model.name: a label of the kind `text` goes together with `language`, which "
                "writes texts, or `embedding`, which finds them"
            )
        if self.data.written and self.data.paired != (self.model.name == "embedding"):
            raise ValueError(
                "model.name: `embedding` needs `text: tokens` under data.features.columns both for "
                "the label, which it finds, and for the text that it is found by; `language` for "
                "one of the two"
            )
        if not self.data.written:
            return self
        if self.data.paired and self.train.checkpointing and self.train.strategy == "zero3":
            raise ValueError(
                "train.checkpointing: zero3 cannot compute blocks again that run for each of two "
                "texts; leave it out, or take zero2"
            )
        evaluate, compress = self.evaluate, self.compress
        other = {
            "label": self.label,
            "tune": self.tune,
            "train.augment": self.train.augment,
            "evaluate.groups": evaluate.groups,
            "evaluate.slices": evaluate.slices,
            "evaluate.behaviour": evaluate.behaviour,
            "evaluate.robustness": evaluate.robustness,
            "evaluate.champion": evaluate.champion,
            "compress.prune": compress.prune,
            "compress.distill": compress.distill,
        }
        if asked := [name for name, settings in other.items() if settings]:
            raise ValueError(
                f"{asked[0]}: is for models that predict, and this one writes or finds texts"
            )
        return self

    @model_validator(mode="after")
    def _rows_kept_no_longer_than_they_may(self) -> Job:
        days = self.data.privacy.retention_days if self.data.privacy else None
        log = self.watch.log if self.watch else None
        if days is not None and log is not None and log.max_age_days > days:
            raise ValueError(
                f"watch.log.max_age_days: {log.max_age_days:g}, and data.privacy.retention_days "
                f"allows {days}"
            )
        return self

    @property
    def served(self) -> Serve:
        """`serve`, with the log that `watch` asks for."""
        log = self.watch.log if self.watch else None
        return self.serve if log is None else self.serve.model_copy(update={"log": log})

    @field_validator("name")
    @classmethod
    def _not_reserved(cls, name: str) -> str:
        if name in {"v1", "v2", "metrics", "healthz", "audit"}:
            raise ValueError(f"{name!r} is a path of our own; choose another name")
        return name

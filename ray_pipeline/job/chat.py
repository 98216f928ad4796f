"""A chatbot that answers from documents."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from ray_pipeline.job.base import Fraction, Settings
from ray_pipeline.job.privacy import Entity
from ray_pipeline.job.source import spelt_password

PUBLIC = "public"
"""The group of documents that everybody may read who may call the endpoint."""
ENGINE_OWN = frozenset(
    {
        *("model", "served_model_name", "distributed_executor_backend"),
        *("tensor_parallel_size", "pipeline_parallel_size", "data_parallel_size"),
    }
)
"""Arguments of vLLM's engine that the job's other settings decide, or Ray."""
GroupName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_-]{0,62}$")]


class Access(Settings):
    """A group of documents that only some callers are answered from."""

    documents: tuple[str, ...] = Field(
        min_length=1,
        description="Names below the source's folder, with `*` and `?`: `internal/*`. A document "
        "that several groups name belongs to the first of them.",
    )
    keys: tuple[str, ...] = Field(
        (), description="Names of the keys (`ray-pipeline keys add NAME`) that open them."
    )


class Chunks(Settings):
    """How sections are divided into the passages that are found."""

    longest: int = Field(180, ge=20, le=2000, description="Words of a passage at the most.")
    overlap: int = Field(
        40,
        ge=0,
        description="Words of the passage before that one begins with, in whole sentences.",
    )

    @model_validator(mode="after")
    def _moves_on(self) -> Chunks:
        if self.overlap * 2 > self.longest:
            raise ValueError("`overlap` must be at most half of `longest`")
        return self


class ChatStore(Settings):
    """A server that keeps the index for all replicas, instead of each bundle."""

    url: str = Field(
        description="A PostgreSQL with pgvector, `postgresql://user:${NAME}@host/database`: NAME "
        "is a variable of the run's and of the replicas' own environment, and holds the password.",
        examples=["postgresql://chat:${CHAT_PASSWORD}@db/documents"],
    )

    @field_validator("url")
    @classmethod
    def _a_server(cls, url: str) -> str:
        if not url.startswith("postgresql://"):
            raise ValueError("must begin with postgresql://")
        if spelt_password(url):
            raise ValueError(
                "the URL holds a password; write `${NAME}` in its place and set NAME in the "
                "environment"
            )
        return url


class Rerank(Settings):
    """A cross-encoder, which reads the question together with each of the first passages."""

    model: str = Field(
        description="A folder relative to the job file with config.json, model.safetensors and "
        "tokenizer.json, or a hub's id: a model for sequence classification with one output.",
        examples=["cross-encoder/ms-marco-MiniLM-L6-v2"],
    )
    candidates: int = Field(
        20,
        ge=2,
        le=200,
        description="Passages that it puts into its order, the first that were found; the others "
        "come after them.",
    )


class Retrieve(Settings):
    """What is found for a question."""

    by: Literal["hybrid", "vectors", "text"] = Field(
        "hybrid",
        description="`vectors`: by meaning; `text`: by words (BM25); `hybrid`: by meaning and by "
        "pieces of words (BM25 of four letters in a row).",
    )
    fuse: Literal["scores", "ranks"] = Field(
        "scores",
        description="How `hybrid` puts both together. `scores`: the sum of both scores, each "
        "between 0 and 1, by `weight`; `ranks`: reciprocal rank fusion.",
    )
    weight: Fraction | None = Field(
        None,
        description="How much the pieces of words count in that sum; the meaning counts for the "
        "rest. Without it what is best on the documents' own questions, or 0.3 if they are few.",
    )
    candidates: int = Field(50, ge=1, le=1000, description="Passages that each search proposes.")
    rerank: Rerank | None = Field(
        None, description="What puts the first of them into a better order; without it, nothing."
    )
    passages: int = Field(5, ge=1, le=50, description="Passages that an answer is made from.")
    words: int = Field(
        700, ge=50, le=20_000, description="Words that these passages have together at the most."
    )


class Generate(Settings):
    """Who puts the answer into words."""

    by: Literal["extractive", "llama", "vllm", "openai"] = Field(
        "extractive",
        description="`extractive` quotes the best sentences and needs no model; `llama` runs a "
        "GGUF file in the replica; `vllm` runs a model on GPUs, in the replicas of "
        "`serve.apart.generator`; `openai` asks a server that speaks OpenAI's protocol.",
    )
    model: str | None = Field(
        None,
        description="The GGUF file, relative to the job file; the server's model; or for `vllm`, "
        "which carries none in the bundle, a hub's id, a folder that all GPU nodes see, or a URI "
        "(s3://, gs://, abfss://, azure://).",
    )
    engine: dict[str, bool | int | float | str] = Field(
        default_factory=dict,
        description="Arguments of vLLM's engine, by their names in Python.",
        examples=[{"max_model_len": 8192, "gpu_memory_utilization": 0.85}],
    )
    url: str | None = Field(
        None, description="The server's address, up to `/v1`.", examples=["http://llm:8000/v1"]
    )
    key: str | None = Field(
        None,
        description="`${NAME}`: the variable that holds the server's key, in the replicas' own "
        "environment.",
    )
    tokens: int = Field(256, ge=16, le=4096, description="Tokens of an answer at the most.")
    first_s: float = Field(
        8, gt=0, description="Seconds until the first sentence; then `extractive` answers instead."
    )
    within_s: float = Field(60, gt=0, description="Seconds until an answer is cut off.")

    @field_validator("key")
    @classmethod
    def _named_not_spelt(cls, key: str | None) -> str | None:
        if key is not None and not re.fullmatch(r"\$\{[A-Za-z_][A-Za-z0-9_]*\}", key):
            raise ValueError("write `${NAME}`, and set NAME in the replicas' environment")
        return key

    @model_validator(mode="after")
    def _reachable(self) -> Generate:
        if self.by != "extractive" and not self.model:
            raise ValueError(f"`{self.by}` needs `model`")
        if self.by == "openai" and not (self.url or "").startswith(("http://", "https://")):
            raise ValueError("`openai` needs `url`: http:// or https://")
        if self.engine and self.by != "vllm":
            raise ValueError(f"`engine` is for `vllm`, and not for `{self.by}`")
        if others := sorted(ENGINE_OWN & set(self.engine)):
            raise ValueError(
                f"engine.{others[0]}: `model` and the `gpus` of `serve.apart.generator` say that"
            )
        return self


class Judge(Settings):
    """What the retrieval is judged on before anything is deployed."""

    unanswerable: str | None = Field(
        None,
        description="A file with a question on each line that the documents cannot answer: what "
        "the threshold below which the chatbot does not know is measured with.",
    )
    paraphrases: str | None = Field(
        None,
        description="A file of questions in others' words than the documents', one JSON object on "
        "each line: `question`, and the `headings` of what answers it. How well they find it is "
        "told in the metrics: `paraphrases.recall_at_5`, and so on.",
    )
    attacks: str | None = Field(
        None,
        description="A file of attempts to misuse the chatbot, one JSON object on each line, whose "
        "outcome is told in the metrics: `attacks.planted`, the share of its kind that was "
        "blocked, and so on.",
    )
    answers: int = Field(
        40,
        ge=0,
        le=1000,
        description="Questions that are answered to judge the answers; 0: answers are not judged.",
    )
    confidence: Fraction | None = Field(
        None,
        description="That threshold, instead of a measured one: the likeness of the best passage.",
    )


RouteName = Literal["answer", "reply", "clarify", "hand_over"]
IntentName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,62}$")]


class Route(Settings):
    """What becomes of somebody with an intent."""

    to: RouteName = Field(
        description="`answer`: from the documents; `reply`: no more than what is said here; "
        "`clarify`: as well, to ask back, unless a question came before, which it is then read "
        "with; `hand_over`: as well, and the client is to call a person.",
    )
    say: str = Field("", max_length=2000, description="What is said, unless it is answered.")

    @model_validator(mode="after")
    def _says_something(self) -> Route:
        if (self.to == "answer") == bool(self.say.strip()):
            raise ValueError("`say` is for every route but `answer`, which has none")
        return self


class Intents(Settings):
    """What people want besides answers, told by the encoder from examples."""

    examples: str = Field(
        description="A file of what people say, one JSON object on each line: `text` and `intent`.",
    )
    routes: dict[IntentName, Route] = Field(
        min_length=1, description="Where intents lead, by name; all others are answered."
    )
    sure: Fraction = Field(
        0.5,
        description="How probable an intent is at least that leads elsewhere than to an answer.",
    )


class Memory(Settings):
    """Conversations that the endpoint remembers."""

    days: float = Field(
        30, gt=0, le=3650, description="After which a question is forgotten; `mask` is for it, too."
    )


class Chat(Settings):
    """Answers to questions, from the documents in `data.source`, with their sources."""

    encoder: str = Field(
        description="A sentence encoder: a folder relative to the job file with config.json, "
        "model.safetensors and tokenizer.json, such as a bundle's `encoder`, or a hub's id.",
        examples=["data/minilm"],
    )
    title: str = Field("", max_length=80, description="What the chat's page calls itself.")
    site: str = Field(
        "", description="Where readers find the documents: what stands before a source's name."
    )
    examples: tuple[str, ...] = Field((), max_length=8, description="Questions the page offers.")
    mask: tuple[Entity, ...] = Field(
        (), description="Personal data that becomes its name, such as `<EMAIL>`, before indexing."
    )
    instructions: Literal["drop", "keep"] = Field(
        "drop",
        description="Sentences of documents that speak to a language model (`ignore all previous "
        "instructions`): left out of the index, or not.",
    )
    access: dict[GroupName, Access] = Field(
        default_factory=dict,
        description="Groups of documents that not everybody may read, by name.",
    )
    feedback: bool = Field(
        False,
        description="Whether the endpoint takes `POST /NAME/feedback`: a key with the scope "
        "`feedback` tells which answers are wrong and what is right, which the next index reads.",
    )
    memory: Memory | None = Field(
        None,
        description="What was asked in a conversation is kept by the server, for clients that send "
        "their new question alone; without it, nothing is kept.",
    )
    corrections: str | None = Field(
        None,
        description="A file of answers that people put right, one JSON object on each line: "
        "`question`, `answer`, and if it is not for everybody `group`.",
    )
    intents: Intents | None = Field(
        None, description="What people want besides answers, and what they are told then."
    )
    store: ChatStore | None = Field(
        None, description="A server that keeps the index. Without it the bundle does."
    )
    chunks: Chunks = Chunks()
    retrieve: Retrieve = Retrieve()
    generate: Generate = Generate()
    judge: Judge = Judge()

    @model_validator(mode="after")
    def _asks_who_is_there(self) -> Chat:
        """A judgement is before anything is deployed."""
        judge = self.judge
        asked = {
            "answers": judge.answers and "answers" in judge.model_fields_set,
            "attacks": judge.attacks,
        }
        if self.generate.by == "vllm" and (names := [name for name, on in asked.items() if on]):
            raise ValueError(
                f"judge.{names[0]}: `vllm` has no replica before the job is deployed; leave it "
                "out, or have the same model judged behind a server, with `generate.by: openai`"
            )
        return self

    @field_validator("site")
    @classmethod
    def _an_address(cls, site: str) -> str:
        if site and not site.startswith(("https://", "http://")):
            raise ValueError("must begin with https:// or http://")
        return site

    @field_validator("access")
    @classmethod
    def _not_public(cls, access: dict[str, Access]) -> dict[str, Access]:
        if PUBLIC in access:
            raise ValueError(f"`{PUBLIC}` is what documents of no group are; choose another name")
        return access

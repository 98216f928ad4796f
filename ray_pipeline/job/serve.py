"""The endpoint."""

from __future__ import annotations

from typing import Literal
from urllib.parse import urlsplit

from pydantic import Field, field_validator, model_validator

from ray_pipeline.job.base import Settings
from ray_pipeline.job.providers import Providers
from ray_pipeline.job.routes import GraphQL, Jobs
from ray_pipeline.job.source import spelt_password
from ray_pipeline.job.trial import Trial
from ray_pipeline.job.watch import Log


class Replicas(Settings):
    min: int = Field(1, ge=0)
    max: int = Field(2, ge=1)

    @model_validator(mode="after")
    def _ordered(self) -> Replicas:
        if self.min > self.max:
            raise ValueError("min is above max")
        return self


class Part(Settings):
    """A part of a chatbot, in replicas of its own."""

    replicas: Replicas = Replicas()
    cpus: float = Field(
        1, gt=0, description="CPUs reserved for a replica, and as many threads that compute in it."
    )
    gpus: float = Field(
        0,
        ge=0,
        description="GPUs reserved for a replica, if there are any; `vllm` needs them, and divides "
        "its model among several.",
    )

    @property
    def whole_gpus(self) -> int:
        """The GPUs of a replica, or 0 if they are none or not whole ones."""
        return int(self.gpus) if self.gpus == int(self.gpus) else 0


class Apart(Settings):
    """The parts of a chatbot that scale apart from what finds, checks and answers."""

    encoder: Part | None = Field(None, description="What turns texts into vectors.")
    generator: Part | None = Field(
        None, description="The language model of `chat.generate.by: llama`, or `vllm`."
    )

    @model_validator(mode="after")
    def _something(self) -> Apart:
        if not self.given:
            raise ValueError("name `encoder`, `generator` or both; leave it out for neither")
        return self

    @property
    def given(self) -> dict[str, Part]:
        """The parts that are apart, by name."""
        parts = {"encoder": self.encoder, "generator": self.generator}
        return {name: part for name, part in parts.items() if part}


class Online(Settings):
    """Features that a request need not carry: the endpoint reads them by the row's key."""

    url: str = Field(
        description="The Redis that a store of the job wrote to, without its password: replicas "
        "take that from their own environment.",
        examples=["redis://cache:6379/0"],
    )
    table: str = Field(min_length=1, description="The store's `table`.")
    key: str = Field(description="The column whose value in the row is the key.")
    columns: tuple[str, ...] = Field(
        min_length=1, description="Feature columns that are read where a row lacks them."
    )

    @field_validator("url")
    @classmethod
    def _redis(cls, url: str) -> str:
        if not url.startswith(("redis://", "rediss://")):
            raise ValueError("must be redis:// or rediss://")
        if spelt_password(url):
            raise ValueError("holds a password; write `${NAME}` in its place")
        return url


class Jwt(Settings):
    """Tokens of an identity provider, which open an endpoint as keys do."""

    issuer: str = Field(min_length=1, description="The token's `iss`, to the letter.")
    audience: str = Field(min_length=1, description="What the token's `aud` must name.")
    jwks: str = Field(
        min_length=1,
        description="Where the provider's public keys are: a file, or an https URL "
        "(`jwks_uri` of its /.well-known/openid-configuration).",
    )
    algorithms: tuple[
        Literal["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "EdDSA"],
        ...,
    ] = Field(("RS256",), min_length=1, description="Signatures that are looked at; no others.")
    scopes_claim: str = Field(
        "scope",
        description="The claim with the token's scopes, a list or a text with spaces; of them "
        "`predict`, `metrics`, `feedback` and `admin` open something.",
    )
    leeway_s: float = Field(30, ge=0, le=300, description="By how much clocks may differ.")
    refresh_s: float = Field(60, ge=10, description="How often the keys are read again.")

    @field_validator("jwks")
    @classmethod
    def _unaltered_on_its_way(cls, jwks: str) -> str:
        url = urlsplit(jwks)
        here = url.scheme == "http" and url.hostname in {"127.0.0.1", "::1", "localhost"}
        if "://" in jwks and url.scheme != "https" and not here:
            raise ValueError("must be https, or a file: who can change it decides who may call")
        return jwks


class Serve(Settings):
    port: int = Field(8000, ge=1, le=65535)
    host: str = Field(
        "127.0.0.1",
        description="The address to listen on; 0.0.0.0 lets other machines in, and is needed on a "
        "cluster of several.",
    )
    grpc: int | None = Field(
        None,
        ge=1,
        le=65535,
        description="A port for the Open Inference Protocol over gRPC; without it there is none.",
    )
    auth: Literal["key", "none"] = Field(
        "key", description="Who may call: holders of a key (or of a token, see `jwt`), or all."
    )
    jwt: Jwt | None = Field(None, description="Tokens that open it besides keys.")
    metrics: Literal["open", "key"] = Field(
        "open",
        description="Who may read its figures at /metrics: all, or keys with the scope `metrics`.",
    )
    replicas: Replicas = Replicas()
    cpus: float = Field(
        0.5,
        gt=0,
        description="CPUs reserved for a replica; none are on a cluster of this machine alone, "
        "where runs need them, too.",
    )
    gpus: float = Field(
        0,
        ge=0,
        description="GPUs reserved for a replica, on a cluster that has any; 0 keeps replicas on "
        "CPUs, where small models answer sooner.",
    )
    providers: Providers = Providers()
    apart: Apart | None = Field(
        None,
        description="Parts of a chatbot that have replicas of their own; without it, each of its "
        "replicas holds them all.",
    )
    target_ongoing_requests: float = Field(
        8,
        gt=0,
        description="Requests in flight per replica that autoscaling aims at; a replica of a small "
        "model that is busy all the time has about 15.",
    )
    max_ongoing_requests: int = Field(
        64, ge=1, description="Requests a replica takes at a time; more wait in the queue."
    )
    max_queued_requests: int = Field(
        1024, ge=1, description="Requests that may wait; more are told 503 or 429 at once."
    )
    batch_ms: float = Field(
        50,
        gt=0,
        description="Requests that arrive together share a run of the model, as many as it can do "
        "in about this time, by how long it takes where it runs.",
    )
    upscale_delay_s: float = Field(3, ge=0)
    downscale_delay_s: float = Field(60, ge=0)
    autoscaling: str | None = Field(
        None,
        pattern=r"^[\w.]+:\w+$",
        description="`module:function`, a policy of your own: Ray Serve's `AutoscalingContext` to "
        "the replicas wanted and the state that the next call finds in it.",
    )
    release: Trial | None = Field(
        None,
        description="How a new version is tried before it takes over; without it, it takes over "
        "once it answers.",
    )
    online: Online | None = Field(
        None, description="Where features that a request does not carry are read."
    )
    max_rows: int = Field(1000, ge=1, description="Rows in a request.")
    max_bytes: int = Field(1_000_000, ge=1000, description="Bytes in a request's body.")
    body_within_s: float = Field(
        30,
        gt=0,
        description="Seconds that a client may take to send a request's body, of which the first "
        "64 KB have to come within 10.",
    )
    graphql: GraphQL | None = Field(GraphQL(), description="GraphQL; null leaves it out.")
    jobs: Jobs | None = Field(
        None, description="Jobs of many rows; `{}` takes them, with the defaults below."
    )
    log: Log | None = Field(
        None,
        description="A sample of the requests is kept; `run` and `watch` set it to the job's "
        "`watch.log`.",
    )
    guard: Literal["off", "flag", "refuse"] = Field(
        "off",
        description="Rows unlike the training rows (a number outside their range, an unknown "
        "category, no value where all had one; or far from them as a whole, which one in 100 rows "
        "like them is) are answered, answered with `warnings`, or refused.",
    )
    round: int | None = Field(
        None,
        ge=1,
        le=7,
        description="Decimals of a probability and significant digits of a value that callers "
        "get; the fewer, the more requests it takes to copy the model. All of them if not given.",
    )

    @model_validator(mode="after")
    def _two_ports(self) -> Serve:
        if self.grpc == self.port:
            raise ValueError("`grpc` must be another port than `port`")
        return self

    @model_validator(mode="after")
    def _tokens_have_a_gate(self) -> Serve:
        if self.auth == "none" and (self.jwt or self.metrics == "key"):
            raise ValueError("auth: none lets everybody in; leave out `jwt` and `metrics: key`")
        return self

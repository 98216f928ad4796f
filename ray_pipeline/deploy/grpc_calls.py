"""What a replica answers over gRPC: Ray Serve calls the method that has the call's name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import grpc
import msgspec
from google.protobuf.message import Message

from ray_pipeline import __version__
from ray_pipeline.bundle import Bundle, Manifest
from ray_pipeline.deploy import grpc_messages, inference
from ray_pipeline.deploy.asgi import Response
from ray_pipeline.deploy.asgi import error_response as refusal
from ray_pipeline.errors import JobError, RequestError

if TYPE_CHECKING:
    from ray.serve.grpc_util import RayServegRPCContext

    from ray_pipeline.deploy.app import Endpoint

_CODES = {
    **dict.fromkeys((400, 413, 415, 422), grpc.StatusCode.INVALID_ARGUMENT),
    401: grpc.StatusCode.UNAUTHENTICATED,
    403: grpc.StatusCode.PERMISSION_DENIED,
    404: grpc.StatusCode.NOT_FOUND,
    408: grpc.StatusCode.DEADLINE_EXCEEDED,
    429: grpc.StatusCode.RESOURCE_EXHAUSTED,
    503: grpc.StatusCode.UNAVAILABLE,
}
_PASSED_ON = (b"retry-after",)


def options(port: int) -> dict[str, Any]:
    """What Ray Serve is started with to listen there."""
    # Who may not call is not to be told what could be called.
    return {
        "port": port,
        "grpc_servicer_functions": [f"{grpc_messages.__name__}.registered"],
        "enable_reflection": False,
    }


def check(opened: Bundle) -> None:
    """Raises JobError: the bundle does not predict; DataError: the extra is not installed."""
    grpc_messages.messages()
    if opened.manifest.task == "chat":
        raise JobError(
            "a chatbot speaks OpenAI's protocol, which is HTTP alone",
            where="serve.grpc",
            expected="a bundle that predicts rows",
            hint="leave it out",
        )


class Calls:
    """The calls of the Open Inference Protocol, for an endpoint and its bundle's manifest. Keys,
    rates and bounds are those of its requests over HTTP; the key is metadata: `x-api-key`, or
    `authorization` with a token."""

    _name: str
    _endpoint: Endpoint
    _manifest: Manifest

    async def ModelInfer(  # noqa: N802 - the protocol's name, as all below
        self, request: Any, grpc_context: RayServegRPCContext
    ) -> Message:
        """Predictions for the rows of a `ModelInferRequest`."""
        try:
            self._must_be_asked(request.model_name, request.model_version)
            body, headers = grpc_messages.request(request)
        except RequestError as error:
            return self._refused(refusal(error, path=inference.PATH), grpc_context)
        told = [
            (name.encode(), _bytes(value)) for name, value in grpc_context.invocation_metadata()
        ]
        response = await self._endpoint.infer(body, [*headers, *told])
        if response.status != 200:
            return self._refused(response, grpc_context)
        return grpc_messages.answer(response)

    async def ModelMetadata(self, request: Any, grpc_context: RayServegRPCContext) -> Message:  # noqa: N802
        """The model's inputs and outputs."""
        try:
            self._must_be_asked(request.name, request.version)
        except RequestError as error:
            return self._refused(refusal(error, path=inference.PATH), grpc_context)
        return grpc_messages.metadata(inference.metadata(self._manifest))

    async def ModelReady(self, request: Any) -> Message:  # noqa: N802
        """Whether it is this endpoint's model, which is ready where it answers."""
        try:
            self._must_be_asked(request.name, request.version)
        except RequestError:
            return self._told("ModelReadyResponse", ready=False)
        return self._told("ModelReadyResponse", ready=True)

    async def ServerLive(self, _: Any) -> Message:  # noqa: N802
        """That it lives."""
        return self._told("ServerLiveResponse", live=True)

    async def ServerReady(self, _: Any) -> Message:  # noqa: N802
        """That it is ready: it answers once it is."""
        return self._told("ServerReadyResponse", ready=True)

    async def ServerMetadata(self, _: Any) -> Message:  # noqa: N802
        """What the server is."""
        return self._told("ServerMetadataResponse", name="ray_pipeline", version=__version__)

    def _must_be_asked(self, name: str, version: str) -> None:
        """Raises RequestError: another model is asked, or another version."""
        if name == self._name and version in ("", self._manifest.version):
            return
        raise RequestError(
            f"no model {name} {version}".rstrip() + " is here",
            status=404,
            code="not_found",
            where="model_name",
            expected=f"{self._name}, version {self._manifest.version}",
        )

    def _refused(self, response: Response, context: RayServegRPCContext) -> Message:
        """An empty answer; what was wrong is in the call's status."""
        context.set_code(_CODES.get(response.status, grpc.StatusCode.INTERNAL))
        context.set_details(msgspec.json.decode(response.body)["error"])
        passed = [(n.decode(), v.decode()) for n, v in response.headers if n in _PASSED_ON]
        if passed:
            context.set_trailing_metadata(passed)
        return self._told("ModelInferResponse")

    @staticmethod
    def _told(kind: str, **fields: Any) -> Message:
        made: Message = getattr(grpc_messages.messages(), kind)(**fields)
        return made


def _bytes(value: str | bytes) -> bytes:
    return value if isinstance(value, bytes) else value.encode()

"""One tree of errors. Each says what was wrong, where, what was expected and what to do."""

from typing import Any


class PipelineError(Exception):
    """Base of every error this package raises on purpose.

    Args:
        what: what was wrong, in one clause.
        where: the key, file, row or column at fault.
        expected: what would have been right.
        hint: what to do about it.
    """

    exit_code = 1

    def __init__(self, what: str, *, where: str = "", expected: str = "", hint: str = "") -> None:
        super().__init__(what, where, expected, hint)
        self.what, self.where, self.expected, self.hint = what, where, expected, hint

    def __str__(self) -> str:
        lines = [f"{self.where}: {self.what}" if self.where else self.what]
        if self.expected:
            lines.append(f"  expected: {self.expected}")
        if self.hint:
            lines.append(f"  do: {self.hint}")
        return "\n".join(lines)

    def __reduce__(self) -> tuple[object, ...]:
        # Errors cross process boundaries in Ray; keyword-only arguments do not pickle by default.
        return _rebuilt, (type(self), self.what, self.where, self.expected, self.hint)


def _rebuilt(
    kind: type[PipelineError], what: str, where: str, expected: str, hint: str
) -> PipelineError:
    return kind(what, where=where, expected=expected, hint=hint)


class UsageError(PipelineError):
    """The command line is wrong."""

    exit_code = 2


class JobError(PipelineError):
    """The job file is wrong: a key, a type, or a combination of settings."""

    exit_code = 2


class DataError(PipelineError):
    """The data cannot be used: missing, empty, unreadable, or without what the job names."""

    exit_code = 2


class GateRefused(PipelineError):
    """A measured number is outside the bound that the job sets."""

    exit_code = 3


class BundleError(PipelineError):
    """A bundle is incomplete, altered, or not a bundle."""

    exit_code = 2


class ClusterError(PipelineError):
    """A Ray cluster could not be started, reached or stopped."""


class UnavailableError(PipelineError):
    """A server that something is kept on does not answer, or has it no more."""


class TrainingError(PipelineError):
    """Training or search ended without a usable model."""


class RequestError(PipelineError):
    """A request to an endpoint is wrong. `status` is the HTTP status, `code` its short name,
    `headers` what the answer carries besides."""

    def __init__(
        self,
        what: str,
        *,
        status: int,
        code: str,
        where: str = "",
        expected: str = "",
        headers: tuple[tuple[bytes, bytes], ...] = (),
    ) -> None:
        super().__init__(what, where=where, expected=expected)
        self.status, self.code, self.headers = status, code, headers

    def __reduce__(self) -> tuple[object, ...]:
        told = {"status": self.status, "code": self.code, "headers": self.headers}
        return _rebuilt_request, (
            self.what,
            {**told, "where": self.where, "expected": self.expected},
        )


def _rebuilt_request(what: str, told: dict[str, Any]) -> RequestError:
    return RequestError(what, **told)

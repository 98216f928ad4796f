"""`POST /NAME/feedback`: what turned out to be true of rows that were predicted before."""

from __future__ import annotations

import math
import time
from typing import Any

import msgspec

from ray_pipeline.bundle import Manifest
from ray_pipeline.deploy.asgi import Response, json_response
from ray_pipeline.deploy.protocol import not_json
from ray_pipeline.deploy.request_log import RequestLog, Told
from ray_pipeline.errors import RequestError


class _One(msgspec.Struct, forbid_unknown_fields=True):
    id: str
    label: str | float | int | bool
    row: int = 0


class _Body(msgspec.Struct, forbid_unknown_fields=True):
    feedback: list[_One]


class Feedback:
    """Takes the true labels of one endpoint's rows.

    Args:
        log: where they are kept.
        manifest: the bundle's.
        max_rows: labels in a request.
        retry_s: after how long to try again where too many wait.
    """

    def __init__(self, log: RequestLog, manifest: Manifest, max_rows: int, retry_s: float) -> None:
        self._log, self._manifest, self._max_rows = log, manifest, max_rows
        self._retry_s = max(1, math.ceil(retry_s))
        self._decode = msgspec.json.Decoder(_Body).decode

    def answer(self, body: bytes, by: str) -> Response:
        """202 for labels that are kept, or will be in some seconds.

        Whether a row of that id is known is found out when labels are read, for another replica
        may have predicted it.

        Raises:
            RequestError: 400 not JSON; 413 too many; 422 not such labels, and where; 429 too many
                that wait to be written.
        """
        try:
            given = self._decode(body).feedback
        except msgspec.ValidationError as error:
            raise _wrong(str(error), "feedback") from error
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise not_json(error) from error
        if len(given) > self._max_rows:
            what = f"{len(given)} labels, of at most {self._max_rows}"
            raise RequestError(what, status=413, code="too_large", where="feedback")
        now = time.time()
        labels = [self._told(place, one, now, by) for place, one in enumerate(given)]
        if not self._log.told(labels):
            raise RequestError(
                "too many labels wait to be written",
                status=429,
                code="busy",
                where="feedback",
                headers=((b"retry-after", b"%d" % self._retry_s),),
            )
        return json_response({"accepted": len(labels)}, 202)

    def _told(self, place: int, one: _One, now: float, by: str) -> Told:
        where = f"feedback[{place}]"
        if len(one.id) != 32 or not 0 <= one.row < 2**31:
            raise _wrong("no id of an answer, or no row of it", where)
        return Told(one.id, one.row, self._label(one.label, where), now, by)

    def _label(self, given: Any, where: str) -> str | float:
        classes = self._manifest.classes
        if classes is None:
            if isinstance(given, str | bool) or not math.isfinite(given):
                raise _wrong("not a number", f"{where}.label")
            return float(given)
        label = ("true" if given else "false") if isinstance(given, bool) else str(given)
        known = label.split("|") if self._manifest.thresholds is not None and label else [label]
        if self._manifest.thresholds is not None and not label:
            return label
        if any(name not in classes for name in known):
            raise _wrong(f"none of the classes: {', '.join(classes[:10])}", f"{where}.label")
        return label


def _wrong(what: str, where: str) -> RequestError:
    return RequestError(what, status=422, code="invalid_request", where=where)

"""What somebody has had the page do: one thing at a time to an endpoint, in a thread of its own."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from ray_pipeline.errors import PipelineError, RequestError

_LOGGER = logging.getLogger(__name__)
_KEPT = 20


@dataclass
class Action:
    """Something that was asked for, and what came of it."""

    name: str
    """The endpoint's."""
    what: str
    who: str
    began: float = field(default_factory=time.time)
    outcome: str = ""
    """Empty as long as it goes on."""
    failed: bool = False


class Actions:
    """Those of this page, newest first."""

    def __init__(self) -> None:
        self.latest: deque[Action] = deque(maxlen=_KEPT)
        self._lock = threading.Lock()

    def begin(self, name: str, what: str, who: str, do: Callable[[], str]) -> None:
        """Begin to `do` something that tells in words what came of it.

        Raises:
            RequestError: 409, something is being done to that endpoint.
        """
        with self._lock:
            if any(one.name == name and not one.outcome for one in self.latest):
                raise RequestError(
                    f"something is being done to {name} already",
                    status=409,
                    code="busy",
                    expected="that it ends first; its page says how far it is",
                )
            action = Action(name, what, who)
            self.latest.appendleft(action)
        threading.Thread(target=_done, args=(action, do), daemon=True).start()

    def under_way(self) -> bool:
        """Whether any goes on."""
        return any(not one.outcome for one in self.latest)


def _done(action: Action, do: Callable[[], str]) -> None:
    try:
        action.outcome = do()
    except PipelineError as error:
        action.failed, action.outcome = True, str(error)
    # The thread's boundary: whoever asked is told that it failed, the log has where.
    except Exception as error:
        _LOGGER.exception("%s of %s", action.what, action.name)
        action.failed, action.outcome = True, f"{type(error).__name__}; the log says more"

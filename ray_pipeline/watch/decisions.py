"""What was decided, step by step: a file for each decision, which whoever goes on reads.

<storage>/<job>/watch/decisions/<id>.json     one for each that did something, or refused to
<storage>/<job>/watch/latest.json             the latest look, whatever came of it
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

from upath import UPath

from ray_pipeline.files import write_whole

Decision = dict[str, Any]
Action = Literal["nothing", "run", "refuse", "rollback"]
Outcome = Literal["nothing", "promoted", "refused", "rolled_back", "waiting", "failed"]


def made(action: Action, why: Sequence[str], **more: Any) -> Decision:
    """A decision that nothing was done about yet: it has no `outcome`."""
    now = datetime.now(UTC)
    return {
        "id": f"{now:%Y%m%d-%H%M%S-%f}-{secrets.token_hex(2)}",
        "created": now.isoformat(timespec="seconds"),
        "action": action,
        "why": list(why),
        "outcome": None,
        **more,
    }


class Decisions:
    """Those about one job."""

    def __init__(self, root: UPath) -> None:
        self._root = root / "watch"

    def all(self) -> list[Decision]:
        """Oldest first."""
        folder = self._root / "decisions"
        if not folder.exists():
            return []
        files = sorted(folder.glob("*.json"), key=lambda path: str(path.name))
        return [json.loads(file.read_text()) for file in files]

    def unfinished(self) -> Decision | None:
        """The one whose process was ended before it was."""
        return next((one for one in self.all() if one["outcome"] is None), None)

    def waiting(self) -> Decision | None:
        """The newest, if a person is to say whether it is done."""
        newest = self.all()[-1:]
        return newest[0] if newest and newest[0]["outcome"] == "waiting" else None

    def about(self, bundle: str) -> Decision | None:
        """The one that made a bundle."""
        return next(
            (one for one in self.all() if one.get("challenger", {}).get("bundle") == bundle), None
        )

    def runs_today(self) -> int:
        """How many began a run in the last 24 hours."""
        since = (datetime.now(UTC) - timedelta(days=1)).isoformat(timespec="seconds")
        return sum(one["action"] == "run" and one["created"] >= since for one in self.all())

    def save(self, decision: Decision) -> None:
        """Keep it as it now stands; a reader never sees half of it."""
        path = self._root / "decisions" / f"{decision['id']}.json"
        write_whole(path, json.dumps(decision, indent=1).encode())

    def latest(self) -> Decision | None:
        """The latest look, whatever came of it; None before the first."""
        path = self._root / "latest.json"
        return json.loads(path.read_text()) if path.exists() else None

    def looked(self, decision: Decision) -> None:
        """Keep the latest look, in the place of the one before."""
        write_whole(self._root / "latest.json", json.dumps(decision, indent=1).encode())

"""Names in a job's settings that nothing has."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import Literal

from ray_pipeline.errors import JobError


def unknown(
    what: Literal["metric", "column", "class"], name: str, known: Sequence[str], where: str
) -> JobError:
    """An error that says what there is, and which of it is near."""
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.4)
    return JobError(
        f"no {what} is called `{name}`",
        where=where,
        expected="one of " + ", ".join(list(known)[:12]) if known else "nothing: this job has none",
        hint=f"did you mean `{near[0]}`?" if near else "",
    )

"""The stages of a job, in their order. Which they are decides what is imported: nothing that trains
models for a chatbot, which saves seconds."""

from __future__ import annotations

from collections.abc import Iterator

from ray_pipeline.data.media.extras import library
from ray_pipeline.runs import Run, Stage


def path(run: Run) -> Iterator[Stage]:
    """Each stage of the run's job, as it is passed; the run's record says by then what it found,
    for a run may end there.

    Raises:
        PipelineError: a stage failed, or a gate refused.
    """
    if run.job.chat is not None:
        library("langchain_core", "chat")  # whose absence is told with what to do
        from ray_pipeline import path_chat

        yield from path_chat.path(run, run.job.chat)
    else:
        from ray_pipeline import path_rows

        yield from path_rows.path(run)

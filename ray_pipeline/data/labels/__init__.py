"""Labels from functions that vote, and labels that look wrong."""

from ray_pipeline.data.labels.stage import labelled, unlabelled, write
from ray_pipeline.data.labels.votes import check, code_digest

__all__ = ["check", "code_digest", "labelled", "unlabelled", "write"]

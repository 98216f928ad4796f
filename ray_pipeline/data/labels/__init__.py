"""Labels from annotators and from functions that vote, and labels that look wrong."""

from ray_pipeline.data.labels.stage import check_trainable, labelled, unlabelled, write
from ray_pipeline.data.labels.votes import check, fingerprint

__all__ = ["check", "check_trainable", "fingerprint", "labelled", "unlabelled", "write"]

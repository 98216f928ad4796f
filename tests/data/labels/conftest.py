"""A bundle that votes, made once."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from upath import UPath

sys.path.insert(0, str(Path(__file__).parents[2] / "deploy"))

from small_bundles import Exported, exported


@pytest.fixture(scope="session")
def voting_bundle(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    return exported(UPath(tmp_path_factory.mktemp("voting")), "classification")

"""Small bundles, made once for the session."""

from __future__ import annotations

from pathlib import Path

import pytest
from releases import some_rows
from small_bundles import Exported, exported
from upath import UPath

from ray_pipeline.deploy import publish
from ray_pipeline.job import Model


@pytest.fixture(scope="session")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    return exported(UPath(tmp_path_factory.mktemp("classifier")), "classification")


@pytest.fixture(scope="session")
def regressor(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    return exported(
        UPath(tmp_path_factory.mktemp("regressor")),
        "regression",
        Model(name="resnet", width=8, depth=1),
    )


@pytest.fixture
def bundle_copy(classifier: Exported, tmp_path: Path) -> Path:
    """A bundle that a test may spoil."""
    publish.published(classifier.root / "export-v1", UPath(tmp_path / "copy"))
    return tmp_path / "copy"


@pytest.fixture(scope="session")
def rows(classifier):
    return some_rows(classifier.bundle)


@pytest.fixture
def live(site, classifier):
    """The first version, which the tests begin with and go back to."""
    with site.at_home():
        site.deploy(classifier.bundle)
        yield classifier.bundle.manifest.version

"""Each job that the documentation shows is read as a job."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml

from ray_pipeline.job import Job
from ray_pipeline.jobfile import Loader

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCKS = [
    pytest.param(block, id=f"{page.name}-{number}")
    for page in PAGES
    for number, block in enumerate(re.findall(r"```yaml\n(.*?)```", page.read_text(), re.S))
]


@pytest.mark.parametrize("block", BLOCKS)
def test_every_block_is_part_of_a_job(block):
    shown = yaml.load(block, Loader=Loader)
    label = {} if "chat" in shown else {"label": "left"}
    data = {"source": "rows.csv", **label, **shown.get("data", {})}
    whole = {"name": "shown", **shown, "data": data}
    assert Job.model_validate_json(json.dumps(whole, default=str), strict=True).name


def test_links_lead_somewhere():
    for page in PAGES:
        for target in re.findall(r"\]\((?!https?://|#)([^)#]+)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name}: {target}"

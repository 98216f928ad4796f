"""Tasks and the labelling interface: whole, and joined by their names."""

from __future__ import annotations

import base64
from xml.etree import ElementTree as ET

import asked_rows
from asked_rows import CLASSES, COLUMNS, PIXEL, SCHEMA

from ray_pipeline.data.labels import identity, tasks
from ray_pipeline.schema import Column


def test_every_value_is_in_the_task() -> None:
    first, second, third, *_ = asked_rows.made()
    assert first["data"]["review_text"] == "best tea"
    assert base64.b64decode(first["data"]["photo"].partition("data:image/png;base64,")[2]) == PIXEL
    assert first["data"]["values"] == {"price": 1.5, "bought": "2026-01-01T00:00:00+00:00"}
    assert "predictions" not in first
    [said] = second["predictions"]
    assert (said["score"], said["model_version"]) == (0.75, "label model")
    assert said["result"][0]["value"] == {"choices": ["great"]}
    assert third["data"]["photo"] == ""
    assert "price" not in third["data"]["values"]
    assert "y" not in third["data"]["values"]


def test_the_interface_names_what_tasks_hold() -> None:
    view = ET.fromstring(tasks.interface(COLUMNS, [*CLASSES, 'a "<b>" & c']))
    objects = {tag.get("name"): tag for tag in view if tag.tag in ("Text", "Image", "Table")}
    data = asked_rows.made()[0]["data"]
    assert all(data[str(tag.get("value")).removeprefix("$")] for tag in objects.values())
    assert {tag.tag for tag in objects.values()} == {"Text", "Image", "Table"}
    [choices] = view.iter("Choices")
    result = asked_rows.made()[1]["predictions"][0]["result"][0]
    assert choices.get("name") == result["from_name"]
    assert choices.get("toName") == result["to_name"]
    assert choices.get("toName") in objects
    assert [choice.get("value") for choice in choices] == [*CLASSES, 'a "<b>" & c']


def test_names_that_label_studio_cannot_hold_are_told_apart() -> None:
    columns = [Column(name=name, kind="text") for name in ("a b", "a-b", "label", "row", "é")]
    keys = tasks.keys(columns)
    assert len(set(keys.values())) == 5
    assert not set(keys.values()) & {"label", "row", "columns", "values"}
    table = [Column(name="n", kind="number")]
    assert 'toName="values"' in tasks.interface(table, CLASSES)


def test_an_id_is_of_the_values_alone() -> None:
    rows = asked_rows.rows()
    of = identity.columns(SCHEMA)
    before = identity.ids(rows, of)
    assert len(set(before)) == len(rows)
    assert all(identity.is_id(item) for item in before)
    assert identity.ids(rows.select(rows.column_names[::-1]).slice(2), of).tolist() == list(
        before[2:]
    )
    assert identity.met(rows, of, {before[3]: "x", "0" * 32: "y"}) == {3: before[3]}
    assert not any(map(identity.is_id, (None, 7, "", "G" * 32, before[0][:31])))

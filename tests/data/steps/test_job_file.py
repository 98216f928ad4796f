"""All steps and expectations as a job file writes them."""

from __future__ import annotations

from ray_pipeline import jobfile

JOB = """
name: tidy
data:
  source: rows.csv
  label: y
  clean:
    steps:
      - text: {columns: [t], html: strip, urls: "<url>"}
      - spelling: {column: s, like: [a, b], values: {A: a}, threshold: 0.8}
      - dates: {column: d, formats: ["%d.%m.%Y"], timezone: Europe/Paris}
      - units: {column: w, to: kg, assume: g}
      - range: {column: n, min: 0, max: 120, outside: clip}
      - outliers: {columns: [n], method: mad, bound: 3, outside: missing}
      - missing: {columns: [n, m], with: model}
      - missing: {columns: [t], with: drop}
      - near_duplicates: {column: t, threshold: 0.8}
      - language: {column: t, keep: [en]}
  expect:
    - unique: id
    - not_null: [a, b]
    - in_set: {column: c, values: [x, 1, true]}
    - range: {column: n, min: 0}
    - rows: {min: 1, max: 9}
    - {fresh: {column: d, within: 2d}, on_failure: warn}
    - match: {column: t, regex: "^a"}
"""


def test_every_step_and_expectation_can_be_written(tmp_path):
    path = tmp_path / "job.yaml"
    path.write_text(JOB)
    (tmp_path / "rows.csv").write_text("y\n1\n")
    data = jobfile.read(path).data
    assert [step.name for step in data.clean.steps] == [
        *("text", "spelling", "dates", "units", "range", "outliers", "missing", "missing"),
        *("near_duplicates", "language"),
    ]
    assert data.expect[0].unique == ("id",)
    assert data.expect[1].not_null == ("a", "b")
    assert data.expect[5].on_failure == "warn"

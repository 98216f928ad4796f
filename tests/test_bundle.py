"""A bundle opens exactly as it was written, or not at all."""

from __future__ import annotations

import hashlib
import json
import pickle
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from upath import UPath

from ray_pipeline import bundle
from ray_pipeline.bundle import Manifest
from ray_pipeline.errors import BundleError
from ray_pipeline.schema import Column, Schema

FILES = {"model.onnx": b"graph" * 100, "statistics.json": b"{}", "extra/part.bin": b"\x00\x01"}
MANIFEST = Manifest(
    name="income",
    version="v1",
    created="2026-01-01T00:00:00+00:00",
    task="classification",
    schema=Schema(columns=(Column(name="größe", kind="number"),), missing=("?",)),
    classes=("a", "b"),
    metrics={"accuracy": 0.9, "nested": {"f1": [0.1, None]}},
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    bundle.write(UPath(tmp_path / "b"), MANIFEST, FILES)
    return tmp_path / "b"


def refused(folder: Path | str | UPath) -> BundleError:
    with pytest.raises(BundleError) as caught:
        bundle.opened(folder)
    return caught.value


def rewritten(folder: Path, **changes: object) -> None:
    """Change the manifest and make its digest right again, as someone with intent would."""
    raw = json.loads((folder / "manifest.json").read_text()) | changes
    raw["digest"] = "0" * 64
    text = json.dumps(raw, indent=2)
    digest = hashlib.sha256(text.encode()).hexdigest()
    (folder / "manifest.json").write_text(text.replace("0" * 64, digest))


def test_what_is_written_opens_again(folder):
    opened = bundle.opened(folder)
    expected = replace(MANIFEST, files=opened.manifest.files, digest=opened.manifest.digest)
    assert opened.manifest == expected
    assert opened.path == folder
    assert opened.model.read_bytes() == FILES["model.onnx"]
    assert set(opened.manifest.files) == set(FILES)


def test_the_same_content_gives_the_same_manifest(folder, tmp_path):
    bundle.write(UPath(tmp_path / "again"), MANIFEST, dict(reversed(FILES.items())))
    again, first = tmp_path / "again" / "manifest.json", folder / "manifest.json"
    assert again.read_bytes() == first.read_bytes()


@pytest.mark.parametrize("name", FILES)
def test_truncated_file(folder, name):
    path = folder / name
    path.write_bytes(path.read_bytes()[:-1])
    error = refused(folder)
    assert error.where == str(path)
    assert "truncated or altered" in error.what
    assert error.expected.startswith("sha256 ")
    assert error.hint
    assert bundle.opened(folder, verify=False).manifest.name == "income"


@pytest.mark.parametrize("name", FILES)
def test_missing_file(folder, name):
    (folder / name).unlink()
    error = refused(folder)
    assert (error.where, error.what) == (str(folder / name), "missing")


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_any_one_byte_changed(folder, data):
    path = folder / data.draw(st.sampled_from(["manifest.json", *FILES]))
    before = path.read_bytes()
    at = data.draw(st.integers(0, len(before) - 1))
    flip = data.draw(st.integers(1, 255))
    path.write_bytes(before[:at] + bytes([before[at] ^ flip]) + before[at + 1 :])
    try:
        assert str(path) in str(refused(folder))
    finally:
        path.write_bytes(before)
    bundle.opened(folder)


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(content=st.one_of(st.binary(max_size=200), st.text(max_size=200).map(str.encode)))
def test_any_other_manifest(folder, content):
    path = folder / "manifest.json"
    before = path.read_bytes()
    path.write_bytes(content)
    try:
        assert "manifest.json" in refused(folder).where
    finally:
        path.write_bytes(before)


def test_truncated_manifest(folder):
    path = folder / "manifest.json"
    path.write_bytes(path.read_bytes()[:-20])
    assert "not JSON" in refused(folder).what


@pytest.mark.parametrize("content", [b"[" * 100_000, b"{}", b"[]", b"null", b"1", b"\xff\xfe"])
def test_manifest_that_is_no_manifest(folder, content):
    (folder / "manifest.json").write_bytes(content)
    assert "manifest.json" in refused(folder).where


@pytest.mark.parametrize("claimed", ["", None, 0, {}, "0", "}"])
def test_digest_that_is_no_digest(folder, claimed):
    raw = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps(raw | {"digest": claimed}))
    assert "altered" in refused(folder).what


def test_extra_file(folder):
    (folder / "extra" / "run.py").write_text("print()")
    error = refused(folder)
    assert error.where == str(folder / "extra" / "run.py")
    assert "remove it" in error.hint


def test_what_the_registry_adds_is_no_extra_file(folder):
    (folder / "registered_model_meta").write_text("model_name: income\n")
    assert bundle.opened(folder).model.is_file()


def test_no_manifest(folder):
    (folder / "manifest.json").unlink()
    assert "no manifest.json" in refused(folder).what


def test_not_there_at_all(tmp_path):
    assert "not a bundle" in refused(tmp_path / "nothing").what
    assert "not a bundle" in refused(UPath("memory://nothing/here")).what


def test_a_file_instead_of_a_folder(tmp_path):
    (tmp_path / "file").write_text("{}")
    assert "not a bundle" in refused(tmp_path / "file").what


@pytest.mark.parametrize("number", [0, 2, "1", None, [1]])
def test_unknown_format(folder, number):
    rewritten(folder, format=number)
    error = refused(folder)
    assert repr(number) in error.what
    assert error.expected == "format 1"


@pytest.mark.parametrize(
    "name", ["../x", "/etc/passwd", "a/../../x", "a//b", "./a", "", "a\\b", "C:x", "a\nb", ".."]
)
def test_names_that_lead_out(folder, name):
    (folder.parent / "x").write_bytes(b"")
    rewritten(
        folder, files={**json.loads((folder / "manifest.json").read_text())["files"], name: ""}
    )
    assert "leads outside" in refused(folder).what


def test_a_model_file_that_leads_out(folder):
    rewritten(folder, model_file="../x")
    assert "leads outside" in refused(folder).what


def test_a_model_file_without_a_digest(folder):
    rewritten(folder, model_file="other.onnx")
    assert "not among" in refused(folder).what


@pytest.mark.parametrize("changes", [{"unheard": 1}, {"classes": 3}, {"schema": {}}, {"task": "x"}])
def test_fields_that_do_not_fit(folder, changes):
    rewritten(folder, **changes)
    assert f"`{next(iter(changes))}" in refused(folder).what


@pytest.mark.parametrize("name", ["model.onnx", "manifest.json", "extra"])
def test_symbolic_links(folder, name):
    path = folder / name
    path.rename(folder.parent / "moved")
    path.symlink_to(folder.parent / "moved")
    assert refused(folder).what == "a symbolic link"


def test_writing_refuses_names_that_lead_out(tmp_path):
    with pytest.raises(BundleError, match="leads outside"):
        bundle.write(UPath(tmp_path / "b"), MANIFEST, {"../x": b""})
    assert not (tmp_path / "x").exists()


def test_interrupted_writing_leaves_nothing_that_opens(tmp_path, monkeypatch):
    out = UPath(tmp_path / "b")
    written = []
    write_bytes = type(out).write_bytes

    def interrupted(path, content):
        written.append(path.name)
        if len(written) > len(FILES):
            raise KeyboardInterrupt
        return write_bytes(path, content)

    monkeypatch.setattr(type(out), "write_bytes", interrupted)
    with pytest.raises(KeyboardInterrupt):
        bundle.write(out, MANIFEST, FILES)
    assert written[-1] == "manifest.json"
    assert "interrupted" in refused(tmp_path / "b").what


@pytest.fixture
def remote(tmp_path, monkeypatch) -> UPath:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    path = UPath(f"memory://{tmp_path.name}/v1")
    bundle.write(path, MANIFEST, FILES)
    return path


def test_remote_bundles_are_fetched_once(remote, monkeypatch):
    first = bundle.opened(str(remote))
    assert first.model.read_bytes() == FILES["model.onnx"]
    (remote / "model.onnx").unlink()
    assert bundle.opened(remote) == first


def test_a_damaged_remote_bundle_is_refused_and_not_kept(remote, tmp_path):
    (remote / "model.onnx").write_bytes(b"other")
    assert "truncated or altered" in refused(remote).what
    assert list((tmp_path / "cache/ray_pipeline/bundles").iterdir()) == []
    (remote / "model.onnx").unlink()
    assert refused(remote).what == "missing"


def test_a_damaged_copy_is_fetched_again(remote):
    copy = bundle.opened(remote)
    copy.model.write_bytes(b"damaged")
    assert bundle.opened(remote).model.read_bytes() == FILES["model.onnx"]


def test_opening_unpickles_nothing(folder, monkeypatch):
    def unpickled(*_: object, **__: object) -> None:
        raise AssertionError("something was unpickled")

    for name in ("load", "loads", "Unpickler"):
        monkeypatch.setattr(pickle, name, unpickled)
    assert bundle.opened(folder).model.is_file()


def test_errors_are_short_enough_to_read(folder):
    (folder / "model.onnx").write_bytes(b"x")
    lines = str(refused(folder)).splitlines()
    assert len(lines) == 3
    assert all(len(line.replace(str(folder), "")) < 100 for line in lines)

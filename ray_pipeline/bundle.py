"""A bundle: a folder with all that is needed to predict, and nothing executable in it.

`manifest.json` names every other file with its sha256, and is written last: a folder without a
whole manifest is not a bundle. Its own `digest` covers its bytes, so that no byte of a bundle can
change unnoticed. (That guards against damage, not against someone who rewrites all of it.)
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import pydantic
from upath import UPath

from ray_pipeline.errors import BundleError
from ray_pipeline.schema import Schema

FORMAT = 1
MANIFEST = "manifest.json"
# MLflow's registry adds this file to what it downloads; nothing here reads it.
_TOLERATED = frozenset({MANIFEST, "registered_model_meta"})
_NO_DIGEST = "0" * 64
_HINT = "copy the bundle again from where it was made, or export it again"


@pydantic.dataclasses.dataclass(
    frozen=True, kw_only=True, config=pydantic.ConfigDict(extra="forbid")
)
class Manifest:
    """What a bundle is, where it comes from and how well it does."""

    name: str
    version: str
    created: str
    """UTC, ISO 8601."""
    task: Literal["classification", "multilabel", "regression", "generation", "retrieval", "chat"]
    schema: Schema
    classes: tuple[str, ...] | None
    """In the order of the model's outputs; None for all but a classification."""
    thresholds: tuple[float, ...] | None = None
    """Where a row may have several classes: from which probability on it gets each of them."""
    model_file: str = "model.onnx"
    privacy: dict[str, Any] = field(default_factory=dict)
    """What `data.privacy` does to the values of a request, before anything else does."""
    cleaning: dict[str, Any] = field(default_factory=dict)
    """The job's `data.clean` as far as it changes values of a request; empty if it does not."""
    model: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, Any] = field(default_factory=dict)
    parity: dict[str, Any] = field(default_factory=dict)
    """How far what is stored is from the trained model, over the validation split."""
    networks: list[dict[str, Any]] = field(default_factory=list)
    """The trained network and the smaller ones that were trained after it: what was measured of
    each, and which was chosen. Empty if there was but one."""
    compression: list[dict[str, Any]] = field(default_factory=list)
    """Every form of that network that was measured, and which was chosen."""
    accelerated: dict[str, Any] = field(default_factory=dict)
    """The model in two graphs for a replica with a GPU: their files, what they read, which GPU an
    engine was built on, and what was measured of each provider there. Empty if there was none."""
    lineage: dict[str, str] = field(default_factory=dict)
    """Digests of the data, the code, the job and the stages that this comes from."""
    licence: str | None = None
    base_model: str | None = None
    files: dict[str, str] = field(default_factory=dict)
    """sha256 by file name."""
    format: int = FORMAT
    digest: str = _NO_DIGEST
    """sha256 of manifest.json itself, with this field as 64 zeros."""


_ADAPTER = pydantic.TypeAdapter(Manifest)


@dataclass(frozen=True)
class Bundle:
    """An opened bundle: a local folder and its manifest."""

    path: Path
    manifest: Manifest

    @property
    def model(self) -> Path:
        """The ONNX graph: raw columns in, probabilities (a value, a vector) out. Of a language
        model its weights, in a folder as the Hugging Face libraries want it."""
        return self.path / self.manifest.model_file


def write(out: UPath, manifest: Manifest, files: Mapping[str, bytes]) -> Manifest:
    """Write a bundle below `out` and return its manifest, complete with digests.

    The manifest goes last, so that an interrupted write leaves nothing that opens.
    """
    for name, content in files.items():
        path = out / _safe(name, str(out))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    digests = {name: hashlib.sha256(files[name]).hexdigest() for name in sorted(files)}
    complete = replace(manifest, files=digests, digest=_NO_DIGEST)
    blank = _ADAPTER.dump_json(complete, indent=2) + b"\n"
    digest = hashlib.sha256(blank).hexdigest()
    (out / MANIFEST).write_bytes(_with_digest(blank, _NO_DIGEST, digest))
    return replace(complete, digest=digest)


def opened(path: str | os.PathLike[str] | UPath, verify: bool = True) -> Bundle:
    """The bundle at `path`, a folder or an fsspec URI (which is fetched into a cache first).

    With `verify`, every file is read and compared with its digest. Raises BundleError, naming the
    file and what differs, for anything that is not exactly what was written.
    """
    folder = local(path)
    manifest = _manifest(_read_manifest(folder), str(folder / MANIFEST))
    if verify:
        _verify(folder, manifest)
    return Bundle(folder, manifest)


def local(path: str | os.PathLike[str] | UPath) -> Path:
    """A local folder with the bundle's files: `path` itself, or a verified copy in the cache.

    Copies are kept under the manifest's digest in `$XDG_CACHE_HOME/ray_pipeline` (`~/.cache/…`).
    """
    source = UPath(path)
    if source.protocol in ("", "file", "local"):
        return Path(source.path)
    content = _read_manifest(source)
    manifest = _manifest(content, str(source / MANIFEST))
    cache = _cache()
    copy = cache / manifest.digest
    if copy.is_dir() and _is_whole(copy, manifest):
        return copy
    shutil.rmtree(copy, ignore_errors=True)
    cache.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=cache))
    try:
        _fetch(source, manifest, temporary)
        (temporary / MANIFEST).write_bytes(content)
        _verify(temporary, manifest)
        temporary.rename(copy)
    except OSError:
        # Another process may have put the same copy there first.
        if not copy.is_dir():
            raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return copy


def _cache() -> Path:
    home = os.environ.get("XDG_CACHE_HOME")
    return (Path(home) if home else Path.home() / ".cache") / "ray_pipeline" / "bundles"


def _fetch(source: UPath, manifest: Manifest, target: Path) -> None:
    for name in manifest.files:
        path = target / _safe(name, str(source / MANIFEST))
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with (source / name).open("rb") as remote, path.open("wb") as copy:
                shutil.copyfileobj(remote, copy, 1 << 20)
        except FileNotFoundError:
            raise _missing(str(source / name), manifest.files[name]) from None


def _read_manifest(folder: Path | UPath) -> bytes:
    if isinstance(folder, Path) and (folder / MANIFEST).is_symlink():
        raise _symlink(folder / MANIFEST)
    try:
        return (folder / MANIFEST).read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        raise BundleError(
            "not a bundle, or one whose writing was interrupted: there is no manifest.json",
            where=str(folder),
            expected="a folder that `ray-pipeline run` wrote under <storage>/<job>/bundles",
            hint="give the version's folder itself; " + _HINT,
        ) from None
    except OSError as error:
        raise BundleError(f"cannot be read: {error}", where=str(folder / MANIFEST)) from error


def _manifest(content: bytes, where: str) -> Manifest:
    try:
        raw = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise BundleError(
            f"not JSON: {error}", where=where, expected="a whole manifest", hint=_HINT
        ) from error
    found = raw.get("format") if isinstance(raw, dict) else None
    if found != FORMAT:
        raise BundleError(
            f"bundle format {found!r} is not known",
            where=where,
            expected=f"format {FORMAT}",
            hint="use the ray-pipeline version that wrote it, or export it again",
        )
    claimed = str(raw.get("digest") or None)
    actual = hashlib.sha256(_with_digest(content, claimed, _NO_DIGEST)).hexdigest()
    if claimed != actual:
        raise _altered(where, claimed, actual)
    try:
        return _ADAPTER.validate_json(content)
    except pydantic.ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(map(str, first["loc"]))
        raise BundleError(f"`{place}`: {first['msg']}", where=where, hint=_HINT) from error


def _with_digest(content: bytes, old: str, new: str) -> bytes:
    # Only the last one: `digest` is the last field, and a file might have the same text elsewhere.
    head, separator, tail = content.rpartition(old.encode())
    return head + new.encode() + tail if separator else content


def _verify(folder: Path, manifest: Manifest) -> None:
    where = str(folder / MANIFEST)
    for name in (manifest.model_file, *manifest.files):
        _safe(name, where)
    if manifest.model_file not in manifest.files:
        raise BundleError(
            f"model file {manifest.model_file!r} is not among `files`", where=where, hint=_HINT
        )
    present = set(_present(folder))
    for name, expected in manifest.files.items():
        if name not in present:
            raise _missing(str(folder / name), expected)
        with (folder / name).open("rb") as file:
            actual = hashlib.file_digest(file, "sha256").hexdigest()
        if actual != expected:
            raise _altered(str(folder / name), expected, actual)
    extra = sorted(present - manifest.files.keys() - _TOLERATED)
    if extra:
        raise BundleError(
            "the manifest does not name this file",
            where=str(folder / extra[0]),
            expected=f"only {', '.join(sorted(manifest.files))}",
            hint="remove it; nothing but what the manifest names belongs in a bundle",
        )


def _is_whole(folder: Path, manifest: Manifest) -> bool:
    try:
        _verify(folder, manifest)
    except BundleError:
        return False
    return True


def _present(folder: Path) -> Iterator[str]:
    for path in folder.rglob("*"):
        if path.is_symlink():
            raise _symlink(path)
        if not path.is_dir():
            yield path.relative_to(folder).as_posix()


def _safe(name: str, where: str) -> str:
    """`name`, if it stays inside the bundle; raises BundleError otherwise."""
    path = PurePosixPath(name)
    plain = re.fullmatch(r"[\w.+-]+(/[\w.+-]+)*", name, re.ASCII) is not None
    if not plain or path.is_absolute() or ".." in path.parts or str(path) != name:
        raise BundleError(
            f"file name {name!r} leads outside the bundle or is not plain",
            where=where,
            expected="relative names of letters, digits, and . _ + -",
            hint="do not use this bundle: somebody may have tampered with it",
        )
    return name


def _missing(where: str, expected: str) -> BundleError:
    return BundleError("missing", where=where, expected=f"sha256 {expected[:12]}…", hint=_HINT)


def _altered(where: str, expected: str, actual: str) -> BundleError:
    return BundleError(
        f"truncated or altered: sha256 {actual[:12]}…",
        where=where,
        expected=f"sha256 {expected[:12]}…",
        hint=_HINT,
    )


def _symlink(where: Path) -> BundleError:
    return BundleError(
        "a symbolic link",
        where=str(where),
        expected="a plain file",
        hint="copy the bundle with cp -rL",
    )

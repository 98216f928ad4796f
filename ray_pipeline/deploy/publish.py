"""From the folder of the stage that made a bundle to where bundles are looked for."""

from __future__ import annotations

from upath import UPath

from ray_pipeline import bundle
from ray_pipeline.errors import BundleError


def published(stage: UPath, target: UPath) -> UPath:
    """`target`, holding the bundle that an export put into the folder `stage`.

    What already stands there whole is left as it is: an endpoint may be reading it.
    """
    source = bundle.opened(stage / "bundle")
    try:
        if bundle.opened(target).manifest == source.manifest:
            return target
    except BundleError:  # nothing there yet, or half of it: it is written again
        target.mkdir(parents=True, exist_ok=True)
    content = {name: (source.path / name).read_bytes() for name in source.manifest.files}
    bundle.write(target, source.manifest, content)
    return target

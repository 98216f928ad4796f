"""Writes docs/transcript.md: what is typed and printed while clusters/own.yaml is up.

    make transcript

The machines are namespaces of this one (tests/hosts.py), which needs root and some tools.
"""

from __future__ import annotations

import re
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from hosts import JOB, OWN, PAGE, Host, cut, network, question, refusal, stored, wait  # noqa: E402

TITLE = """# What `ray up` on machines of one's own prints

Written by `make transcript`, which runs it: [`clusters/own.yaml`](../clusters/own.yaml) with a head
and two workers, each a host made of namespaces of one machine, with a network, processes and files
of its own, reached over SSH; and a laptop with the checkout, beside which a server of S3's protocol
runs. Times, the token and the key are left out. The hosts reach no registry: instead of installing
packages each links to those of the machine.
"""
PLAIN = "--log-style pretty --log-color false"
STATUS = f"ray exec {OWN} 'RAY_AUTH_MODE=token ray status'"
KEY = re.compile(r"\brp_[\w-]{20,}")
LEFT_OUT: dict[str, str] = {
    KEY.pattern: "rp_…",
    r"\x1b\[[0-9;?]*[a-zA-Z]": "",
    r"(?m)^.*(Warning: Permanently added|Shared connection to|ClusterState: ).*\n": "",
    r"(?m)^.*(File Mount: |To ensure this mount|provider configuration|--no-config-cache).*\n": "",
    r"(?m)^V*(INFO|WARN) (docker|commands|command_runner)\.py.*\n": "",
    r"(?m)^ ?\d\d:\d\d:\d\d up .*\n": "",
    r"(?m)^\d{4}-\d\d-\d\d [\d:,]+\t": "",
    r"\d{4}-\d\d-\d\d[ T_][\d:.,-]*\d": "…",
    r"\b\d{8}-\d{6}-\w+": "…",
    r"\[ *[\d.]+s\]": "[…s]",
    r"\b\d+\.\d+ s\b": "… s",
    r"\b[0-9a-f]{56,64}\b": "…",
}


class Transcript:
    """A page on which each command stands below the one before."""

    def __init__(self) -> None:
        self.page = [TITLE]

    def about(self, text: str) -> None:
        self.page.append(f"\n{text}\n")

    def typed(self, host: Host, command: str) -> str:
        told = host.run(command)
        self.page.append(f"\n```console\n{host.name}$ {clean(command)}\n{clean(told)}\n```\n")
        return told


def clean(text: str) -> str:
    """Without what is another's on another machine, or another time."""
    for pattern, instead in LEFT_OUT.items():
        text = re.sub(pattern, instead, text)
    for path in (sys.prefix, sys.base_prefix):
        text = text.replace(path, "/opt/venv")
    lines = [line.rstrip() for line in text.replace("\r", "").splitlines()]
    return "\n".join(lines).strip()


def story(laptop: Host, head: Host, one: Host, other: Host) -> str:
    """What a user does from the first command to the last, as a page."""
    told = Transcript()
    told.about("The machines' addresses are in the file; each has the storage's secrets.")
    told.typed(laptop, "ray get-auth-token --generate")
    told.typed(laptop, f"ray up {OWN} --yes {PLAIN}")
    told.about("The workers are set up by the head, over SSH as well.")
    page = laptop.start(f"ray dashboard {OWN}")
    wait(laptop, (head, one, other), 600)
    told.about(f"In another terminal: `ray dashboard {OWN}`")
    told.typed(laptop, STATUS)

    told.about("A job trains on two of them and leaves an endpoint with a replica on each.")
    laptop.run("cat > ~/job.yaml", given=JOB)
    told.typed(laptop, "cat ~/job.yaml")
    told.typed(laptop, f"ray-pipeline submit ~/job.yaml --address {PAGE} --follow")
    told.typed(laptop, f"ray-pipeline status --address {PAGE}")
    key = KEY.findall(told.typed(laptop, f"ray exec {OWN} '~/venv/bin/ray-pipeline key'"))[-1]
    told.typed(one, question(other, key))
    told.typed(other, question(head, key))

    told.about(f"The link of the host `{other.name}`, {other.address}, is cut.")
    cut(laptop, other)
    told.typed(one, question(head, key))
    wait(laptop, (head, one), 120)
    told.about("After at least 15 seconds Ray has given it up.")
    told.typed(laptop, STATUS)
    told.typed(one, question(head, key))

    page.kill()
    told.typed(laptop, f"ray down {OWN} --yes {PLAIN}")
    return "".join(told.page)


def main() -> None:
    if refused := refusal():
        sys.exit(f"no hosts can be made here: {refused}")
    with (
        tempfile.TemporaryDirectory() as folder,
        network(Path(folder), "head", "one", "other") as (laptop, head, one, other),
    ):
        stored(laptop)
        page = story(laptop, head, one, other)
    (ROOT / "docs" / "transcript.md").write_text(page)


if __name__ == "__main__":
    main()

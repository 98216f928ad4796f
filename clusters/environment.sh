# What every node sets before Ray starts; the cluster files mount it and read it. A test holds it
# against ray_pipeline/deploy/fast_path.py, which says why each of Serve's settings is there.

# Whoever has the token may run code on the cluster: nothing answers without it.
export RAY_AUTH_MODE=token

export RAY_SERVE_ENABLE_HA_PROXY=1
export RAY_SERVE_THROUGHPUT_OPTIMIZED=1
export RAY_SERVE_HAPROXY_METRICS_ENABLED=0
export RAY_SERVE_HAPROXY_NBTHREAD=2
export RAY_worker_niceness=0
export RAY_SERVE_REPLICA_AUTOSCALING_METRIC_PUSH_INTERVAL_S=1
export RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S=5
export RAY_SERVE_DIRECT_INGRESS_MIN_GRPC_PORT=31001
export RAY_SERVE_DIRECT_INGRESS_MAX_GRPC_PORT=32000
export RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S=120
export RAY_SERVE_HAPROXY_RETRY_ON=$'conn-failure empty-response\n    option http-buffer-request\n    timeout http-request 10s'
export RAY_SERVE_HAPROXY_TUNE_BUFSIZE=65536
export RAY_SERVE_HAPROXY_RETRIES=10
export RAY_SERVE_HAPROXY_TIMEOUT_CONNECT_S=1
export RAY_SERVE_HAPROXY_TIMEOUT_CLIENT_S=30
export RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH=ray_pipeline.deploy.edge:middlewares
export RAY_USAGE_STATS_ENABLED=0
export MIMALLOC_PURGE_DELAY=1000
export MALLOC_MMAP_THRESHOLD_=1073741824
export MALLOC_TRIM_THRESHOLD_=536870912

# HAProxy's admin socket is in /tmp by default, where any user of the machine could write to it. The
# name is short because Ray puts a folder of 56 letters below it, and HAProxy takes no path of a
# socket with more than 97.
HAPROXY="$HOME/.rp"
mkdir -p "$HAPROXY" "$HOME/.ray_pipeline" && chmod 700 "$HOME/.ray_pipeline" "$HAPROXY"
export RAY_SERVE_HAPROXY_CONFIG_FILE_LOC="$HAPROXY/haproxy.cfg"
export RAY_SERVE_HAPROXY_SOCKET_PATH="$HAPROXY/admin.sock"
export RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH="$HAPROXY/metrics.sock"
export RAY_SERVE_HAPROXY_SERVER_STATE_BASE="$HAPROXY"
export RAY_SERVE_HAPROXY_SERVER_STATE_FILE="$HAPROXY/server-state"

# A node that does not answer is given up after five looks: 15 seconds.
export RAY_health_check_period_ms=3000
export RAY_health_check_timeout_ms=10000
export RAY_health_check_failure_threshold=5

# Gloo, by which workers on CPUs train together, would take the address of the host's name, which on
# many systems is 127.0.1.1: this is the network by which the node reaches the others.
export GLOO_SOCKET_IFNAME="$(ip route get "${RAY_HEAD_IP:-8.8.8.8}" | grep -oP 'dev \K\S+')"

# Connections of many workers and replicas: as many as the system lets it have.
ulimit -Sn "$(ulimit -Hn)"

# What job files name as ${NAME}, and what storages read (AWS_…, REDIS_PASSWORD): lines `NAME=value`
# in a file that only its owner reads. Nodes with a role of their cloud need none.
if [ -f "$HOME/.ray_pipeline/secrets.env" ]; then
    set -a
    . "$HOME/.ray_pipeline/secrets.env"
    set +a
fi

# The head's state in a Redis (RAY_REDIS_ADDRESS=host:port, RAY_REDIS_PASSWORD; a namespace of its own
# where several clusters use one): a head that is started again is the same cluster, and nodes wait
# for it that long.
if [ -n "${RAY_REDIS_ADDRESS:-}" ]; then
    export RAY_external_storage_namespace="${RAY_external_storage_namespace:-ray-pipeline}"
    export RAY_gcs_rpc_server_reconnect_timeout_s="${RAY_gcs_rpc_server_reconnect_timeout_s:-600}"
fi

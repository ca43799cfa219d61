# shellcheck shell=bash
# What the tests of the real clients share: a temporary directory, a scripted upstream, a mirror in front of it, waits
# that end, and an end that stops every process and says what went wrong.
#
# A test file sources this, calls `begin NAME` before each of its tests, and simply runs: the first command that fails
# fails the test it is in, prints the tails of all logs and ends the file.

# shellcheck disable=SC2034 # the files that source this use what it names

set -Eeuo pipefail
shopt -s inherit_errexit
# Where daemons live, and a login without root does not look.
PATH=$PATH:/usr/sbin:/sbin
trap 'echo "error: status $? of line $LINENO in ${BASH_SOURCE[0]##*/}: $BASH_COMMAND" >&2' ERR

readonly image=docker.io/library/nginx:latest
repository=library/nginx
readonly layers=${layers:-10}
# What the image prints when it runs.
readonly greeting="hello from mirror"
# Seconds that any one wait, and any one client command, may take.
readonly patience=60

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
readonly root
readonly target=${CARGO_TARGET_DIR:-$root/target}
readonly mirror_binary=${MIRROR_BINARY:-$target/release/mirror}
readonly fake_hub_binary=${FAKE_HUB_BINARY:-$target/debug/examples/fake_hub}

# Short, because a unix socket's path may have no more than 107 bytes.
work=$(mktemp -d /tmp/mirror-clients.XXXXXX)
readonly work
readonly logs=$work/logs
mkdir "$logs"

suite=$(basename "$0" .sh)
readonly suite
readonly results=${CLIENTS_RESULTS:-$work/results}
current=
started=()
upstream_options=()

# --- Tests and their outcome ---------------------------------------------------------------------------------------

# Ends the test that runs, which has passed, and starts the named one.
begin() {
    passed
    current=$1
}

passed() {
    if [[ -n $current ]]; then
        outcome ok
    fi
    current=
}

outcome() {
    echo "$1   $suite: $current"
    echo "$1" >>"$results"
}

fail() {
    echo "error: $*" >&2
    exit 1
}

# A client that is not installed is a failure, never a test left out.
need() {
    local command
    for command in curl jq "$@"; do
        command -v "$command" >/dev/null || fail "$command is not installed; .ci/run installs it"
    done
    [[ $(id -u) == 0 ]] || fail "the clients' daemons need root"
}

# Runs a command, which has to succeed and to print just what is expected.
assert_prints() {
    local expected=$1 actual
    shift
    actual=$("$@")
    if [[ $expected != "$actual" ]]; then
        diff --unified --label expected --label actual <(echo "$expected") <(echo "$actual") >&2 || true
        fail "not what is expected of: $*"
    fi
}

# --- Processes -----------------------------------------------------------------------------------------------------

# Starts a daemon whose output goes to its log; it is stopped at the end, the last one first.
start() {
    local name=$1
    shift
    "$@" >"$logs/$name.log" 2>&1 &
    started+=("$!")
}

# Waits for a command to succeed, and for no longer than the daemon it asks about lives.
wait_for() {
    local what=$1 deadline=$((SECONDS + patience))
    shift
    until "$@" >/dev/null 2>&1; do
        kill -0 "${started[-1]}" 2>/dev/null || fail "$what: the process has ended"
        ((SECONDS < deadline)) || fail "$what: not within $patience s"
        sleep 0.1
    done
}

# Runs a client, in a home of its own so that nobody's credentials or settings take part.
client() {
    HOME=$work/home timeout --kill-after=5 "$patience" "$@"
}

# Runs a command whose output matters only if the test fails.
logged() {
    local name=$1
    shift
    "$@" >>"$logs/$name.log" 2>&1
}

stop() {
    local process=$1 deadline=$((SECONDS + 15))
    kill "$process" 2>/dev/null || return 0
    while kill -0 "$process" 2>/dev/null; do
        if ((SECONDS >= deadline)); then
            kill -KILL "$process" 2>/dev/null || true
            break
        fi
        sleep 0.1
    done
    wait "$process" 2>/dev/null || true
}

free_port() {
    local port
    while true; do
        port=$((20000 + RANDOM % 12000))
        if ! (: <"/dev/tcp/127.0.0.1/$port") 2>/dev/null; then
            echo "$port"
            return
        fi
    done
}

# --- Names of hosts ------------------------------------------------------------------------------------------------

# From here on, what is started knows 127.0.0.1 by these names beside localhost, and no other host: nothing listens where
# further names are asked for. Only in a mount namespace of one's own.
own_names() {
    name_hosts "$@"
    echo "nameserver 127.0.0.253" >"$work/resolv.conf"
    mount --bind "$work/hosts" /etc/hosts
    mount --bind "$work/resolv.conf" /etc/resolv.conf
}

# Changes them, in place: it is this file that is mounted, not whatever has its name.
name_hosts() {
    echo "127.0.0.1 localhost $*" >"$work/hosts"
}

# --- The upstream and the mirror -----------------------------------------------------------------------------------

# Starts a scripted Docker Hub that holds one image of $layers layers, whose first one has a static busybox, and which
# records what it is asked. $upstream_options are the hub's.
start_upstream() {
    start_hub upstream "${upstream_options[@]}"
    MIRROR_UPSTREAMS__DOCKER_IO__URL=$(announced registry)
    MIRROR_UPSTREAMS__DOCKER_IO__TOKEN_URL=$(announced token)
    export MIRROR_UPSTREAMS__DOCKER_IO__URL MIRROR_UPSTREAMS__DOCKER_IO__TOKEN_URL
    upstream_record=$(announced control)
}

# Starts a hub whose log has that name.
start_hub() {
    local name=$1
    shift
    start "$name" "$fake_hub_binary" --port 0 --binary "$(command -v busybox)" --layers "$layers" "$@"
    wait_for "$name starts" grep --quiet ^ready "$logs/$name.log"
}

# One of the addresses that a hub, the upstream unless another is named, prints when it starts.
announced() {
    awk -v name="$1" '$1 == name { print $2; exit }' "$logs/${2:-upstream}.log"
}

# What the upstream was asked since it last forgot, one request a line, in byte order. Digests have names here, such as
# "amd64.layer0".
upstream_requests() {
    requests_at "$upstream_record"
}

forget_upstream_requests() {
    forget_requests_at "$upstream_record"
}

# What the hub with that control address was asked.
requests_at() {
    curl --silent --show-error --fail --max-time 10 "$1" | jq --raw-output '.[].line' | LC_ALL=C sort
}

forget_requests_at() {
    curl --silent --show-error --fail --max-time 10 --request DELETE "$1"
}

# Starts a mirror with an empty cache at $mirror_address.
start_mirror() {
    mirror_address=127.0.0.1:$(free_port)
    start mirror "$mirror_binary" serve --listen "$mirror_address" --dir "$work/mirror"
    wait_for "mirror starts" mirror_is_ready
}

mirror_is_ready() {
    curl --silent --show-error --fail --max-time 5 "http://$mirror_address/readyz"
}

# --- Clients and their daemons -------------------------------------------------------------------------------------

# Starts dockerd, with the address of a mirror.
start_dockerd() {
    echo "{\"registry-mirrors\": [\"$1\"]}" >"$work/daemon.json"
    start dockerd dockerd \
        --config-file "$work/daemon.json" \
        --data-root "$work/docker" \
        --exec-root "$work/docker-exec" \
        --host "unix://$work/docker.sock" \
        --pidfile "$work/docker.pid" \
        --exec-opt native.cgroupdriver=cgroupfs \
        --bridge none --iptables=false --ip6tables=false
    wait_for "dockerd starts" docker_cli version
}

docker_cli() {
    DOCKER_HOST=unix://$work/docker.sock DOCKER_CONFIG=$work/docker-config client docker "$@"
}

start_containerd() {
    cat >"$work/containerd.toml" <<TOML
version = 2
root = "$work/containerd"
state = "$work/containerd-state"
disabled_plugins = ["io.containerd.grpc.v1.cri"]

[grpc]
address = "$work/containerd.sock"

[ttrpc]
address = "$work/containerd.sock.ttrpc"
TOML
    start containerd containerd --config "$work/containerd.toml"
    wait_for "containerd starts" ctr_cli version
}

ctr_cli() {
    client ctr --address "$work/containerd.sock" "$@"
}

podman_cli() {
    CONTAINERS_REGISTRIES_CONF=$work/registries.conf client podman \
        --root "$work/podman" --runroot "$work/podman-run" --tmpdir "$work/podman-tmp" \
        --storage-driver vfs --cgroup-manager cgroupfs --events-backend none --runtime runc "$@"
}

# The limits are named because podman's own are higher than a restricted machine's root may set.
run_in_podman() {
    podman_cli run --rm --network none --log-driver none \
        --ulimit nofile=1024:1024 --ulimit nproc=1024:1024 "$1"
}

write_registries_conf() {
    cat >"$work/registries.conf" <<TOML
unqualified-search-registries = ["docker.io"]

[[registry]]
prefix = "docker.io"
location = "docker.io"

[[registry.mirror]]
location = "$mirror_address"
insecure = true
TOML
}

# --- What is asked and what is expected ----------------------------------------------------------------------------

# What the mirror serves below the image's repository, such as manifests/latest.
get() {
    curl --silent --show-error --fail --max-time 10 \
        --header "Accept: application/vnd.oci.image.index.v1+json" \
        --header "Accept: application/vnd.oci.image.manifest.v1+json" \
        "http://$mirror_address/v2/$repository/$1"
}

# The digest of what the mirror serves there.
digest_of() {
    get "$1" | sha256sum | sed 's/^\([0-9a-f]*\).*/sha256:\1/'
}

# The platform of this machine, as an index names it.
own_architecture() {
    dpkg --print-architecture
}

# A first pull of the architectures named asks the upstream for each thing once: a token, the manifests, and every blob,
# from the registry and then from where that redirects to.
assert_cold_pull() {
    local expected
    expected=$(cold_pull_requests "$repository" 0 "$@" | LC_ALL=C sort)
    assert_prints "$expected" upstream_requests
}

# What a first pull of a repository's architectures asks for, when the layers below the lowest one named are held.
cold_pull_requests() {
    local repository=$1 lowest=$2 architecture blob
    shift 2
    echo "token GET $repository:pull"
    echo "registry GET $repository/manifests/latest"
    for architecture in "$@"; do
        echo "registry GET $repository/manifests/$architecture.manifest"
        for blob in config $(seq --format "layer%.0f" "$lowest" $((layers - 1))); do
            echo "registry GET $repository/blobs/$architecture.$blob"
            echo "cdn GET $architecture.$blob"
        done
    done
}

assert_no_upstream_requests() {
    assert_prints "" upstream_requests
}

# --- The end -------------------------------------------------------------------------------------------------------

show_logs() {
    local log
    for log in "$logs"/*.log; do
        [[ -e $log ]] || continue
        echo "--- the last lines of $(basename "$log")" >&2
        tail --lines=40 "$log" >&2
    done
}

unmount_all() {
    local mount
    while read -r mount; do
        umount --lazy "$mount" || true
    done < <(awk -v below="$work/" 'index($2, below) == 1 { print $2 }' /proc/mounts | sort --reverse)
}

# Nothing stops this: not a second signal, and not a reader of our output who has left.
finish() {
    local status=$? index
    set +e
    trap - EXIT ERR
    trap '' HUP INT PIPE TERM
    if ((status == 0)); then
        passed
    else
        current=${current:-starts} outcome FAIL
        show_logs
    fi
    for ((index = ${#started[@]} - 1; index >= 0; index--)); do
        stop "${started[index]}"
    done
    unmount_all
    rm -rf "$work"
    exit "$status"
}

trap finish EXIT
trap 'exit 130' HUP INT PIPE TERM

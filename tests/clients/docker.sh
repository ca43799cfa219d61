#!/usr/bin/env bash
# dockerd, told of the mirror by `registry-mirrors`, pulls and runs an image; the second pull costs the upstream nothing.

# shellcheck source-path=SCRIPTDIR source=lib.sh
source "$(dirname "$0")/lib.sh"

readonly docker_host=unix://$work/docker.sock

docker_cli() {
    DOCKER_HOST=$docker_host DOCKER_CONFIG=$work/docker-config client docker "$@"
}

start_dockerd() {
    echo "{\"registry-mirrors\": [\"http://$mirror_address\"]}" >"$work/daemon.json"
    start dockerd dockerd \
        --config-file "$work/daemon.json" \
        --data-root "$work/docker" \
        --exec-root "$work/docker-exec" \
        --host "$docker_host" \
        --pidfile "$work/docker.pid" \
        --exec-opt native.cgroupdriver=cgroupfs \
        --bridge none --iptables=false --ip6tables=false
    wait_for "dockerd starts" docker_cli version
}

need dockerd docker containerd runc
start_upstream
start_mirror
start_dockerd

begin "pulls through the mirror"
logged docker docker_cli pull "$image"
assert_cold_pull "$(own_architecture)"

begin "runs what it pulled"
assert_prints "$greeting" docker_cli run --rm --network none "$image"

begin "pulls again without a request to the upstream"
logged docker docker_cli rmi "$image"
assert_prints "" docker_cli images --all --quiet
forget_upstream_requests
logged docker docker_cli pull "$image"
assert_no_upstream_requests
assert_prints "$greeting" docker_cli run --rm --network none "$image"

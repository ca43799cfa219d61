#!/usr/bin/env bash
# podman, told of the mirror by registries.conf, pulls and runs an image; the second pull costs the upstream nothing.

# shellcheck source-path=SCRIPTDIR source=lib.sh
source "$(dirname "$0")/lib.sh"

# The limits are named because podman's own are higher than a restricted machine's root may set.
run() {
    podman_cli run --rm --network none --log-driver none \
        --ulimit nofile=1024:1024 --ulimit nproc=1024:1024 "$image"
}

need podman runc conmon
start_upstream
start_mirror
write_registries_conf

begin "pulls through the mirror"
logged podman podman_cli pull "$image"
assert_cold_pull "$(own_architecture)"

begin "runs what it pulled"
assert_prints "$greeting" run

begin "pulls again without a request to the upstream"
logged podman podman_cli rmi "$image"
assert_prints "" podman_cli images --all --quiet
forget_upstream_requests
logged podman podman_cli pull "$image"
assert_no_upstream_requests
assert_prints "$greeting" run

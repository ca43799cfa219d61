#!/usr/bin/env bash
# podman, told of the mirror by registries.conf, pulls and runs an image; the second pull costs the upstream nothing.

# shellcheck source-path=SCRIPTDIR source=lib.sh
source "$(dirname "$0")/lib.sh"

need podman runc conmon
start_upstream
start_mirror
write_registries_conf

begin "pulls through the mirror"
logged podman podman_cli pull "$image"
assert_cold_pull "$(own_architecture)"

begin "runs what it pulled"
assert_prints "$greeting" run_in_podman "$image"

begin "pulls again without a request to the upstream"
logged podman podman_cli rmi "$image"
assert_prints "" podman_cli images --all --quiet
forget_upstream_requests
logged podman podman_cli pull "$image"
assert_no_upstream_requests
assert_prints "$greeting" run_in_podman "$image"

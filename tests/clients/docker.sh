#!/usr/bin/env bash
# dockerd, told of the mirror by `registry-mirrors`, pulls and runs an image; the second pull costs the upstream nothing.

# shellcheck source-path=SCRIPTDIR source=lib.sh
source "$(dirname "$0")/lib.sh"

need dockerd docker containerd runc
start_upstream
start_mirror
start_dockerd "http://$mirror_address"

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

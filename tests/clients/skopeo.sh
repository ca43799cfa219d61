#!/usr/bin/env bash
# skopeo, told of the mirror by registries.conf, copies an image whole; the second copy costs the upstream nothing.

# shellcheck source-path=SCRIPTDIR source=lib.sh
source "$(dirname "$0")/lib.sh"

copy() {
    client skopeo --insecure-policy --registries-conf "$work/registries.conf" copy --all "docker://$image" "oci:$work/$1:latest"
}

# Every file below blobs/sha256 has the bytes that its name promises.
assert_layout_is_whole() {
    local blob
    for blob in "$work/$1"/blobs/sha256/*; do
        echo "$(basename "$blob")  $blob"
    done | sha256sum --check --quiet
}

need skopeo
start_upstream
start_mirror
write_registries_conf

begin "copies through the mirror"
logged skopeo copy first
assert_cold_pull amd64 arm64

begin "has the bytes that the digests promise"
assert_layout_is_whole first
assert_prints "$(jq --raw-output '.manifests[0].digest' "$work/first/index.json")" digest_of manifests/latest

begin "copies again without a request to the upstream"
forget_upstream_requests
logged skopeo copy second
assert_no_upstream_requests
diff --recursive "$work/first/blobs" "$work/second/blobs"

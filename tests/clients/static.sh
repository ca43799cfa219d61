#!/usr/bin/env bash
# The static binary starts in an empty root directory as nobody in particular, and serves.

# shellcheck source-path=SCRIPTDIR source=lib.sh
source "$(dirname "$0")/lib.sh"

readonly nobody=65534:65534
readonly jail=$work/jail

host_triple() {
    rustc --version --verbose | sed --quiet 's/^host: //p'
}

# A target directory of its own: the flags differ, and so would every artifact.
build_static() {
    (cd "$root" && RUSTFLAGS="-C target-feature=+crt-static" CARGO_TARGET_DIR=$target/static \
        cargo build --locked --release --target "$(host_triple)")
}

make_jail() {
    mkdir --parents "$jail/data"
    cp "$target/static/$(host_triple)/release/mirror" "$jail/mirror"
    chown --recursive "$nobody" "$jail/data"
}

start_mirror_in_jail() {
    mirror_address=127.0.0.1:$(free_port)
    start mirror chroot --userspec="$nobody" "$jail" /mirror serve --listen "$mirror_address" --dir /data
    wait_for "mirror starts" mirror_is_ready
}

# The dynamic loader that a binary asks for.
interpreter() {
    readelf --program-headers "$1" | sed --quiet '/INTERP/p'
}

need cargo rustc readelf chroot

begin "is built"
logged build build_static
make_jail
assert_prints "" interpreter "$jail/mirror"

begin "starts in an empty root as uid 65534"
start_upstream
start_mirror_in_jail
assert_prints 65534 stat --format=%u "/proc/${started[-1]}"

begin "serves an image from there"
manifest=$(get manifests/latest | jq --raw-output --arg own "$(own_architecture)" \
    '.manifests[] | select(.platform.architecture == $own) | .digest')
blobs=$(get "manifests/$manifest" | jq --raw-output '.config.digest, .layers[].digest')
for digest in $blobs; do
    assert_prints "$digest" digest_of "blobs/$digest"
done
assert_cold_pull "$(own_architecture)"

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

needs_no_interpreter() {
    ! readelf --program-headers "$1" | grep --quiet INTERP
}

digest_of_blob() {
    curl --silent --show-error --fail --max-time 10 "http://$mirror_address/v2/$repository/blobs/$1" | digest_of_input
}

need cargo rustc readelf chroot

begin "is built"
logged build build_static
make_jail
needs_no_interpreter "$jail/mirror"

begin "starts in an empty root as uid 65534"
start_upstream
start_mirror_in_jail
assert_prints 65534 stat --format=%u "/proc/${started[-1]}"

begin "serves an image from there"
for digest in $(blob_digests "$(own_platform_digest)"); do
    assert_prints "$digest" digest_of_blob "$digest"
done
assert_cold_pull "$(own_platform_digest)"

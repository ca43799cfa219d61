#!/usr/bin/env bash
# containerd, told of the mirror by a hosts directory, pulls and runs an image; the second pull costs the upstream nothing.

# shellcheck source-path=SCRIPTDIR source=lib.sh
source "$(dirname "$0")/lib.sh"

# The mirror is the namespace's server as well, so that nothing can be got elsewhere.
write_hosts() {
    mkdir --parents "$work/hosts/docker.io"
    cat >"$work/hosts/docker.io/hosts.toml" <<TOML
server = "http://$mirror_address"

[host."http://$mirror_address"]
capabilities = ["pull", "resolve"]
TOML
}

pull() {
    ctr_cli images pull --hosts-dir "$work/hosts" "$image"
}

run() {
    ctr_cli run --rm "$image" "$1"
}

need containerd ctr runc
start_upstream
start_mirror
start_containerd
write_hosts

begin "pulls through the mirror"
logged ctr pull
assert_cold_pull "$(own_architecture)"

begin "runs what it pulled"
assert_prints "$greeting" run first

begin "pulls again without a request to the upstream"
logged ctr ctr_cli images rm --sync "$image"
assert_prints "" ctr_cli content ls --quiet
forget_upstream_requests
logged ctr pull
assert_no_upstream_requests
assert_prints "$greeting" run second

#!/usr/bin/env bash
# One mirror in front of three upstreams: containerd names them by `ns`, dockerd and podman by a path. Each
# upstream is asked for what is its own, and a registry that is not configured costs no connection.

# A mount namespace of its own, where the names of hosts mean what this file says.
if [[ -z ${OWN_NAMES:-} ]]; then
    OWN_NAMES=1 exec unshare --mount --propagation private "$0" "$@"
fi

layers=2
# shellcheck source-path=SCRIPTDIR source=lib.sh
source "$(dirname "$0")/lib.sh"

readonly stranger=stranger.mirror.test
readonly upstreams=(docker.io ghcr.io quay.io)
# Two of them have a repository of the same name.
declare -Ar repositories=([docker.io]=library/nginx [ghcr.io]=acme/app [quay.io]=acme/app)
declare -Ar seeds=([docker.io]=1 [ghcr.io]=100 [quay.io]=200)

image_of() {
    echo "$1/${repositories[$1]}:latest"
}

# --- The upstreams -------------------------------------------------------------------------------------------------

start_upstreams() {
    local name
    for name in "${upstreams[@]}"; do
        start_hub "$name" --repository "${repositories[$name]}" --seed "${seeds[$name]}"
        cat >>"$work/mirror.toml" <<TOML
[upstreams."$name"]
url = "$(announced registry "$name")"
token_url = "$(announced token "$name")"
TOML
    done
}

requests_of() {
    requests_at "$(announced control "$1")"
}

# Every upstream but the one named was asked for nothing, and forgets.
assert_others_idle() {
    local name
    for name in "${upstreams[@]}"; do
        [[ $name == "$1" ]] || assert_prints "" requests_of "$name"
        forget_requests_at "$(announced control "$name")"
    done
}

assert_first_pull() {
    assert_prints "$(first_pull_requests "$1" | LC_ALL=C sort)" requests_of "$1"
    assert_others_idle "$1"
}

# The layer that all images have in common is stored once, so that only the first of them costs a request for it. How
# Docker Hub wants to be asked is known; another registry is asked once to learn it.
first_pull_requests() {
    local name=${repositories[$1]}
    if [[ $1 == docker.io ]]; then
        cold_pull_requests "$name" 0 "$(own_architecture)"
    else
        cold_pull_requests "$name" 1 "$(own_architecture)"
        echo "registry GET $name/manifests/latest"
    fi
}

assert_idle() {
    assert_others_idle none
}

# --- What the mirror answers ---------------------------------------------------------------------------------------

# The head of the answer to a path.
head_of() {
    curl --silent --show-error --max-time 10 --head \
        --header "Accept: application/vnd.oci.image.index.v1+json" "http://$mirror_address$1" | tr --delete '\r'
}

# The value of a field of that head.
field_of() {
    head_of "$2" | sed --quiet "s/^$1: //Ip"
}

status_of() {
    head_of "$1" | sed --quiet '1s/^[^ ]* \([0-9]*\).*/\1/p'
}

# The status and the image, from the mirror's log.
last_answer_to_containerd() {
    grep '"ua":"containerd/' "$logs/mirror.log" | tail --lines=1 | jq --raw-output '"\(.status) \(.image)"'
}

# --- Clients -------------------------------------------------------------------------------------------------------

# No `server`: for what the mirror does not have, containerd goes to the registry itself.
write_default_hosts() {
    mkdir --parents "$work/hosts.d/_default"
    cat >"$work/hosts.d/_default/hosts.toml" <<TOML
[host."http://$mirror_address"]
capabilities = ["pull", "resolve"]
TOML
}

# The path goes before /v2, and `ns` is sent as well.
write_prefixed_hosts() {
    mkdir --parents "$work/hosts.prefixed/$1"
    cat >"$work/hosts.prefixed/$1/hosts.toml" <<TOML
server = "http://$mirror_address/$1"

[host."http://$mirror_address/$1"]
capabilities = ["pull", "resolve"]
TOML
}

ctr_pull() {
    ctr_cli images pull --hosts-dir "$work/hosts.d" "$1"
}

run_in_ctr() {
    ctr_cli run --rm "$1" only
}

# What containerd has under the image's name, which it has verified.
digest_in_ctr() {
    ctr_cli images ls "name==$1" | awk 'NR == 2 { print $3 }'
}

# A mirror for each of two registries, whose names become a prefix of the repository's.
write_prefixed_registries_conf() {
    local name
    echo 'unqualified-search-registries = ["docker.io"]' >"$work/registries.conf"
    for name in ghcr.io quay.io; do
        cat >>"$work/registries.conf" <<TOML
[[registry]]
prefix = "$name"
location = "$name"

[[registry.mirror]]
location = "$mirror_address/$name"
insecure = true
TOML
    done
}

need unshare containerd ctr dockerd docker podman runc conmon
own_names "$stranger"
start_upstreams
export MIRROR_CONFIG=$work/mirror.toml
start_mirror
start_containerd
write_default_hosts
declare -A digests=()

for name in "${upstreams[@]}"; do
    begin "containerd pulls from $name"
    logged ctr ctr_pull "$(image_of "$name")"
    assert_first_pull "$name"
    assert_prints "$greeting" run_in_ctr "$(image_of "$name")"
    digests[$name]=$(digest_in_ctr "$(image_of "$name")")
done

begin "containerd pulls again from all of them without a request to any"
for name in "${upstreams[@]}"; do
    logged ctr ctr_cli images rm --sync "$(image_of "$name")"
done
assert_prints "" ctr_cli content ls --quiet
for name in "${upstreams[@]}"; do
    logged ctr ctr_pull "$(image_of "$name")"
done
assert_idle

begin "says whose content it is"
for name in "${upstreams[@]}"; do
    path=${repositories[$name]}/manifests/latest
    assert_prints "$name" field_of OCI-Namespace "/v2/$path?ns=$name"
    for form in "/v2/$path?ns=$name" "/v2/$name/$path" "/v2/$name/$path?ns=$name" "/$name/v2/$path"; do
        assert_prints "${digests[$name]}" field_of Docker-Content-Digest "$form"
    done
done
assert_idle

begin "opens no connection for a registry that is not configured"
# A hub that would answer, under a name that nobody configured.
start_hub stranger --host "$stranger" --repository acme/app
address=$(announced registry stranger)
address=${address#http://}
path=acme/app/manifests/latest
for form in "/v2/$path?ns=$address" "/v2/$path?ns=$stranger" "/v2/$stranger/$path" "/$stranger/v2/$path"; do
    assert_prints 404 status_of "$form"
done
assert_prints "" requests_of stranger
assert_idle

begin "containerd gets nothing of such a registry"
address=$stranger:$(free_port)
if ctr_pull "$address/acme/app:latest" >"$work/refused" 2>&1; then
    fail "pulled from $address"
fi
# Told by the mirror that there is no such thing, it went there itself.
grep --quiet "connection refused" "$work/refused" || fail "$(<"$work/refused")"
assert_prints "404 acme/app:latest" last_answer_to_containerd
assert_idle

# As a dockerd that takes mirrors with a path does, too; the one of Debian 12 does not.
begin "containerd pulls by a path before /v2"
for name in ghcr.io quay.io; do
    write_prefixed_hosts "$name"
    logged ctr ctr_cli images rm --sync "$(image_of "$name")"
    logged ctr ctr_cli images pull --hosts-dir "$work/hosts.prefixed" "$(image_of "$name")"
    assert_prints "${digests[$name]}" digest_in_ctr "$(image_of "$name")"
    grep --quiet "\"path\":\"/$name/v2/${repositories[$name]}/" "$logs/mirror.log" || fail "by another path"
done
assert_idle

begin "dockerd pulls by a path after /v2"
start_dockerd "http://$mirror_address"
for name in "${upstreams[@]}"; do
    prefixed=$mirror_address/$(image_of "$name")
    logged docker docker_cli pull "$prefixed"
    assert_prints "${prefixed%:*}@${digests[$name]}" \
        docker_cli image inspect --format '{{index .RepoDigests 0}}' "$prefixed"
    assert_prints "$greeting" docker_cli run --rm --network none "$prefixed"
done
assert_idle

begin "podman pulls by the paths of registries.conf"
write_prefixed_registries_conf
for name in ghcr.io quay.io; do
    logged podman podman_cli pull "$(image_of "$name")"
    assert_prints "${digests[$name]}" podman_cli image inspect --format '{{.Digest}}' "$(image_of "$name")"
    assert_prints "$greeting" run_in_podman "$(image_of "$name")"
done
assert_idle

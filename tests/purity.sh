#!/usr/bin/env bash
# Arrows between crates point one way: pure crates <- wire <- service <- services <- cli.
set -euo pipefail

cargo=${CARGO:-cargo}
failed=0

# The crate names of all that $1 is built from.
tree() {
    "$cargo" tree --package "$1" --edges normal --prefix none --format '{p}' | cut -d' ' -f1 | sort -u
}

never() {
    local crate=$1
    shift
    local all
    all=$(tree "$crate")
    for other in "$@"; do
        if grep -qx "$other" <<<"$all"; then
            echo "$crate must not depend on $other" >&2
            failed=1
        fi
    done
}

services=(umbel-origin umbel-edge umbel-agent umbel-control-plane)

for crate in umbel-content umbel-swarm umbel-http-cache umbel-delivery umbel-sim; do
    never "$crate" tokio mio hyper umbel-wire umbel-service "${services[@]}"
done
never umbel-shared-cache umbel-wire umbel-service "${services[@]}"
never umbel-wire umbel-service "${services[@]}"
never umbel-service "${services[@]}"
for crate in "${services[@]}"; do
    for other in "${services[@]}" umbel; do
        [ "$crate" = "$other" ] || never "$crate" "$other"
    done
done

[ $failed = 0 ] && echo "dependencies between crates are as they should be"
exit $failed

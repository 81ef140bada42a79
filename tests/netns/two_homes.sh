#!/usr/bin/env bash
# Two homes on one LAN, each with a node in its default settings: the README's story from start to
# chat, with nothing configured but the two machines themselves.
#
#   tests/netns/two_homes.sh BINARY [FOLDER]
#
# Each home is a network namespace of its own (with its own loopback, hence its own 127.84.48.x) and
# a veth pair is the LAN between them. Nothing reaches the network of the machine. Needs root,
# iproute2 and python3. Everything it makes is gone when it ends, however it ends; only FOLDER, if
# given, keeps the logs.
set -euo pipefail

binary=$(realpath "${1:?usage: two_homes.sh BINARY [FOLDER]}")
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
[ "$(id -u)" = 0 ] || { echo "two_homes.sh needs root to make network namespaces" >&2; exit 77; }

a=mh-$$-a b=mh-$$-b
folder=${2:-$(mktemp -d)}
mkdir -p "$folder"
pids=()

clean_up() {
    local status=$?
    trap - EXIT INT TERM HUP
    set +e
    for pid in "${pids[@]}"; do kill "$pid" 2>/dev/null; done
    for pid in "${pids[@]}"; do
        # A clean stop takes 5 s at most.
        for _ in $(seq 100); do kill -0 "$pid" 2>/dev/null || break; sleep 0.1; done
        kill -KILL "$pid" 2>/dev/null
        wait "$pid" 2>/dev/null
    done
    ip netns del "$a" 2>/dev/null
    ip netns del "$b" 2>/dev/null
    if [ "$status" != 0 ]; then
        for home in a b; do
            echo "--- end of the log of home $home" >&2
            tail -n 40 "$folder/$home/log" >&2
        done
    fi
    [ -n "${keep:-}" ] || rm -rf "$folder"
    exit "$status"
}
keep=${2:-}
trap clean_up EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

ip netns add "$a"
ip netns add "$b"
ip link add lan netns "$a" type veth peer name lan netns "$b"
number=1
for home in "$a" "$b"; do
    ip -n "$home" link set lo up
    ip -n "$home" addr add "10.84.48.$number/24" dev lan
    ip -n "$home" link set lan up
    # mDNS: multicast has to know its way out.
    ip -n "$home" route add 224.0.0.0/4 dev lan
    number=$((number + 1))
done

# Starts the node of a home: the binary, a data folder, and nothing else.
start() { # namespace home
    mkdir -p "$folder/$2"
    (
        cd "$folder/$2"
        for name in $(compgen -e | grep '^MESSAGEHUB' || true); do unset "$name"; done
        export HOME="$folder/$2" RUST_LOG="${RUST_LOG:-info}"
        exec ip netns exec "$1" "$binary" --data "$folder/$2/data"
    ) >"$folder/$2/log" 2>&1 &
    pids+=($!)
}
start "$a" a
start "$b" b

python3 "$here/two_homes.py" "$binary" "$a:$folder/a/data:${pids[0]}" "$b:$folder/b/data:${pids[1]}"

#!/bin/sh
# Wait until the node with this home is connected to a peer: wait_ready.sh HOME [TEXT]
# With TEXT it must also have an address with that in it ("/p2p-circuit": one that leads through a relay).
set -eu

READY_TIMEOUT=60 # seconds; four nodes that start at once on two processors take a dozen

started=$(date +%s)
while :; do
    status=$("${PYTHON:-python3}" -m lattica --json --home "$1" status 2>/dev/null) || status=""
    case $status in
    "" | *'"connections": 0,'*) missing="no connection" ;;
    *"${2:-}"*) exit 0 ;;
    *) missing="no address with $2 in it" ;;
    esac
    [ $(($(date +%s) - started)) -lt "$READY_TIMEOUT" ] || {
        echo "the node with the home $1 has $missing after $READY_TIMEOUT s" >&2
        exit 1
    }
    sleep 0.3
done

#!/bin/sh
# Run a peer that joins by the relay: peer.sh HOME PORT
#   GATEWAY    its router, if it is behind one
#   RELAY_IP   the relay's public address
#   RELAY_LINE file in which the relay's node has printed who it is
set -eu

RELAY_TIMEOUT=60 # seconds until the relay has to have said who it is
scripts=$(dirname "$0")

[ -z "${GATEWAY:-}" ] || sh "$scripts/route_via.sh" "$GATEWAY"

waited=0
until relay=$(grep -o "/ip4/$RELAY_IP/tcp/[0-9]*/p2p/[0-9A-Za-z]*" "$RELAY_LINE" 2>/dev/null); do
    [ "$waited" -lt "$RELAY_TIMEOUT" ] || {
        echo "no address of the relay at $RELAY_IP in $RELAY_LINE after $RELAY_TIMEOUT s; is the relay running?" >&2
        exit 1
    }
    sleep 1
    waited=$((waited + 1))
done
exec sh "$scripts/node.sh" "$1" "$2" "$(echo "$relay" | head -n 1)"

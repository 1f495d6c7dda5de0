#!/bin/sh
# Send what is not for this machine's own network through a router: route_via.sh GATEWAY
set -eu

ip route replace default via "$1"

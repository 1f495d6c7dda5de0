#!/bin/sh
# Run a node until SIGTERM: node.sh HOME PORT [RELAY]
# It prints a line of JSON with its peer ID and addresses. Both labs start nodes with it.
set -eu

exec "${PYTHON:-python3}" -m lattica --json --home "$1" up --port "$2" ${3:+--bootstrap "$3"}

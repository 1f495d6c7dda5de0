#!/bin/sh
# Move a model with the running node: transfer.sh publish HOME FILE
#                                     transfer.sh fetch HOME CID FILE
# publish prints the content ID; fetch prints a line of JSON with bytes, seconds, and each source with its path.
set -eu

lattica() {
    "${PYTHON:-python3}" -m lattica "$@"
}

case $1 in
publish) lattica --home "$2" publish "$3" ;;
fetch) lattica --json --home "$2" fetch "$3" "$4" --overwrite ;;
*)
    echo "$1: neither publish nor fetch" >&2
    exit 2
    ;;
esac

#!/bin/sh
# Install what pip cannot, on Debian and its kin, when run as root; otherwise say what is missing.
#   gcc, GMP and Python headers: py-libp2p needs fastecdsa, which is compiled on installation.
#   nftables, iproute2: network namespaces of the tests; those are skipped without them.
set -eu

missing=""
need() { # need TEST PACKAGE
    sh -c "$1" >/dev/null 2>&1 || missing="$missing $2"
}
need 'command -v gcc' gcc
need 'printf "#include <gmp.h>\n" | gcc -E -' libgmp-dev
need 'command -v ip' iproute2
need 'command -v nft' nftables

[ -n "$missing" ] || exit 0
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
    echo "installing system packages:$missing"
    export DEBIAN_FRONTEND=noninteractive
    { apt-get update -qq && apt-get install -y -qq --no-install-recommends $missing; } >/dev/null ||
        echo "could not install:$missing" >&2
else
    echo "missing system packages (install them if what follows fails or skips):$missing" >&2
fi

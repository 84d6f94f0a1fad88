#!/bin/bash
# Cuts the power under the metadata store and checks that nothing it acknowledged is missing.
#
# Each cut: a writer appends (and truncates, purges, votes, snapshots) on a loop-mounted ext4; after a random time the
# file system is shut down without flushing (what was not synced is gone), the writer is killed, and after remounting the
# store is opened and compared with every line the writer ever printed. Two of three cuts hit the Raft log's store, one a
# whole node that creates and deletes topics. The stores live on through all cuts.
#
# First the same is done to a store that leaves the syncs out, which has to be caught.
#
# Needs root. POWER_CUTS=n for another number than 200. --may-skip: where it cannot run, say so and succeed.
# CRASH_WRITER=path uses a built writer. Exits non-zero at the first lost promise and keeps the files then.
set -euo pipefail
cd "$(dirname "$0")/../.."
source tests/crash/loop_disk.sh

cuts=${POWER_CUTS:-200}
reason=$(loop_disk_missing)
if [ -n "$reason" ]; then
    if [ "${1:-}" = --may-skip ]; then
        echo "power cuts skipped: $reason"
        exit 0
    fi
    echo "power cuts cannot be made here: $reason" >&2
    exit 1
fi

writer=${CRASH_WRITER:-}
if [ -z "$writer" ]; then
    ${CARGO:-cargo} build -q -p ottla-raft --example crash_writer
    writer=${CARGO_TARGET_DIR:-target}/debug/examples/crash_writer
fi

loop_disk_create 1024
trap loop_disk_destroy EXIT
promises=$LOOP_DISK_DIR/promises
mkdir "$promises"
seed=${POWER_CUT_SEED:-$$}
RANDOM=$seed
echo "$cuts power cuts, POWER_CUT_SEED=$seed"


# A check that cannot fail proves nothing: a store that does not sync has to be caught, within a few cuts.
caught=
for cut in $(seq 10); do
    loop_disk_mount
    "$writer" log-unsynced "$LOOP_DISK_MOUNT/unsynced" "$cut" >"$promises/unsynced" 2>/dev/null &
    pid=$!
    sleep 0.7
    "$writer" cut "$LOOP_DISK_MOUNT"
    kill -9 "$pid" 2>/dev/null || true
    wait "$pid" 2>/dev/null || true
    loop_disk_unmount
    loop_disk_mount
    if ! "$writer" check-log "$LOOP_DISK_MOUNT/unsynced" "$promises/unsynced" >/dev/null 2>&1; then
        caught=$cut
    fi
    rm -rf "$LOOP_DISK_MOUNT/unsynced"
    loop_disk_unmount
    [ -z "$caught" ] || break
done
rm "$promises/unsynced"
if [ -z "$caught" ]; then
    echo "a store without syncs lost nothing in 10 cuts: this test cannot see a loss here" >&2
    exit 1
fi
echo "a store without syncs is caught at cut $caught"

for cut in $(seq "$cuts"); do
    kind=log
    if [ $((cut % 3)) = 0 ]; then
        kind=node
    fi
    loop_disk_mount
    printed=$promises/$kind-$(printf %05d "$cut")
    "$writer" "$kind" "$LOOP_DISK_MOUNT/$kind" "$cut" >"$printed" 2>"$LOOP_DISK_DIR/stderr" &
    pid=$!
    # Some cuts fall into the opening of the store, most into the writing.
    if [ $((RANDOM % 5)) != 0 ]; then
        for _ in $(seq 3000); do
            if [ -s "$printed" ] || ! kill -0 "$pid" 2>/dev/null; then
                break
            fi
            sleep 0.02
        done
    fi
    sleep "0.$(printf %03d $((RANDOM % 600)))"
    if ! kill -0 "$pid" 2>/dev/null; then
        echo "cut $cut: the writer ended by itself:" >&2
        cat "$LOOP_DISK_DIR/stderr" >&2
        trap - EXIT
        exit 1
    fi
    "$writer" cut "$LOOP_DISK_MOUNT"
    # Whatever the writer prints on the dead disk is a promise too.
    sleep 0.02
    kill -9 "$pid" 2>/dev/null || true
    wait "$pid" 2>/dev/null || true
    loop_disk_unmount
    loop_disk_mount
    if ! result=$("$writer" "check-$kind" "$LOOP_DISK_MOUNT/$kind" "$promises/$kind"-* 2>&1); then
        echo "cut $cut ($kind): $result" >&2
        echo "the disk and the promises are kept in $LOOP_DISK_DIR" >&2
        trap - EXIT
        exit 1
    fi
    size=$(du -sk "$LOOP_DISK_MOUNT/$kind" | cut -f1)
    echo "cut $cut ($kind, $size KiB): $result"
    loop_disk_unmount
done
echo "$cuts power cuts: nothing that was acknowledged is missing ($(cat "$promises"/* | wc -l) promises)"

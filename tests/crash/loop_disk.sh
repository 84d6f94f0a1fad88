# Common to the crash tests: an ext4 file system in a file, mounted through a loop device, whose power can be cut.
# Source it; then `loop_disk_create MIB`, `loop_disk_mount`, `loop_disk_unmount`, `loop_disk_destroy`.
# $LOOP_DISK_DIR holds the image and is removed at the end; $LOOP_DISK_MOUNT is the mount point.

# Prints why power cannot be cut here, or nothing.
loop_disk_missing() {
    if [ "$(id -u)" != 0 ]; then
        echo "it needs root"
    elif ! command -v mkfs.ext4 >/dev/null || ! command -v losetup >/dev/null; then
        echo "it needs mkfs.ext4 and losetup"
    elif ! losetup -f >/dev/null 2>&1; then
        echo "it needs a free loop device"
    fi
}

loop_disk_create() {
    LOOP_DISK_DIR=$(mktemp -d)
    LOOP_DISK_MOUNT=$LOOP_DISK_DIR/mount
    mkdir "$LOOP_DISK_MOUNT"
    truncate -s "${1}M" "$LOOP_DISK_DIR/disk"
    mkfs.ext4 -q -F "$LOOP_DISK_DIR/disk"
}

loop_disk_mount() {
    mount -o loop "$LOOP_DISK_DIR/disk" "$LOOP_DISK_MOUNT"
}

# A process that was just killed may hold the mount for a moment longer.
loop_disk_unmount() {
    for _ in $(seq 100); do
        umount "$LOOP_DISK_MOUNT" 2>/dev/null && return 0
        sleep 0.05
    done
    umount "$LOOP_DISK_MOUNT"
}

loop_disk_destroy() {
    if mountpoint -q "$LOOP_DISK_MOUNT" 2>/dev/null; then
        loop_disk_unmount || true
    fi
    rm -rf "$LOOP_DISK_DIR"
}

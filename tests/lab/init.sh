#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# The lab's PID 1, in the initramfs: modules, then the host's root read-only below, a tmpfs above it, the live
# directories (checkout, cache, results) as mounts of their own; at last the agent, in there. plan.py puts /lab.env,
# /shares and /modules beside it. Done with a static busybox here, because out there every program comes through virtiofs.
# An overlay answers ESTALE for ever once a file below it was replaced from outside: what people work on is not overlaid.
export PATH=/bin
# shellcheck source=/dev/null
. /lab.env
new=/new

note() { echo "lab: $*" >/dev/console; }

die() {
    note "$@"
    sleep 1
    poweroff -f
}

into() { # into TYPE TARGET [OPTION...]: a file system of the kernel
    type=$1 target=$new$2
    shift 2
    mkdir -p "$target"
    mount -t "$type" "$@" "$type" "$target" || note "can't mount $target"
}

load_modules() {
    for module in /modules/*; do
        insmod "$module" || note "$module does not load"
    done
    rm -r /modules
}

mount_root() {
    mkdir /lower /upper $new
    mount -t virtiofs -o ro root /lower || die "can't mount the host's root"
    mount -t tmpfs -o mode=755,size=50% upper /upper
    mkdir /upper/data /upper/work
    mount -t overlay -o lowerdir=/lower,upperdir=/upper/data,workdir=/upper/work lab $new || die "can't mount the overlay"
}

mount_kernel() {
    into proc /proc
    into sysfs /sys
    into devtmpfs /dev
    into devpts /dev/pts -o ptmxmode=666
    into tmpfs /dev/shm
    into mqueue /dev/mqueue
    into tmpfs /run -o mode=755
    into cgroup2 /sys/fs/cgroup
    into bpf /sys/fs/bpf
    into securityfs /sys/kernel/security
    mkdir -p $new/dev/net
    [ -e $new/dev/net/tun ] || mknod $new/dev/net/tun c 10 200
    for device in kvm vhost-vsock vhost-net; do
        [ -e "$new/dev/$device" ] || note "there is no /dev/$device"
    done
    echo "+cpu +memory +pids +io +cpuset" >$new/sys/fs/cgroup/cgroup.subtree_control
    mkdir $new/sys/fs/cgroup/lab
}

# erofs images can't be mounted from tmpfs, and overlays need an upper that is no overlay: these get a disk.
mount_disk() {
    mkdir $new/run/disk
    mount -t ext4 /dev/vda $new/run/disk || die "can't mount the disk"
    for directory in var/lib/clearpod var/tmp tmp; do
        mkdir -p "$new/run/disk/$directory" "$new/$directory"
        mount -o bind "$new/run/disk/$directory" "$new/$directory"
    done
    chmod 1777 $new/tmp $new/var/tmp
}

# After the disk, whose /tmp would hide a checkout that lies below /tmp.
mount_live() {
    while IFS='	' read -r tag mode target; do
        mkdir -p "$new$target"
        mount -t virtiofs -o "$mode" "$tag" "$new$target" || die "can't mount $target"
    done </shares
    into tmpfs "$LAB_CHECKOUT/build/cache"
    mkdir -p "$new$LAB_MODULES" "$new/lib/modules/$(uname -r)"
    mount -o bind "$new$LAB_MODULES" "$new/lib/modules/$(uname -r)"
}

mount -t devtmpfs dev /dev
mount -t proc proc /proc
load_modules
mount_root
mount_kernel
mount_disk
mount_live
hostname lab
ip link set lo up
mount --make-rshared $new
umount /proc /dev
# shellcheck disable=SC3045  # busybox has it
ulimit -n 65536
export PATH="$LAB_PATH" HOME=/root LANG=C.UTF-8 LAB=1 LAB_CHECKOUT LAB_DETERMINISTIC
# The machine goes off when the agent ends.
# shellcheck disable=SC2016  # expanded by the shell out there
exec switch_root -c /dev/console $new /bin/sh -c '
    cd "$LAB_CHECKOUT" && PYTHONDONTWRITEBYTECODE=1 /usr/bin/python3 -S -m tests.lab.agent </dev/null
    echo "lab: the agent ended"
    echo o >/proc/sysrq-trigger
    sleep 5'

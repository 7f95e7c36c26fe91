# SPDX-License-Identifier: Apache-2.0
# The AppArmor profile of containers that ask for no other, in guests whose kernel has AppArmor: as much as container engines
# usually allow. It includes nothing, so that it is the same on every machine.

profile clearpod-default flags=(attach_disconnected,mediate_deleted) {
  file,
  network,
  capability,
  umount,

  # The guest's agent and crun end it; its own processes signal and trace each other.
  signal (receive) peer=unconfined,
  signal (send,receive) peer=clearpod-default,
  ptrace (trace,read,tracedby,readby) peer=clearpod-default,

  # Of the pod's kernel: no settings but those of its own processes, of shared memory and semaphores.
  deny /proc/* w,
  deny /proc/{[^1-9],[^1-9][^0-9],[^1-9s][^0-9y][^0-9s],[^1-9][^0-9][^0-9][^0-9]*}/** w,
  deny /proc/sys/[^k]** w,
  deny /proc/sys/kernel/{?,??,[^s][^h][^m]**} w,
  deny /proc/sysrq-trigger rwklx,
  deny /proc/mem rwklx,
  deny /proc/kmem rwklx,
  deny /proc/kcore rwklx,
  deny mount,
  deny /sys/[^f]*/** wklx,
  deny /sys/f[^s]*/** wklx,
  deny /sys/fs/[^c]*/** wklx,
  deny /sys/fs/c[^g]*/** wklx,
  deny /sys/fs/cg[^r]*/** wklx,
  deny /sys/firmware/** rwklx,
  deny /sys/devices/virtual/powercap/** rwklx,
  deny /sys/kernel/security/** rwklx,
}

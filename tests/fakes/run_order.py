# SPDX-License-Identifier: Apache-2.0
"""The order of files of tests when they run side by side. For tests/conftest.py and lanes.py.

Files are named without `tests/` and `.py`.
"""

WAITING = """hostile/test_saves cri/test_bounded cri/test_spoofing cri/test_hostile_links hostile/test_link
cri/test_network system/test_registry_faults cri/test_streaming_flood rkt/test_frozen hostile/test_evil_agent
cri/test_hostile_recovery hostile/test_files cri/test_hostile_saves hostile/test_jail system/test_connect
unit/guest/test_proxy unit/net/test_attach unit/cri/test_served_vms unit/cri/test_stats unit/net/test_status_gc
unit/cri/test_agent_limits unit/lab/test_agent unit/cri/test_activation""".split()
"""Files that leave most of a processor to others, since they wait for limits or for what does not answer; the longest
first.
"""
LONGEST = """rkt/test_templates rkt/test_pods vm/test_save_faults cri/test_streaming vm/test_many vm/test_run
cri/test_many_networks cri/test_network_data system/test_lab cri/test_seeing vm/test_run_bad_input system/test_power_cut
system/test_packages vm/test_faults vm/test_run_image system/test_killed hostile/test_guest vm/test_systemd
cri/test_full_disk cri/test_host_faults cri/test_damaged_pods cri/test_frozen_vms cri/test_pool_killed vm/test_soak
cri/test_give_back rkt/test_sandbox rkt/test_systemd_pods rkt/test_hostile_guest cri/test_pool_vms
cri/test_own_kernel_ends cri/test_real_stats cri/test_streaming_attach cri/test_python_counter cri/test_service
cri/test_streaming_forward cri/test_suspend_vms vm/test_own_kernel_transcript vm/test_limits cri/test_template_vms
cri/test_log_files fuzz/test_fuzzers rkt/test_logs cri/test_guest_volumes vm/test_owners cri/test_own_kernels
cri/test_upgrade_vm vm/test_run_own_kernel vm/test_service cri/test_storms vm/test_run_options vm/test_agent
cri/test_checkpoint_vms rkt/test_jail system/test_spoofing style/test_linters cri/test_every_rpc cri/test_pool
bench/test_boot_budget rkt/test_faults cri/test_many_execs cri/test_user_namespaces system/test_hostile_images
vm/test_window_qemu""".split()
"""Other files of more than a quarter of a minute, the longest first: no process has one left when the others are done.
`scripts/test` says in the end which files of 20 s and more are missing here.
"""


def rank(name: str) -> int:
    """When a file's turn is, among others of its kind."""
    for names in (WAITING, LONGEST):
        if name in names:
            return names.index(name)
    return len(LONGEST)

# SPDX-License-Identifier: Apache-2.0
"""The order of files of tests when they run side by side. For tests/conftest.py and lanes.py.

Files are named without `tests/` and `.py`.
"""

WAITING = """hostile/test_saves cri/test_bounded cri/test_spoofing cri/test_hostile_links hostile/test_link
cri/test_network cri/test_streaming_flood hostile/test_evil_agent rkt/test_frozen cri/test_hostile_recovery
system/test_neighbours system/test_registry_table system/test_registry_faults hostile/test_files
cri/test_hostile_saves hostile/test_jail
system/test_connect unit/guest/test_proxy unit/net/test_attach unit/cri/test_served_vms unit/cri/test_stats
unit/net/test_status_gc unit/cri/test_agent_limits unit/lab/test_agent unit/cri/test_activation""".split()
"""Files that leave most of a processor to others, since they wait for limits or for what does not answer; the longest
first.
"""
LONGEST = """cri/test_programs
vm/test_save_faults vm/test_many vm/test_faults cri/test_streaming rkt/test_templates hostile/test_guest
vm/test_systemd system/test_power_cut cri/test_many_networks cri/test_network_data system/test_packages vm/test_run
system/test_killed cri/test_guest_volumes cri/test_memory_volumes
rkt/test_faults system/test_lab vm/test_run_bad_input cri/test_host_faults
vm/test_run_image cri/test_damaged_pods vm/test_soak cri/test_streaming_forward cri/test_suspend_vms
cri/test_own_kernel_environment cri/test_give_back cri/test_own_kernels_kvmtool rkt/test_pods cri/test_real_stats
cri/test_full_disk cri/test_own_kernels cri/test_template_vms vm/test_run_own_kernel cri/test_saves_of_copies_vms
vm/test_limits cri/test_frozen_vms cri/test_streaming_attach system/test_hostile_images vm/test_own_kernel_transcript
cri/test_pool_killed vm/test_run_options cri/test_log_files rkt/test_systemd_pods cri/test_own_kernel_ends
style/test_linters vm/test_owners vm/test_agent vm/test_service rkt/test_sandbox system/test_spoofing fuzz/test_fuzzers
cri/test_service system/test_registry unit/agent/test_agent_in_c cri/test_generated cri/test_every_rpc cri/test_upgrade
cri/test_eight_copies cri/test_storms cri/test_seeing rkt/test_hostile_guest cri/test_pool_vms cri/test_python_counter
rkt/test_logs cri/test_upgrade_vm cri/test_checkpoint_vms rkt/test_jail cri/test_pool bench/test_boot_budget
cri/test_many_execs cri/test_user_namespaces vm/test_window_qemu""".split()
"""Other files of more than a quarter of a minute, the longest first: no process has one left when the others are done.
`scripts/test` says in the end which files of 20 s and more are missing here.
"""


def rank(name: str) -> int:
    """When a file's turn is, among others of its kind."""
    for names in (WAITING, LONGEST):
        if name in names:
            return names.index(name)
    return len(LONGEST)

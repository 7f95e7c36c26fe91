# SPDX-License-Identifier: Apache-2.0
"""The order of files of tests when they run side by side. For tests/conftest.py and lanes.py.

Files are named without `tests/` and `.py`.
"""

WAITING = """hostile/test_saves cri/test_bounded cri/test_spoofing cri/test_hostile_links hostile/test_link
cri/test_network hostile/test_evil_agent rkt/test_frozen cri/test_streaming_flood cri/test_hostile_recovery
hostile/test_jail hostile/test_files cri/test_hostile_saves system/test_connect unit/guest/test_proxy
unit/net/test_attach unit/cri/test_served_vms unit/cri/test_stats unit/net/test_status_gc unit/cri/test_agent_limits
unit/lab/test_agent unit/cri/test_activation""".split()
"""Files that leave most of a processor to others, since they wait for limits or for what does not answer; the longest
first.
"""
LONGEST = """vm/test_many vm/test_save_faults rkt/test_templates cri/test_network_data cri/test_streaming
cri/test_many_networks vm/test_faults cri/test_real_stats hostile/test_guest vm/test_soak system/test_lab
bench/test_boot_budget vm/test_run cri/test_give_back system/test_killed cri/test_guest_volumes cri/test_host_faults
system/test_packages cri/test_damaged_pods cri/test_pool_killed vm/test_systemd vm/test_run_bad_input
system/test_power_cut cri/test_own_kernels cri/test_log_files cri/test_streaming_attach vm/test_agent vm/test_service
vm/test_run_image cri/test_frozen_vms rkt/test_systemd_pods cri/test_full_disk vm/test_own_kernel_transcript
vm/test_limits rkt/test_pods rkt/test_faults vm/test_owners rkt/test_sandbox cri/test_service cri/test_template_vms
cri/test_many_execs fuzz/test_fuzzers vm/test_run_options cri/test_user_namespaces system/test_hostile_images
rkt/test_jail vm/test_window_qemu""".split()
"""Other files of more than a quarter of a minute, the longest first: no process has one left when the others are done.
`scripts/test` says in the end which files of 20 s and more are missing here.
"""


def rank(name: str) -> int:
    """When a file's turn is, among others of its kind."""
    for names in (WAITING, LONGEST):
        if name in names:
            return names.index(name)
    return len(LONGEST)

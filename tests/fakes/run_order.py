# SPDX-License-Identifier: Apache-2.0
"""The order of files of tests when they run side by side. For tests/conftest.py and lanes.py.

Files are named without `tests/` and `.py`.
"""

WAITING = """cri/test_bounded cri/test_streaming_flood cri/test_hostile_links cri/test_network rkt/test_frozen
hostile/test_link cri/test_hostile_recovery hostile/test_jail system/test_connect unit/guest/test_proxy
unit/net/test_attach unit/cri/test_served_vms unit/cri/test_stats unit/net/test_status_gc unit/cri/test_agent_limits
unit/lab/test_agent unit/cri/test_activation""".split()
"""Files that leave most of a processor to others, since they wait for limits or for what does not answer; the longest
first.
"""
LONGEST = """system/test_packages vm/test_run vm/test_many vm/test_faults cri/test_network_data vm/test_run_image
vm/test_run_bad_input fuzz/test_fuzzers hostile/test_guest cri/test_many_networks cri/test_spoofing vm/test_soak
vm/test_systemd system/test_lab vm/test_limits cri/test_real_stats vm/test_owners cri/test_damaged_pods
cri/test_template_vms cri/test_streaming cri/test_log_files cri/test_full_disk cri/test_give_back
rkt/test_systemd_pods cri/test_pool_killed vm/test_run_options cri/test_many_execs rkt/test_pods system/test_killed
cri/test_user_namespaces system/test_hostile_images rkt/test_jail vm/test_window_qemu rkt/test_sandbox""".split()
"""Other files of more than half a minute, the longest first: no process has one left when the others are done."""


def rank(name: str) -> int:
    """When a file's turn is, among others of its kind."""
    for names in (WAITING, LONGEST):
        if name in names:
            return names.index(name)
    return len(LONGEST)

# SPDX-License-Identifier: Apache-2.0
"""What clearpod promises, and the tests in real virtual machines that hold it: those of `scripts/test` beside the quick
ones. All others run with `scripts/test --all`.

A test stands here when it is the best one of a front door, of a promise of README or docs, or of a fault that users
met; when it waits for what it asserts, and not for time to pass; and when it takes few seconds. Each runs with both
kernels, clearpod's own and Debian's, unless it is skipped for a reason that it says.
"""

from pathlib import Path

PROMISES = {
    "the CRI: a pod lives, is restarted around, streams, counts and is removed": """
        cri/test_acceptance::test_a_pod_lives_from_run_to_remove
        cri/test_acceptance::test_an_exit_without_a_daemon_has_its_code_times_and_complete_log
        cri/test_real_vm::test_the_guests_oom_killer_is_reported
        cri/test_real_vm::test_serve_is_killed_under_a_real_vm_and_no_output_is_lost_or_doubled
        cri/test_streaming::test_output_errors_and_exit_code_come_apart
        cri/test_streaming::test_a_terminal_has_its_size_and_takes_what_is_typed
        cri/test_streaming::test_a_command_dies_with_its_client_and_the_container_does_not
        cri/test_late_output_vms::test_a_command_has_the_output_of_what_it_leaves_behind
        cri/test_real_stats::test_limits_are_changed_in_the_guest_or_not_at_all
        cri/test_real_stats::test_a_pod_whose_guest_hangs_is_stopped_and_removed
        cri/test_images::test_files_of_a_removed_image_and_of_an_image_volume_are_still_read
    """,
    "a start that failed never runs later": """
        cri/test_frozen_vms::test_a_start_in_a_frozen_vm_is_given_up_and_never_runs
        cri/test_frozen_vms::test_the_next_daemon_ends_a_start_in_a_frozen_vm
    """,
    "rkt: run, app, enter, stop and gc": """
        rkt/test_pods::test_a_pod_ends_with_its_apps_and_its_handlers_have_run
        rkt/test_pods::test_an_app_that_fails_ends_the_pod_with_its_code
        rkt/test_pods::test_a_running_pod_is_entered_and_stopped
        rkt/test_pods::test_a_killed_launcher_or_vmm_ends_the_pod_within_a_second
        rkt/test_pods::test_a_terminal_of_the_callers
        rkt/test_sandbox::test_apps_come_and_go_and_the_pod_stays_until_it_is_stopped
    """,
    "the command: run and its options": """
        vm/test_run_options::test_many_options_in_one_pod
        vm/test_run_options::test_a_published_port_leads_to_the_pod
        vm/test_run_options::test_a_run_that_was_killed_leaves_nothing_that_the_next_does_not_remove
        cri/test_lifecycle_commands::*
    """,
    "volumes are as programs expect them": """
        vm/test_volumes::test_what_programs_do_with_open_files_of_a_volume
        vm/test_volumes::test_a_read_only_volume_is_so_on_the_host_and_an_emptydir_in_the_guest
        vm/test_volumes::test_what_the_host_does_later_is_seen
        cri/test_memory_volumes::test_it_is_a_tmpfs_of_its_size_that_containers_share
        cri/test_memory_volumes::test_it_is_resized_while_it_is_used
        cri/test_guest_volumes::test_an_empty_directory_is_on_the_pods_disk_and_outlives_its_vm
    """,
    "the network: pods, the host and other networks": """
        cri/test_network::test_two_pods_and_the_host_talk_to_each_other_and_nothing_stays
        cri/test_networks::test_a_guest_on_the_embedded_network_reaches_its_gateways
    """,
    "a pod is counted and bounded by its cgroup": """
        cri/test_pod_cgroup::test_a_vm_is_counted_and_bounded_in_its_pods_cgroup
        vm/test_limits::test_who_takes_more_than_the_limit_is_ended_alone
    """,
    "a guest and its VMM harm nobody but their own pod": """
        vm/test_confinement::test_the_vmm_has_an_unprivileged_user_on_the_host_and_only_its_own_descriptors
        vm/test_confinement::test_its_root_has_nothing_that_it_could_change_but_its_own
        hostile/test_evil_agent::test_it_harms_its_own_pod_alone
        vm/test_volumes::test_a_guest_that_sends_garbage_loses_its_server_and_ends
    """,
    "Debian's kernel runs pods without one of ours": """
        vm/test_stock::*
    """,
    "a pool, templates, copies, suspended pods and checkpoints": """
        cri/test_pool_vms::test_pods_that_have_waited_share_nothing_and_lack_nothing
        cri/test_template_vms::test_copies_share_no_identity_and_lack_nothing
        cri/test_fork_vms::test_a_copy_goes_on_as_another_pod
        cri/test_suspend_vms::test_its_containers_see_no_directory_of_the_host_and_it_is_resumed_on_demand
        cri/test_checkpoint_vms::test_other_pods_go_on_where_it_was
        cri/test_copied_rights_vms::test_a_copy_of_a_running_pod_has_no_rights_but_its_originals
    """,
    "a kernel of the image's own": """
        cri/test_own_kernels::test_a_kernel_runs_in_a_plain_pod_and_its_end_is_the_containers
        cri/test_own_kernels::test_the_power_button_is_pressed_and_the_grace_waited_for
        cri/test_own_kernels::test_an_image_that_lies_is_refused_and_the_pod_keeps_its_guest
    """,
}
"""What is promised -> tests, as `FILE::NAME` below tests/ without `.py`; `*`: all of the file."""
TESTS = frozenset(word for words in PROMISES.values() for word in words.split())


def holds(file: str, name: str) -> bool:
    """Whether the test of that file (as in PROMISES) and name, without its parameters, is one of them."""
    return bool({f"{file}::{name}", f"{file}::*"} & TESTS)


def files() -> list[str]:
    """Their files, as paths from the checkout."""
    return sorted({f"tests/{word.split('::')[0]}.py" for word in TESTS})


if __name__ == "__main__":
    root = Path(__file__).parent.parent
    assert all((root / file).exists() for file in files())
    print(*files())

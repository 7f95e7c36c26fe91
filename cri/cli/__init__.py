# SPDX-License-Identifier: Apache-2.0
"""The commands of `clearpod`, one module each, named as the command, with

    EXAMPLES                        ((command line, what it does), ...), at least one
    add_arguments(parser: Parser)   its options, in cri.cli.parser.Parser
    main(args) -> exit code         does it; raises PodError

A new command is its module and one line here. Only `cri.cli.parser` loads them. This file must stay free of imports,
so that one command does not pay for another's.
"""

COMMANDS = {
    "serve": "run the daemon that kubelet and crictl talk to",
    "run": "run one container in its own virtual machine, without a daemon",
    "ps": "list pods and their containers",
    "why": "explain what happened to a pod, also to one that did not start",
    "timeline": "draw the phases of a pod's start",
    "logs": "show the log of a container",
    "exec": "run a command in a running container",
    "stop": "stop pods: ask their programs to end, and end their virtual machines",
    "kill": "send a signal to the program of a container",
    "wait": "wait until containers have ended, and print their exit codes",
    "rm": "remove pods",
    "cp": "copy files between a container and the host",
    "login": "log in to a registry: check credentials and store them",
    "logout": "remove the stored credentials of a registry",
    "top": "show the resource usage of each pod, updated continuously",
    "stats": "show processor, memory and disk of pods and their containers",
    "events": "show events of pods and containers as they happen",
    "console": "show the console of a pod's guest",
    "debug": "open a shell in a pod's guest, if the policy allows it",
    "suspend": "suspend a pod: save its virtual machine to the disk and end it",
    "resume": "resume a suspended pod",
    "fork": "make copies of a running pod, with its memory and disk",
    "snapshot": "make, list and remove named snapshots of running pods, with which other pods begin",
    "inspect": "show everything about a pod or a container, as JSON",
    "init": "write a configuration, check this machine and start the daemon",
    "check": "check whether this machine can run pods, and what to fix",
    "jail": "show the confinement in force of a pod's hypervisor",
    "ksm": "show what KSM (merging of identical pages of guests) saves and costs",
    "images": "list, pull, remove and verify images of containers; build the guest",
    "completion": "print a completion script for bash, zsh or fish",
}
"""Name of the command and its one line in `clearpod --help`."""

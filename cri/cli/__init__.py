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
    "why": "tell what happened to a pod, also to one that did not start",
    "timeline": "draw the phases of a pod's start",
    "logs": "show what a container wrote",
    "exec": "run one more program in a container",
    "top": "show what each pod takes, again and again",
    "stats": "show processor, memory and disk of pods and their containers",
    "events": "show what happens to pods and containers, as it happens",
    "console": "show what a pod's guest wrote to its console",
    "debug": "open a shell in a pod's guest, where the policy allows it",
    "suspend": "save a pod's virtual machine to the disk and end it",
    "resume": "let a suspended pod go on",
    "fork": "make copies of a running pod, with its memory and disk",
    "template": "make, list and remove templates of running pods, of which others begin as copies",
    "inspect": "show all that is known of a pod or a container, as JSON",
    "init": "write a configuration, check this machine and start the daemon",
    "check": "say whether this machine can run pods, and what to fix",
    "jail": "show what a pod's hypervisor may do on this machine, as it is in force",
    "ksm": "show what the host saves by merging equal pages of guests, and what that costs",
    "images": "list, bring, remove and verify images of containers; build the guest",
    "completion": "print what makes bash, zsh or fish complete this command's words",
}
"""Name of the command and its one line in `clearpod --help`."""

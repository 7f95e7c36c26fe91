# SPDX-License-Identifier: Apache-2.0
"""The commands of `clearpod`: `run` has those that run programs, `check` those about this host, `view` those that show
pods; the others, and what all use, are here.

A command's module has it in its `COMMANDS` (`cri.cli.parser.Command`). A new command is that and one line here. Only
`cri.cli.parser` loads them. This file must stay free of imports, so that one command does not pay for another's.
"""

COMMANDS = {
    "serve": ("serve", "run the daemon that kubelet and crictl talk to"),
    "run": ("run.command", "run one container in its own virtual machine, without a daemon"),
    "ps": ("view.ps", "list pods and their containers"),
    "why": ("view.why", "explain what happened to a pod, also to one that did not start"),
    "timeline": ("view.timeline", "draw the phases of a pod's start"),
    "logs": ("view.logs", "show the log of a container"),
    "exec": ("run.exec", "run a command in a running container"),
    "stop": ("ending", "stop pods: ask their programs to end, and end their virtual machines"),
    "kill": ("ending", "send a signal to the program of a container"),
    "wait": ("ending", "wait until containers have ended, and print their exit codes"),
    "rm": ("ending", "remove pods"),
    "cp": ("run.cp", "copy files between a container and the host"),
    "login": ("login", "log in to a registry: check credentials and store them"),
    "logout": ("login", "remove the stored credentials of a registry"),
    "top": ("view.usage", "show the resource usage of each pod, updated continuously"),
    "stats": ("view.usage", "show processor, memory and disk of pods and their containers"),
    "events": ("view.events", "show events of pods and containers as they happen"),
    "console": ("view.console", "show the console of a pod's guest"),
    "debug": ("run.exec", "open a shell in a pod's guest, if the policy allows it"),
    "suspend": ("saving", "suspend a pod: save its virtual machine to the disk and end it"),
    "resume": ("saving", "resume a suspended pod"),
    "fork": ("saving", "make copies of a running pod, with its memory and disk"),
    "snapshot": ("saving", "make, list and remove named snapshots of running pods, with which other pods begin"),
    "inspect": ("view.ps", "show everything about a pod or a container, as JSON"),
    "init": ("check.init", "write a configuration, check this machine and start the daemon"),
    "check": ("check.requirements", "check whether this machine can run pods, and what to fix"),
    "jail": ("view.jail", "show the confinement in force of a pod's hypervisor"),
    "ksm": ("view.ksm", "show what KSM (merging of identical pages of guests) saves and costs"),
    "images": ("images", "list, pull, remove and verify images of containers; build the guest"),
    "completion": ("completion", "print a completion script for bash, zsh or fish"),
}
"""Name of the command -> its module, and its one line in `clearpod --help`."""

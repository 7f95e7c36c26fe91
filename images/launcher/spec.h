/* SPDX-License-Identifier: Apache-2.0 */
/* The launch spec: how the VMM is to be started, as stage1/entry/run.py has written it down. Pure. */
#ifndef CLEARPOD_SPEC_H
#define CLEARPOD_SPEC_H

#include <stdbool.h>
#include <stddef.h>

/* How the launcher has to start the VMM, as a list of items, each a letter and a value: j is the jailer (images/jailer), which
 * starts the VMM from the launch description, written elsewhere; s the unix socket that the VMM is to listen on; i: the pod is
 * attached to our input; c is the file for the output of its kernel, l the directory with the links to logs (log.h). t: the VMM
 * reads input from a terminal only, and takes the byte 1 for itself unless it comes twice (kvmtool). k: there is no agent, but
 * a kernel of the image: the VMM's output is the app's, and its end the app's; the value is how the kernel reports its code (p:
 * not at all, r: not at all, and a reset is a regular end too, d: by the debug device, s, h: by that as Solo5 and Hermit do),
 * and the app's status file. v: the VMM begins as a copy of the template in this directory, by a launch description of its own; if
 * no copy comes to life, it boots. m is what the monitor of a copy, or of k, gets. w is the directory in which the guest writes the codes of its apps, r the one in which rkt reads them. */
struct launch_spec {
    const char *jailer, *listener, *console, *logs, *status, *template, *monitor, *told, *codes;
    bool interactive, terminal;
    char code; /* of k */
};

enum { RESET_CODE = 133, PANIC_CODE = 134 }; /* as stage1/pod/own_kernel.py has them */

/* The exit code of a kernel of the image, whose VMM ended by itself with this code after this last output. Pure. */
int spec_code(const struct launch_spec *spec, int vmm, const char *output);

/* Takes `bytes` (ends with 0) apart in place. False: it is invalid. Pure. */
bool spec_parse(char *bytes, size_t size, struct launch_spec *spec);

#endif

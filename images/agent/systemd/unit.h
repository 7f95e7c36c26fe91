/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The main process of a container's unit: runs crun, is the parent of what crun leaves running, passes signals on, reports
 * the end to the agent, and ends in the same way. Requests of the agent's helper come through a socket.
 */
#ifndef CLEARPOD_UNIT_H
#define CLEARPOD_UNIT_H

/* The programs of app@.service: its main process, and what runs when it is over. */
void unit_run(const char *id) __attribute__((noreturn));
void unit_over(const char *id) __attribute__((noreturn));

#endif

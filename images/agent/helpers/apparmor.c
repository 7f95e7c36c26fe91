/* SPDX-License-Identifier: Apache-2.0 */
/* See apparmor.h. */
#include "helpers/apparmor.h"

#include "base/scope.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#define SECURITY "/sys/kernel/security"

int apparmor_load(const char *id, struct fault *why)
{
    char path[256];
    struct stat file;
    snprintf(path, sizeof path, "/run/clearpod/volumes/containers/%s/apparmor", id);
    scoped_fd int policy = open(path, O_RDONLY | O_CLOEXEC);
    /* Mounted when first needed; EBUSY: it was. */
    mount("securityfs", SECURITY, "securityfs", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL);
    scoped_fd int kernel = open(SECURITY "/apparmor/.replace", O_WRONLY | O_CLOEXEC);
    if (policy < 0 || kernel < 0 || fstat(policy, &file) < 0)
        return fault_errno(why, "open the AppArmor policy or the kernel's interface for it");
    /* All of it by one write, as the kernel wants it; the helper ends soon, and its mapping with it. */
    void *bytes = mmap(NULL, (size_t)file.st_size, PROT_READ, MAP_PRIVATE, policy, 0);
    if (bytes == MAP_FAILED || write(kernel, bytes, (size_t)file.st_size) != file.st_size)
        return fault_set(why, FAULT_INVALID, "the guest's kernel does not take the AppArmor policy: %s",
                         strerror(errno));
    return 0;
}

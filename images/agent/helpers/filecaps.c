/* SPDX-License-Identifier: Apache-2.0 */
/* See filecaps.h. */
#include "helpers/filecaps.h"

#include "base/files.h"
#include "base/scope.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <stdio.h>
#include <string.h>
#include <sys/xattr.h>

static int nibble(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* Returns the number of bytes, 0 when the text is no capability. */
static size_t parse_hex(const char *text, size_t length, unsigned char to[32])
{
    if (length % 2 || length < 2 || length > 64)
        return 0;
    for (size_t i = 0; i < length; i += 2) {
        int high = nibble(text[i]), low = nibble(text[i + 1]);
        if (high < 0 || low < 0)
            return 0;
        to[i / 2] = (unsigned char)(high << 4 | low);
    }
    return length / 2;
}

static int apply_line(int root, char *line, struct fault *why)
{
    unsigned char value[32];
    char self[40];
    size_t hex = strcspn(line, " "), size = parse_hex(line, hex, value);
    const char *path = line + hex + (line[hex] == ' ');
    line[strcspn(line, "\n")] = 0;
    if (!size || !*path)
        return fault_set(why, FAULT_INVALID, "'%.80s' is no line of a filecaps file", line);
    scoped_fd int file = open_below(root, path, O_RDONLY | O_NONBLOCK | O_NOFOLLOW, RESOLVE_IN_ROOT);
    if (file < 0)
        return fault_errno(why, "open %s for its capabilities", path);
    snprintf(self, sizeof self, "/proc/self/fd/%d", file);
    if (setxattr(self, "security.capability", value, size, 0) < 0)
        return fault_errno(why, "set the capabilities of %s", path);
    return 0;
}

int filecaps_apply(const char *root_path, const char *list, struct fault *why)
{
    char line[4200];
    FILE *file = fopen(list, "re");
    if (!file)
        return errno == ENOENT ? 0 : fault_errno(why, "open %s", list);
    scoped_fd int root = open(root_path, O_PATH | O_DIRECTORY | O_CLOEXEC);
    int result = root < 0 ? fault_errno(why, "open %s", root_path) : 0;
    while (result == 0 && fgets(line, sizeof line, file))
        result = apply_line(root, line, why);
    fclose(file);
    return result;
}

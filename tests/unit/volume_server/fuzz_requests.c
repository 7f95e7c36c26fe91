/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Messages of a hostile guest, one after the other. An input is a list of them: the volume (a byte, its lower half), which node and handle
 * (a byte), the operation (a byte), the length of the arguments (two bytes), the arguments. Numbers of nodes and handles that the server
 * gave are put in, so that more than the first check is reached. The files are in a directory of their own, where no path leads out of.
 */
#include "call.h"
#include "handles.h"
#include "nodes.h"
#include "requests.h"
#include "volumes.h"

#include <fcntl.h>
#include <ftw.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

enum { KNOWN = 8, HEADER = 5, VOLUMES = 3 };

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerInitialize(int *argc, char ***argv);

static char top[] = "/tmp/fuzz-volumes-XXXXXX";
static char body[BODY_MAX], reply[REPLY_MAX];
static uint64_t nodes[KNOWN], files[KNOWN];
static unsigned node_count, file_count;

static void attach(uint32_t volume)
{
    volumes_detach(volume);
    volumes_attach(volume, volume == 2 ? "file" : "directory");
}

static int remove_one(const char *path, const struct stat *about, int type, struct FTW *place)
{
    (void)about;
    (void)type;
    (void)place;
    return remove(path);
}

static void remove_all(void)
{
    nftw(top, remove_one, 16, FTW_DEPTH | FTW_PHYS);
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    char file[64];
    struct rlimit size = {1 << 20, 1 << 20};
    (void)argc;
    (void)argv;
    int root = mkdtemp(top) ? open(top, O_PATH | O_DIRECTORY | O_CLOEXEC) : -1;
    if (root < 0 || mkdirat(root, "directory", 0777) < 0 || setrlimit(RLIMIT_FSIZE, &size) < 0)
        abort();
    atexit(remove_all);
    snprintf(file, sizeof file, "%s/file", top);
    close(open(file, O_CREAT | O_WRONLY | O_CLOEXEC, 0666));
    volumes_begin(root);
    nodes_begin(64);
    handles_begin(16);
    return 0;
}

/* What the answer tells of nodes and handles is what the next messages speak of. */
static void learn(uint32_t opcode, size_t reply_size)
{
    const char *answer = reply + 8 + sizeof(struct fuse_out_header);
    size_t length = reply_size - 8 - sizeof(struct fuse_out_header);
    if (opcode == FUSE_LOOKUP || opcode == FUSE_CREATE || opcode == FUSE_MKDIR || opcode == FUSE_MKNOD ||
        opcode == FUSE_SYMLINK)
        memcpy(&nodes[node_count++ % KNOWN], answer, length < 8 ? length : 8);
    if (opcode == FUSE_OPEN || opcode == FUSE_OPENDIR)
        memcpy(&files[file_count++ % KNOWN], answer, length < 8 ? length : 8);
    if (opcode == FUSE_CREATE && length >= sizeof(struct fuse_entry_out) + 8)
        memcpy(&files[file_count++ % KNOWN], answer + sizeof(struct fuse_entry_out), 8);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    signal(SIGXFSZ, SIG_IGN); /* which libFuzzer has changed */
    for (uint32_t volume = 1; volume < VOLUMES; volume++)
        attach(volume);
    node_count = file_count = 0;
    while (size >= HEADER) {
        const uint32_t volume = data[0] & 3, opcode = data[2];
        size_t length = (size_t)data[3] | (size_t)(data[4] & 15) << 8, reply_size = 0;
        struct fuse_in_header in = {.opcode = opcode, .nodeid = FUSE_ROOT_ID, .uid = data[0] >> 4, .gid = data[1] >> 4};
        length = length < size - HEADER ? length : size - HEADER;
        if (data[1] & 7)
            in.nodeid = nodes[data[1] & 7];
        in.len = (uint32_t)(sizeof in + length);
        memcpy(body, &in, sizeof in);
        memcpy(body + sizeof in, data + HEADER, length);
        if (length >= 8 && data[0] & 4) /* most operations on handles begin with its number */
            memcpy(body + sizeof in, &files[data[1] & 7], 8);
        bool is_well = volume == 0 ? requests_handle(0, (const char *)data + HEADER, length, reply, &reply_size)
                                   : requests_handle(volume, body, sizeof in + length, reply, &reply_size);
        if (is_well && volume && reply_size > 8 + sizeof(struct fuse_out_header))
            learn(opcode, reply_size);
        if (reply_size > REPLY_MAX)
            abort();
        data += HEADER + length;
        size -= HEADER + length;
    }
    return 0;
}

/* SPDX-License-Identifier: Apache-2.0 */
/* See requests.h, README.md. */
#include "requests.h"

#include "attributes.h"
#include "call.h"
#include "directories.h"
#include "files.h"
#include "names.h"
#include "nodes.h"
#include "stream.h"
#include "volumes.h"

#include <errno.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

enum {
    ATTACH = 1,
    DETACH = 2,
    ASK_TO_FORGET = 3,
    OLDEST_MINOR = 31,
    BACKGROUND = 64, /* requests that nobody waits for in the guest, such as readahead, at a time */
    PAGE = 4096
};

static int init(struct call *call);
static int forget(struct call *call);
static int forget_many(struct call *call);
static int nothing(struct call *call);

enum needs { NOTHING, NODE, DIRECTORY };

/* Operations that are not here get ENOSYS, after which the kernel does not ask again: access and locks are the guest's own. */
static const struct {
    int (*handle)(struct call *call);
    enum needs needs;
} operations[] = {
    [FUSE_LOOKUP] = {names_lookup, DIRECTORY},
    [FUSE_FORGET] = {forget, NOTHING},
    [FUSE_GETATTR] = {attributes_get, NODE},
    [FUSE_SETATTR] = {attributes_set, NODE},
    [FUSE_READLINK] = {names_readlink, NODE},
    [FUSE_SYMLINK] = {names_symlink, DIRECTORY},
    [FUSE_MKNOD] = {names_mknod, DIRECTORY},
    [FUSE_MKDIR] = {names_mkdir, DIRECTORY},
    [FUSE_UNLINK] = {names_unlink, DIRECTORY},
    [FUSE_RMDIR] = {names_rmdir, DIRECTORY},
    [FUSE_RENAME] = {names_rename, DIRECTORY},
    [FUSE_LINK] = {names_link, DIRECTORY},
    [FUSE_OPEN] = {files_open, NODE},
    [FUSE_READ] = {files_read, NOTHING},
    [FUSE_WRITE] = {files_write, NOTHING},
    [FUSE_STATFS] = {attributes_statfs, NODE},
    [FUSE_RELEASE] = {files_release, NOTHING},
    [FUSE_FSYNC] = {files_fsync, NOTHING},
    [FUSE_SETXATTR] = {attributes_setxattr, NODE},
    [FUSE_GETXATTR] = {attributes_getxattr, NODE},
    [FUSE_LISTXATTR] = {attributes_listxattr, NODE},
    [FUSE_REMOVEXATTR] = {attributes_removexattr, NODE},
    [FUSE_FLUSH] = {files_flush, NOTHING},
    [FUSE_INIT] = {init, NOTHING},
    [FUSE_OPENDIR] = {directories_open, DIRECTORY},
    [FUSE_READDIR] = {directories_read, NOTHING},
    [FUSE_RELEASEDIR] = {files_release, NOTHING},
    [FUSE_FSYNCDIR] = {files_fsync, NOTHING},
    [FUSE_CREATE] = {names_create, DIRECTORY},
    [FUSE_INTERRUPT] = {nothing, NOTHING}, /* nothing here waits for another request */
    [FUSE_DESTROY] = {nothing, NOTHING},
    [FUSE_BATCH_FORGET] = {forget_many, NOTHING},
    [FUSE_FALLOCATE] = {files_fallocate, NOTHING},
    [FUSE_READDIRPLUS] = {directories_read, NOTHING},
    [FUSE_RENAME2] = {names_rename2, DIRECTORY},
    [FUSE_LSEEK] = {files_lseek, NOTHING},
    [FUSE_COPY_FILE_RANGE] = {files_copy_file_range, NOTHING},
    [FUSE_TMPFILE] = {names_tmpfile, DIRECTORY},
};

/* A kernel before 7.36 says less of itself. */
static int init(struct call *call)
{
    const uint64_t wanted = FUSE_ASYNC_READ | FUSE_BIG_WRITES | FUSE_ATOMIC_O_TRUNC | FUSE_AUTO_INVAL_DATA |
                            FUSE_DO_READDIRPLUS | FUSE_READDIRPLUS_AUTO | FUSE_ASYNC_DIO | FUSE_PARALLEL_DIROPS |
                            FUSE_HANDLE_KILLPRIV_V2 | FUSE_MAX_PAGES | FUSE_CACHE_SYMLINKS | FUSE_SETXATTR_EXT |
                            FUSE_INIT_EXT | FUSE_DIRECT_IO_ALLOW_MMAP;
    struct fuse_init_in in = {0};
    size_t size = (size_t)(call->end - call->at);
    if (size < offsetof(struct fuse_init_in, flags2) || size > sizeof in)
        return REQUEST_MALFORMED;
    call_take(call, &in, size);
    struct fuse_init_out out = {.major = FUSE_KERNEL_VERSION, .minor = FUSE_KERNEL_MINOR_VERSION};
    if (in.major > FUSE_KERNEL_VERSION) /* it asks once more, by our version */
        return call_answer(call, &out, sizeof out);
    if (in.major < FUSE_KERNEL_VERSION || in.minor < OLDEST_MINOR)
        return -EPROTO;
    uint64_t offered = in.flags | (in.flags & FUSE_INIT_EXT ? (uint64_t)in.flags2 << 32 : 0), agreed = offered & wanted;
    volumes_agreed(call->volume)->has_long_setxattr = agreed & FUSE_SETXATTR_EXT;
    out.flags = (uint32_t)agreed;
    out.flags2 = (uint32_t)(agreed >> 32);
    out.max_readahead = in.max_readahead;
    out.max_background = BACKGROUND;
    out.congestion_threshold = BACKGROUND * 3 / 4;
    out.max_write = CONTENT_MAX;
    out.max_pages = CONTENT_MAX / PAGE;
    out.time_gran = 1;
    return call_answer(call, &out, sizeof out);
}

static int forget(struct call *call)
{
    struct fuse_forget_in in;
    if (!call_take(call, &in, sizeof in) || !call_is_empty(call))
        return REQUEST_MALFORMED;
    nodes_forget(call->volume, call->in.nodeid, in.nlookup);
    return REQUEST_WITHOUT_ANSWER;
}

static int forget_many(struct call *call)
{
    struct fuse_batch_forget_in in;
    struct fuse_forget_one one;
    if (!call_take(call, &in, sizeof in) || (size_t)(call->end - call->at) != in.count * sizeof one)
        return REQUEST_MALFORMED;
    while (call_take(call, &one, sizeof one))
        nodes_forget(call->volume, one.nodeid, one.nlookup);
    return REQUEST_WITHOUT_ANSWER;
}

static int nothing(struct call *call)
{
    (void)call;
    return REQUEST_WITHOUT_ANSWER;
}

static int with_node(struct call *call, int (*handle)(struct call *call), bool is_directory)
{
    struct node *node = nodes_hold(call->volume, call->in.nodeid);
    if (!node)
        return -ESTALE;
    call->node = nodes_fd(node);
    call->type = nodes_type(node);
    int result = is_directory && call->type != S_IFDIR ? -ENOTDIR : handle(call);
    nodes_give_back(node);
    return result;
}

static int perform(struct call *call)
{
    const uint32_t which = call->in.opcode;
    if (which >= sizeof operations / sizeof *operations || !operations[which].handle)
        return -ENOSYS;
    if (operations[which].needs == NOTHING)
        return operations[which].handle(call);
    return with_node(call, operations[which].handle, operations[which].needs == DIRECTORY);
}

static bool handle_of_volume(uint32_t volume, struct call *call, char *reply, size_t *reply_size)
{
    struct fuse_out_header out = {.unique = call->in.unique};
    const bool is_there = volumes_enter(volume);
    call->volume = volume;
    call->answer = reply + sizeof(struct stream_header) + sizeof out;
    bool is_quiet = call->in.opcode == FUSE_FORGET || call->in.opcode == FUSE_BATCH_FORGET;
    int error = is_there ? perform(call) : is_quiet ? REQUEST_WITHOUT_ANSWER : -ENODEV;
    if (is_there)
        volumes_leave(volume);
    if (error == REQUEST_MALFORMED)
        return false;
    *reply_size = 0;
    if (error == REQUEST_WITHOUT_ANSWER)
        return true;
    out.error = error;
    out.len = (uint32_t)(sizeof out + (error ? 0 : call->answer_size));
    memcpy(reply + sizeof(struct stream_header), &out, sizeof out);
    *reply_size = sizeof(struct stream_header) + out.len;
    return true;
}

/* On volume 0, to the guest. */
struct told {
    uint16_t operation, zero;
    uint32_t volume;
    int32_t error;
    uint32_t mode;
};

static void tell(const struct told *what, char *reply, size_t *reply_size)
{
    memcpy(reply + sizeof(struct stream_header), what, sizeof *what);
    *reply_size = sizeof(struct stream_header) + sizeof *what;
}

bool requests_are_to_ask(uint32_t volume, char *reply, size_t *reply_size)
{
    static atomic_long last;
    struct timespec now;
    const struct told what = {.operation = ASK_TO_FORGET, .volume = volume};
    if (volume == 0 || !nodes_are_many())
        return false;
    clock_gettime(CLOCK_MONOTONIC_COARSE, &now);
    const long tenths = now.tv_sec * 10 + now.tv_nsec / 100000000;
    if (atomic_exchange(&last, tenths) == tenths)
        return false;
    tell(&what, reply, reply_size);
    return true;
}

/* On volume 0: which other volumes there are. */
static bool handle_of_stream(const char *body, size_t size, char *reply, size_t *reply_size)
{
    struct {
        uint16_t operation, zero;
        uint32_t volume;
    } in;
    struct told out = {0};
    char path[PAGE];
    size_t length = size - sizeof in;
    if (size < sizeof in || length >= sizeof path || memchr(body + sizeof in, 0, length))
        return false;
    memcpy(&in, body, sizeof in);
    memcpy(path, body + sizeof in, length);
    path[length] = 0;
    if (in.zero || (in.operation != ATTACH && in.operation != DETACH) || (in.operation == DETACH && length))
        return false;
    int result = in.operation == ATTACH ? volumes_attach(in.volume, path) : volumes_detach(in.volume);
    out.operation = in.operation;
    out.volume = in.volume;
    out.error = result < 0 ? result : 0;
    out.mode = result > 0 ? (uint32_t)result : 0;
    tell(&out, reply, reply_size);
    return true;
}

bool requests_handle(uint32_t volume, const char *body, size_t size, char *reply, size_t *reply_size)
{
    struct call call;
    if (volume == 0)
        return handle_of_stream(body, size, reply, reply_size);
    return call_begin(&call, body, size) && handle_of_volume(volume, &call, reply, reply_size);
}

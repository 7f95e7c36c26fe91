/* SPDX-License-Identifier: Apache-2.0 */
/*
 * See names.h. The guest's kernel has decided who may (`default_permissions`); what is made belongs to who asked, as it would if the
 * directory were the guest's: the group is the directory's where that has the set-group-id bit.
 */
#include "names.h"

#include "entry.h"
#include "files.h"
#include "handles.h"
#include "nodes.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { PERMISSIONS = 0777, SPECIAL_BITS = 07000 };

/*
 * Whether `fd`, which was opened by its name, is what we have made since `begun`, and not what somebody on the host has put there. It
 * is still ours then. 0 or -errno.
 */
static int check_made(int fd, uint32_t type, const struct timespec *begun)
{
    struct about about;
    int error = about_read(fd, "", &about);
    if (error)
        return error;
    bool is_older = about.made.tv_sec && (about.made.tv_sec < begun->tv_sec ||
                                          (about.made.tv_sec == begun->tv_sec && about.made.tv_nsec < begun->tv_nsec));
    return (about.attr.mode & S_IFMT) == type && about.attr.uid == geteuid() && !is_older ? 0 : -ESTALE;
}

/* A new file is ours, and of our group or the directory's. 0 or -errno. */
static int give_to_caller(const struct call *call, int fd, uint32_t mode)
{
    struct stat parent;
    const uid_t ours = geteuid(), user = call->in.uid == ours ? (uid_t)-1 : call->in.uid;
    gid_t group = call->in.gid == getegid() ? (gid_t)-1 : call->in.gid;
    if (group != (gid_t)-1 && fstat(call->node, &parent) < 0)
        return -errno;
    if (group != (gid_t)-1 && parent.st_mode & S_ISGID)
        group = (gid_t)-1;
    if ((user != (uid_t)-1 || group != (gid_t)-1) && fchownat(fd, "", user, group, AT_EMPTY_PATH) < 0)
        return -errno;
    if (mode & SPECIAL_BITS && fchmodat(AT_FDCWD, entry_path(fd).path, mode & 07777, 0) < 0)
        return -errno;
    return 0;
}

/* Removes what was made as `name`, unless somebody on the host has put something else there. */
static void undo(const struct call *call, const char *name, int fd)
{
    struct about made, there;
    if (about_read(fd, "", &made) == 0 && about_read(call->node, name, &there) == 0 &&
        made.key.inode == there.key.inode && made.key.device == there.key.device)
        unlinkat(call->node, name, S_ISDIR(made.attr.mode) ? AT_REMOVEDIR : 0);
}

/* Opens what was made as `name`, gives it to who asked for it, and answers with it. */
static int answer_made(struct call *call, const char *name, uint32_t type, const struct timespec *begun)
{
    struct fuse_entry_out entry;
    int fd = openat(call->node, name, O_PATH | O_NOFOLLOW | O_CLOEXEC);
    int error = fd < 0 ? -errno : check_made(fd, type, begun);
    if (!error && (error = give_to_caller(call, fd, 0)))
        undo(call, name, fd);
    if (error && fd >= 0)
        close(fd);
    if (!error)
        error = entry_take(call->volume, fd, &entry);
    return error ? error : call_answer(call, &entry, sizeof entry);
}

static struct timespec now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_REALTIME_COARSE, &time); /* as file systems do */
    return time;
}

/* The last argument of a call that has nothing behind it: a name. 0, -EINVAL or REQUEST_MALFORMED. */
static int take_name(struct call *call, const char **name)
{
    *name = call_take_text(call);
    if (!*name)
        return REQUEST_MALFORMED;
    return call_is_name(*name) ? 0 : -EINVAL;
}

static int take_last_name(struct call *call, const char **name)
{
    int error = take_name(call, name);
    return call_is_empty(call) ? error : REQUEST_MALFORMED;
}

/*
 * Before it uses a name that it knows, the guest's kernel asks for it without a lock. When another thread renames it just then, the length
 * is that of one name and the text that of the other (Linux before 6.14, fuse_dentry_revalidate). After ESTALE it asks again, with the lock.
 */
int names_lookup(struct call *call)
{
    struct fuse_entry_out entry;
    const char *name;
    int error = take_last_name(call, &name);
    if (error)
        return error == REQUEST_MALFORMED ? -ESTALE : error;
    error = entry_find(call->volume, call->node, name, &entry);
    if (error == -ENOENT) /* is believed as long as other names are */
        entry = (struct fuse_entry_out){.entry_valid = BELIEVED_NS / 1000000000,
                                        .entry_valid_nsec = BELIEVED_NS % 1000000000};
    return error && error != -ENOENT ? error : call_answer(call, &entry, sizeof entry);
}

/* A regular file: made and opened in one step. */
static int make_file(struct call *call, const char *name, uint32_t mode)
{
    struct fuse_entry_out entry;
    int made = openat(call->node, name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, mode & PERMISSIONS);
    if (made < 0)
        return -errno;
    int error = give_to_caller(call, made, mode), fd = error ? -1 : entry_open(made, O_PATH);
    if (fd < 0) {
        error = error ? error : fd;
        undo(call, name, made);
    }
    close(made);
    if (!error)
        error = entry_take(call->volume, fd, &entry);
    return error ? error : call_answer(call, &entry, sizeof entry);
}

int names_mknod(struct call *call)
{
    struct fuse_mknod_in in;
    const char *name;
    const struct timespec begun = now();
    if (!call_take(call, &in, sizeof in))
        return REQUEST_MALFORMED;
    int error = take_last_name(call, &name);
    if (error)
        return error;
    if (S_ISREG(in.mode))
        return make_file(call, name, in.mode);
    if (!S_ISFIFO(in.mode) && !S_ISSOCK(in.mode)) /* a device would be the host's */
        return S_ISCHR(in.mode) || S_ISBLK(in.mode) ? -EPERM : -EINVAL;
    if (mknodat(call->node, name, in.mode & (S_IFMT | PERMISSIONS), 0) < 0)
        return -errno;
    return answer_made(call, name, in.mode & S_IFMT, &begun);
}

int names_mkdir(struct call *call)
{
    struct fuse_mkdir_in in;
    const char *name;
    const struct timespec begun = now();
    if (!call_take(call, &in, sizeof in))
        return REQUEST_MALFORMED;
    int error = take_last_name(call, &name);
    if (error)
        return error;
    if (mkdirat(call->node, name, in.mode & (PERMISSIONS | S_ISVTX)) < 0)
        return -errno;
    return answer_made(call, name, S_IFDIR, &begun);
}

int names_symlink(struct call *call)
{
    const struct timespec begun = now();
    const char *name, *target;
    int error = take_name(call, &name);
    if (error)
        return error;
    if (!(target = call_take_text(call)) || !call_is_empty(call))
        return REQUEST_MALFORMED;
    if (symlinkat(target, call->node, name) < 0)
        return -errno;
    return answer_made(call, name, S_IFLNK, &begun);
}

int names_link(struct call *call)
{
    struct fuse_link_in in;
    struct fuse_entry_out entry;
    const char *name;
    if (!call_take(call, &in, sizeof in))
        return REQUEST_MALFORMED;
    int error = take_last_name(call, &name);
    if (error)
        return error;
    struct node *old = nodes_hold(call->volume, in.oldnodeid);
    if (!old)
        return -ESTALE;
    /* Of the descriptor's file itself: a symbolic link is not followed once more. */
    const struct by_descriptor by = entry_path(nodes_fd(old));
    error = linkat(AT_FDCWD, by.path, call->node, name, AT_SYMLINK_FOLLOW) < 0 ? -errno : 0;
    nodes_give_back(old);
    if (!error)
        error = entry_find(call->volume, call->node, name, &entry);
    return error ? error : call_answer(call, &entry, sizeof entry);
}

static int remove_name(struct call *call, int flags)
{
    const char *name;
    int error = take_last_name(call, &name);
    if (!error && unlinkat(call->node, name, flags) < 0)
        error = -errno;
    return error;
}

int names_unlink(struct call *call)
{
    return remove_name(call, 0);
}

int names_rmdir(struct call *call)
{
    return remove_name(call, AT_REMOVEDIR);
}

static int rename_to(struct call *call, uint64_t directory, uint32_t flags)
{
    const char *old, *new;
    int error = take_name(call, &old), last = take_last_name(call, &new);
    if (last == REQUEST_MALFORMED || error == REQUEST_MALFORMED)
        return REQUEST_MALFORMED;
    if (error || last || flags & ~(uint32_t)(RENAME_NOREPLACE | RENAME_EXCHANGE))
        return -EINVAL;
    struct node *into = nodes_hold(call->volume, directory);
    if (!into)
        return -ESTALE;
    error = renameat2(call->node, old, nodes_fd(into), new, flags) < 0 ? -errno : 0;
    nodes_give_back(into);
    return error;
}

int names_rename(struct call *call)
{
    struct fuse_rename_in in;
    return call_take(call, &in, sizeof in) ? rename_to(call, in.newdir, 0) : REQUEST_MALFORMED;
}

int names_rename2(struct call *call)
{
    struct fuse_rename2_in in;
    return call_take(call, &in, sizeof in) ? rename_to(call, in.newdir, in.flags) : REQUEST_MALFORMED;
}

/* Gives the new file to who asked, and answers with it and a handle. Takes `fd`. `name` is empty for one without a name. */
static int answer_opened(struct call *call, const char *name, int fd, const struct fuse_create_in *in)
{
    struct fuse_entry_out entry;
    struct fuse_open_out open = {.open_flags = files_ways(fd)};
    int error = give_to_caller(call, fd, in->mode), node = error ? -1 : entry_open(fd, O_PATH);
    if (node >= 0)
        error = entry_take(call->volume, node, &entry);
    else if (!error)
        error = node;
    if (error && *name)
        undo(call, name, fd);
    if (error) {
        close(fd);
        return error;
    }
    open.fh = handles_add(call->volume, fd, false);
    if (!open.fh) {
        nodes_forget(call->volume, entry.nodeid, 1);
        return -ENFILE;
    }
    call_answer(call, &entry, sizeof entry);
    return call_answer(call, &open, sizeof open);
}

/*
 * Only a new file is made: what is there meanwhile was never checked by the guest's kernel. With ESTALE it looks again, and opens that
 * if it may.
 */
int names_create(struct call *call)
{
    struct fuse_create_in in;
    const char *name;
    if (!call_take(call, &in, sizeof in))
        return REQUEST_MALFORMED;
    int error = take_last_name(call, &name);
    if (error)
        return error;
    const int flags = (int)files_flags(in.flags) | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC;
    int fd = openat(call->node, name, flags, in.mode & PERMISSIONS);
    if (fd < 0)
        return errno == EEXIST && !(in.flags & O_EXCL) ? -ESTALE : -errno;
    return answer_opened(call, name, fd, &in);
}

int names_tmpfile(struct call *call)
{
    struct fuse_create_in in;
    if (!call_take(call, &in, sizeof in) || !call_take_text(call) || !call_is_empty(call))
        return REQUEST_MALFORMED;
    uint32_t exclusive = in.flags & O_EXCL;
    int fd = openat(call->node, ".", (int)(files_flags(in.flags) | O_TMPFILE | O_CLOEXEC | exclusive),
                    in.mode & PERMISSIONS);
    return fd < 0 ? -errno : answer_opened(call, "", fd, &in);
}

int names_readlink(struct call *call)
{
    if (!call_is_empty(call))
        return REQUEST_MALFORMED;
    ssize_t size = readlinkat(call->node, "", call->answer, PATH_MAX);
    if (size < 0)
        return -errno;
    call->answer_size = (size_t)size;
    return 0;
}

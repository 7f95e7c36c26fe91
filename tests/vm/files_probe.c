/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Does to the files of its working directory what programs do (with the word "maps" it must be able to map them), and so makes the host's 9p server use the whole of its list of
 * system calls. Prints "all done", or which call failed how; what 9p has not is allowed to fail with the errors that say so.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <sys/vfs.h>
#include <sys/xattr.h>
#include <unistd.h>

enum { PAGE = 4096, MANY = 300 };
static bool with_maps;

static void need(bool works, const char *what)
{
    if (works)
        return;
    printf("%s: %s\n", what, strerror(errno));
    exit(1);
}

#define NEED(call) need((call) >= 0, #call)
/* Either it works, or the file system has not got it. */
#define TRY(call) \
    need((call) >= 0 || errno == EOPNOTSUPP || errno == EINVAL || errno == ENOSYS || errno == EXDEV, #call)
#define REFUSED(call) \
    need((call) < 0 && (errno == EPERM || errno == EACCES || errno == EOPNOTSUPP), #call " is refused")

static void write_and_read(void)
{
    char text[8] = "", *page;
    struct iovec parts[] = {{"ab", 2}, {"cd", 2}}, into[] = {{text, 4}};
    int fd = open("file", O_RDWR | O_CREAT | O_EXCL, 0640);
    NEED(fd);
    NEED(writev(fd, parts, 2));
    NEED(pwrite(fd, "x", 1, 100000));
    NEED(preadv(fd, into, 1, 0));
    need(!strcmp(text, "abcd"), "what was written is read");
    NEED(ftruncate(fd, 3 * PAGE));
    TRY(fallocate(fd, 0, 0, PAGE));
    TRY(fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, PAGE));
    NEED(lseek(fd, 0, SEEK_END));
    TRY(lseek(fd, 0, SEEK_HOLE));
    NEED(fsync(fd));
    NEED(fdatasync(fd));
    page = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    need(page != MAP_FAILED || !with_maps, "a shared map");
    if (page != MAP_FAILED) {
        memcpy(page, "mapped", 6);
        NEED(pread(fd, text, 6, 0));
        need(!memcmp(text, "mapped", 6), "what was mapped is read");
        NEED(pwrite(fd, "written", 7, 0));
        need(!memcmp(page, "written", 7), "what was written is mapped");
        NEED(msync(page, PAGE, MS_SYNC));
        NEED(munmap(page, PAGE));
    }
    page = mmap(NULL, PAGE, PROT_READ, MAP_PRIVATE, fd, 0);
    need(page != MAP_FAILED && page[4] != 1, "mmap");
    NEED(syncfs(fd));
    NEED(close(fd));
    NEED(truncate("file", 7));
    fd = open("file", O_WRONLY | O_APPEND);
    NEED(write(fd, "end", 3));
    NEED(close(fd));
    NEED(close(open("file", O_WRONLY | O_TRUNC)));
}

static void copy(void)
{
    int from = open("/proc/self/exe", O_RDONLY), to = open("copy", O_RDWR | O_CREAT, 0755),
        on = open("copied", O_RDWR | O_CREAT, 0600);
    NEED(from);
    NEED(sendfile(to, from, NULL, 1 << 16));
    off_t start = 0;
    TRY(copy_file_range(to, &start, on, NULL, PAGE, 0));
    NEED(close(from) | close(to) | close(on));
    TRY(open("direct", O_RDWR | O_CREAT | O_DIRECT, 0600));
    TRY(open(".", O_TMPFILE | O_RDWR, 0600));
}

static void locks(void)
{
    int fd = open("file", O_RDWR);
    struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_len = 10};
    NEED(flock(fd, LOCK_EX));
    NEED(flock(fd, LOCK_UN));
    NEED(fcntl(fd, F_SETLK, &lock));
    NEED(fcntl(fd, F_GETLK, &lock));
    lock.l_pid = 0;
    TRY(fcntl(fd, F_OFD_SETLK, &lock));
    NEED(close(fd));
}

static void owners_and_times(void)
{
    struct stat about;
    struct statx more;
    struct statfs system;
    struct statvfs values;
    int fd = open("file", O_RDWR);
    struct timespec times[] = {{.tv_nsec = UTIME_OMIT}, {.tv_sec = 1000000000}};
    NEED(fchmod(fd, 0600));
    NEED(chmod("file", 06755));
    NEED(chown("file", 12, 34));
    NEED(fchown(fd, 0, 0));
    NEED(futimens(fd, times));
    NEED(utimensat(AT_FDCWD, "file", NULL, 0));
    NEED(fstat(fd, &about));
    NEED(stat("file", &about));
    NEED(statx(AT_FDCWD, "file", 0, STATX_ALL, &more));
    NEED(access("file", R_OK | W_OK));
    NEED(statfs(".", &system));
    NEED(fstatvfs(fd, &values));
    NEED(close(fd));
}

static void attributes(void)
{
    char value[64];
    TRY(setxattr("file", "user.one", "1", 1, 0));
    TRY(setxattr("file", "user.two", "22", 2, XATTR_CREATE));
    TRY(listxattr("file", value, sizeof value));
    if (getxattr("file", "user.two", value, sizeof value) < 0)
        need(errno == EOPNOTSUPP || errno == ENODATA, "getxattr");
    else
        NEED(removexattr("file", "user.two"));
    (void)lsetxattr("link", "trusted.one", "1", 1, 0);
    (void)lgetxattr("link", "security.selinux", value, sizeof value);
    (void)llistxattr("link", value, sizeof value);
}

static void names(void)
{
    char target[64];
    NEED(link("file", "hard"));
    NEED(symlink("file", "link"));
    NEED(readlink("link", target, sizeof target));
    NEED(lchown("link", 5, 6));
    NEED(mkdir("a", 02770));
    NEED(rename("hard", "a/hard"));
    NEED(renameat(AT_FDCWD, "a/hard", AT_FDCWD, "hard"));
    TRY(renameat2(AT_FDCWD, "hard", AT_FDCWD, "harder", RENAME_NOREPLACE));
    NEED(mkdir("b", 0700));
    NEED(rename("a", "b/a"));
    need(rmdir("b") < 0 && (errno == ENOTEMPTY || errno == EEXIST), "rmdir of what is not empty");
    NEED(rmdir("b/a"));
    NEED(rmdir("b"));
    int fd = open("gone", O_RDWR | O_CREAT, 0600);
    NEED(unlink("gone"));
    struct stat about;
    /* The server goes by names, kvmtool's more than QEMU's. */
    need(fstat(fd, &about) == 0 || errno == ENOENT, "fstat of what has no name");
    need(write(fd, "still", 5) == 5 || errno == ENOENT, "write to what has no name");
    need(ftruncate(fd, 2) == 0 || errno == ENOENT, "ftruncate of what has no name");
    (void)close(fd);
}

static void nodes(void)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX, .sun_path = "socket"};
    struct stat about;
    NEED(mkfifo("pipe", 0622));
    NEED(close(open("pipe", O_RDWR | O_NONBLOCK)));
    NEED(mknod("plain", S_IFREG | 0600, 0));
    NEED(bind(socket(AF_UNIX, SOCK_STREAM, 0), (struct sockaddr *)&address, sizeof address));
    need(stat("pipe", &about) == 0 && S_ISFIFO(about.st_mode), "a pipe is one");
    need(stat("socket", &about) == 0 && S_ISSOCK(about.st_mode), "a socket is one");
    REFUSED(mknod("device", S_IFCHR | 0600, makedev(1, 3)));
    REFUSED(mknod("disk", S_IFBLK | 0600, makedev(7, 0)));
}

static void directories(void)
{
    char name[32];
    int seen = 0;
    NEED(mkdir("many", 0755));
    for (int i = 0; i < MANY; i++) {
        snprintf(name, sizeof name, "many/file-%d", i);
        NEED(close(open(name, O_WRONLY | O_CREAT, 0600)));
    }
    DIR *directory = opendir("many");
    need(directory, "opendir");
    long half = 0;
    for (struct dirent *entry; (entry = readdir(directory));)
        if (++seen == MANY / 2)
            half = telldir(directory);
    need(seen == MANY + 2, "readdir shows each once");
    seekdir(directory, half);
    need(readdir(directory), "readdir after seekdir");
    rewinddir(directory);
    need(readdir(directory), "readdir after rewinddir");
    NEED(closedir(directory));
    for (int i = 0; i < MANY; i++) {
        snprintf(name, sizeof name, "many/file-%d", i);
        NEED(unlinkat(AT_FDCWD, name, 0));
    }
    NEED(unlinkat(AT_FDCWD, "many", AT_REMOVEDIR));
}

int main(int argc, char **argv)
{
    with_maps = argc > 1 && !strcmp(argv[1], "maps");
    umask(0);
    write_and_read();
    copy();
    locks();
    owners_and_times();
    names();
    attributes();
    nodes();
    directories();
    sync();
    puts("all done");
    return 0;
}

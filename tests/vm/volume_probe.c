/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What programs do with open files on a volume: one line for each case, `NAME ok`, or what was wrong. The working directory is
 * on the volume. With the argument `hold-lock`: takes a lock on the file `lock` and waits for its input to end.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

static void tell(const char *name, int is_right)
{
    printf("%s %s\n", name, is_right ? "ok" : errno ? strerror(errno) : "wrong");
    errno = 0;
}

static int make(const char *name, const char *text, mode_t mode)
{
    int fd = open(name, O_CREAT | O_RDWR | O_TRUNC, mode);
    if (write(fd, text, strlen(text)) < 0)
        perror(name);
    return fd;
}

static int has(const char *name, const char *text, mode_t mode)
{
    char now[64] = "";
    struct stat st;
    int fd = open(name, O_RDONLY);
    if (fd < 0 || read(fd, now, sizeof now - 1) < 0 || fstat(fd, &st) < 0)
        return 0;
    close(fd);
    return !strcmp(now, text) && (st.st_mode & 0777) == mode;
}

/* An open file whose name another file has got since: by rename, or made anew. */
static void replaced(const char *name, int is_by_rename)
{
    struct timespec times[2] = {{5, 6}, {7, 8}};
    struct stat st;
    char title[64];
    int fd = make("old", "old", 0600);
    if (is_by_rename) {
        close(make("new", "the new one", 0644));
        rename("new", "old");
    } else {
        unlink("old");
        close(make("old", "the new one", 0644));
    }
    snprintf(title, sizeof title, "%s-fstat", name);
    tell(title, !fstat(fd, &st) && st.st_size == 3 && st.st_nlink == 0);
    snprintf(title, sizeof title, "%s-fchmod", name);
    tell(title, !fchmod(fd, 0700) && !fstat(fd, &st) && (st.st_mode & 0777) == 0700 && has("old", "the new one", 0644));
    snprintf(title, sizeof title, "%s-fchown", name);
    tell(title, !fchown(fd, 7, 8) && !fstat(fd, &st) && st.st_uid == 7 && !stat("old", &st) && st.st_uid != 7);
    snprintf(title, sizeof title, "%s-futimens", name);
    tell(title, !futimens(fd, times) && !fstat(fd, &st) && st.st_mtim.tv_nsec == 8 && !stat("old", &st) &&
                    st.st_mtim.tv_sec != 7);
    snprintf(title, sizeof title, "%s-ftruncate", name);
    tell(title, !ftruncate(fd, 1) && !fstat(fd, &st) && st.st_size == 1 && has("old", "the new one", 0644));
    close(fd);
}

static void unlinked(void)
{
    struct timespec times[2] = {{5, 6}, {7, 8}};
    struct stat st;
    char text[8] = "";
    int fd = make("gone", "abc", 0600);
    unlink("gone");
    tell("unlinked-fstat", !fstat(fd, &st) && st.st_nlink == 0);
    tell("unlinked-fchmod", !fchmod(fd, 0700));
    tell("unlinked-futimens", !futimens(fd, times) && !fstat(fd, &st) && st.st_mtim.tv_nsec == 8);
    tell("unlinked-ftruncate", !ftruncate(fd, 2));
    tell("unlinked-read", pread(fd, text, 8, 0) == 2);
    close(fd);
}

static void locks(void)
{
    struct flock whole = {.l_type = F_WRLCK};
    int one = make("lock", "", 0600), other = open("lock", O_RDWR);
    tell("flock", !flock(one, LOCK_EX));
    tell("flock-and-fcntl", !fcntl(one, F_SETLK, &whole));
    tell("flock-conflict", flock(other, LOCK_EX | LOCK_NB) < 0 && errno == EWOULDBLOCK);
    close(one);
    tell("flock-released", !flock(other, LOCK_EX | LOCK_NB));
    close(other);
}

static void maps(void)
{
    char text[4] = "";
    int fd = make("mapped", "", 0600), other = open("mapped", O_RDWR);
    tell("map-size", !ftruncate(fd, 8192));
    char *map = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    tell("map-shared", map != MAP_FAILED);
    if (map == MAP_FAILED)
        return;
    memcpy(map + 4096, "map", 3);
    tell("map-read", pread(other, text, 3, 4096) == 3 && !memcmp(text, "map", 3));
    tell("map-written", pwrite(other, "two", 3, 0) == 3 && !memcmp(map, "two", 3));
    tell("map-sync", !msync(map, 8192, MS_SYNC));
}

static void others(void)
{
    struct timespec times[2] = {{5, 6}, {7, 123456789}};
    struct stat st;
    close(make("times", "x", 0600));
    tell("utimensat", !utimensat(AT_FDCWD, "times", times, 0) && !stat("times", &st) &&
                          st.st_mtim.tv_nsec == 123456789 && st.st_atim.tv_nsec == 6);
    struct sockaddr_un address = {AF_UNIX, "socket"};
    int server = socket(AF_UNIX, SOCK_STREAM, 0), client = socket(AF_UNIX, SOCK_STREAM, 0);
    tell("socket", !bind(server, (void *)&address, sizeof address) && !listen(server, 1) &&
                       !connect(client, (void *)&address, sizeof address));
    unlink("socket");
    close(make("one", "1", 0600));
    close(make("two", "2", 0600));
    tell("exchange", !renameat2(AT_FDCWD, "one", AT_FDCWD, "two", RENAME_EXCHANGE) && has("one", "2", 0600));
    tell("no-replace", renameat2(AT_FDCWD, "one", AT_FDCWD, "two", RENAME_NOREPLACE) < 0 && errno == EEXIST);
    int fd = make("room", "", 0600);
    tell("allocate", !fallocate(fd, 0, 0, 65536) && !fstat(fd, &st) && st.st_size == 65536);
    tell("hole", !fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, 4096));
    fd = open("appended", O_CREAT | O_WRONLY | O_APPEND, 0600);
    int again = open("appended", O_WRONLY | O_APPEND);
    tell("append",
         write(fd, "a", 1) == 1 && write(again, "b", 1) == 1 && write(fd, "c", 1) == 1 && has("appended", "abc", 0600));
}

static int hold_lock(void)
{
    int fd = open("lock", O_CREAT | O_RDWR, 0600);
    char nothing;
    if (flock(fd, LOCK_EX | LOCK_NB) < 0)
        return 1;
    puts("held");
    fflush(stdout);
    return read(0, &nothing, 1) < 0;
}

int main(int argc, char **argv)
{
    umask(0);
    if (argc > 1 && !strcmp(argv[1], "hold-lock"))
        return hold_lock();
    replaced("renamed", 1);
    replaced("anew", 0);
    unlinked();
    locks();
    maps();
    others();
    return 0;
}

/* SPDX-License-Identifier: Apache-2.0 */
/* See region.h. */
#include "region.h"

#include "plan.h"

#include <pthread.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

enum { PIECES_MAX = 512 };

/* A file in some region. `backed` is what of its `bytes` the file still has. */
struct piece {
    unsigned char *at;
    uint64_t bytes, backed;
    int fd;
};

static struct piece pieces[PIECES_MAX];
static int piece_count;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

static int put_zeros(unsigned char *at, uint64_t bytes)
{
    const int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED;
    return mmap(at, bytes, PROT_READ, flags, -1, 0) == MAP_FAILED ? -1 : 0;
}

int region_reserve(struct region *region, uint64_t bytes, struct fault *why)
{
    /* PROT_READ and not PROT_NONE: the VMM ends when the guest reads what is not there. */
    const uint64_t more = bytes + SLOT_ALIGNMENT;
    unsigned char *all = mmap(NULL, more, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (all == MAP_FAILED)
        return fault_set(why, "no %llu bytes of address space: %s", (unsigned long long)more, strerror(errno));
    const uint64_t skip = -(uintptr_t)all % SLOT_ALIGNMENT;
    if (skip)
        munmap(all, skip);
    if (skip < SLOT_ALIGNMENT)
        munmap(all + skip + bytes, SLOT_ALIGNMENT - skip);
    *region = (struct region){all + skip, bytes};
    return 0;
}

static int check_range(const struct region *region, uint64_t offset, uint64_t bytes, struct fault *why)
{
    if (offset % PAGE_BYTES || bytes % PAGE_BYTES || bytes == 0)
        return fault_set(why, "%llu bytes at %llu are not whole pages", (unsigned long long)bytes,
                         (unsigned long long)offset);
    if (bytes > region->bytes || offset > region->bytes - bytes)
        return fault_set(why, "%llu bytes at %llu are outside of the %llu that there are", (unsigned long long)bytes,
                         (unsigned long long)offset, (unsigned long long)region->bytes);
    return 0;
}

static int check_file(int fd, uint64_t bytes, struct fault *why)
{
    struct stat st;
    if (fstat(fd, &st) < 0)
        return fault_set(why, "the image can't be examined: %s", strerror(errno));
    if (!S_ISREG(st.st_mode))
        return fault_set(why, "the image is not a regular file");
    if (st.st_size % PAGE_BYTES)
        return fault_set(why, "the image has %lld bytes, which are not whole pages", (long long)st.st_size);
    if ((uint64_t)st.st_size != bytes)
        return fault_set(why, "the image has %lld bytes where %llu were promised", (long long)st.st_size,
                         (unsigned long long)bytes);
    return 0;
}

static bool is_taken(const unsigned char *at, uint64_t bytes)
{
    for (int i = 0; i < piece_count; i++)
        if (pieces[i].at < at + bytes && at < pieces[i].at + pieces[i].bytes)
            return true;
    return false;
}

static int add_piece(unsigned char *at, uint64_t bytes, int fd, struct fault *why)
{
    if (is_taken(at, bytes))
        return fault_set(why, "another image is there already");
    if (piece_count == PIECES_MAX)
        return fault_set(why, "more than %d images", PIECES_MAX);
    if (mmap(at, bytes, PROT_READ, MAP_SHARED | MAP_FIXED, fd, 0) == MAP_FAILED) {
        fault_set(why, "the image can't be mapped: %s", strerror(errno));
        put_zeros(at, bytes); /* MAP_FIXED may have removed what was there */
        return -1;
    }
    pieces[piece_count++] = (struct piece){at, bytes, bytes, fd};
    return 0;
}

int region_map(const struct region *region, uint64_t offset, uint64_t bytes, int fd, struct fault *why)
{
    if (check_range(region, offset, bytes, why) < 0 || check_file(fd, bytes, why) < 0)
        return -1;
    pthread_mutex_lock(&lock);
    int result = add_piece(region->base + offset, bytes, fd, why);
    pthread_mutex_unlock(&lock);
    return result;
}

static bool is_cut(const struct piece *piece, const unsigned char *at, uint64_t bytes)
{
    bool touches = piece->at < at + bytes && at < piece->at + piece->bytes;
    return touches && (piece->at < at || piece->at + piece->bytes > at + bytes);
}

static int check_cuts(const unsigned char *at, uint64_t bytes, struct fault *why)
{
    for (int i = 0; i < piece_count; i++)
        if (is_cut(&pieces[i], at, bytes))
            return fault_set(why, "an image lies only in part there");
    return 0;
}

static void forget_pieces(const unsigned char *at, uint64_t bytes)
{
    int kept = 0;
    for (int i = 0; i < piece_count; i++) {
        if (pieces[i].at >= at && pieces[i].at < at + bytes)
            close(pieces[i].fd);
        else
            pieces[kept++] = pieces[i];
    }
    piece_count = kept;
}

static int drop_pieces(unsigned char *at, uint64_t bytes, struct fault *why)
{
    if (check_cuts(at, bytes, why) < 0)
        return -1;
    if (put_zeros(at, bytes) < 0)
        return fault_set(why, "no zero pages: %s", strerror(errno));
    forget_pieces(at, bytes);
    return 0;
}

int region_unmap(const struct region *region, uint64_t offset, uint64_t bytes, struct fault *why)
{
    if (check_range(region, offset, bytes, why) < 0)
        return -1;
    pthread_mutex_lock(&lock);
    int result = drop_pieces(region->base + offset, bytes, why);
    pthread_mutex_unlock(&lock);
    return result;
}

void region_release(struct region *region)
{
    pthread_mutex_lock(&lock);
    forget_pieces(region->base, region->bytes);
    munmap(region->base, region->bytes);
    pthread_mutex_unlock(&lock);
    *region = (struct region){NULL, 0};
}

/* Keeps a whole page for the file's last bytes: the kernel fills it up with zeros. */
static void heal_piece(struct piece *piece)
{
    struct stat st;
    if (fstat(piece->fd, &st) < 0 || (uint64_t)st.st_size >= piece->backed)
        return;
    uint64_t kept = ((uint64_t)st.st_size + PAGE_BYTES - 1) / PAGE_BYTES * PAGE_BYTES;
    if (kept < piece->backed && put_zeros(piece->at + kept, piece->backed - kept) == 0)
        piece->backed = kept;
}

bool region_heal(void)
{
    bool was_cut = false;
    pthread_mutex_lock(&lock);
    for (int i = 0; i < piece_count; i++) {
        heal_piece(&pieces[i]);
        was_cut |= pieces[i].backed < pieces[i].bytes; /* by another vCPU's fault, perhaps */
    }
    pthread_mutex_unlock(&lock);
    return was_cut;
}

/* SPDX-License-Identifier: Apache-2.0 */
/* See nodes.h. */
#include "nodes.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { CHUNK = 1024, BUCKETS = 1 << 14, NONE = 0 /* places count from 1 */ };

struct node {
    struct file_key key;
    uint64_t lookups; /* how often the guest knows it */
    struct seen opened;
    uint32_t place, generation, next, users, volume, type;
    int fd;
};

static struct node *chunks[NODES_MAX / CHUNK + 1];
static uint32_t buckets[BUCKETS], roots[VOLUMES_END], unused, places, taken, limit;
static uint64_t root_devices[VOLUMES_END];
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

void nodes_begin(uint32_t most)
{
    limit = most < NODES_MAX ? most : NODES_MAX;
}

static struct node *at(uint32_t place)
{
    return &chunks[place / CHUNK][place % CHUNK];
}

static uint32_t *bucket_of(const struct file_key *key)
{
    uint64_t mixed = (key->inode ^ key->device << 20 ^ key->mount << 40) * 0x9e3779b97f4a7c15u;
    return &buckets[mixed >> 50];
}

static bool is_same(const struct file_key *one, const struct file_key *other)
{
    return one->inode == other->inode && one->device == other->device && one->mount == other->mount;
}

static uint64_t id_of(const struct node *node)
{
    return roots[node->volume] == node->place ? FUSE_ROOT_ID : (uint64_t)node->generation << 32 | node->place;
}

/* The functions below are called with the lock. */

static struct node *find(uint32_t volume, const struct file_key *key)
{
    for (uint32_t place = *bucket_of(key); place; place = at(place)->next)
        if (at(place)->volume == volume && is_same(&at(place)->key, key))
            return at(place);
    return NULL;
}

static struct node *find_id(uint32_t volume, uint64_t id)
{
    uint32_t place = id == FUSE_ROOT_ID ? roots[volume] : (uint32_t)id;
    if (place == NONE || place > places)
        return NULL;
    struct node *node = at(place);
    bool is_it = id == FUSE_ROOT_ID || node->generation == id >> 32;
    return is_it && node->fd >= 0 && node->volume == volume ? node : NULL;
}

/* A place with a generation that no number had before; NULL when there is no room. */
static struct node *take_place(void)
{
    uint32_t place = unused;
    if (taken == limit)
        return NULL;
    if (place) {
        unused = at(place)->next;
    } else {
        struct node **chunk = &chunks[(places + 1) / CHUNK];
        if (!*chunk && !(*chunk = calloc(CHUNK, sizeof **chunk)))
            return NULL;
        place = ++places;
    }
    taken++;
    at(place)->place = place;
    at(place)->generation = (at(place)->generation + 1) & 0x7fffffff;
    if (at(place)->generation == 0)
        at(place)->generation = 1;
    return at(place);
}

static struct node *put(uint32_t volume, const struct about *about, int fd)
{
    struct node *node = take_place();
    uint32_t *bucket = bucket_of(&about->key);
    if (!node)
        return NULL;
    node->key = about->key;
    node->volume = volume;
    node->type = about->attr.mode & S_IFMT;
    node->fd = fd;
    node->lookups = node->users = 0;
    memset(&node->opened, 0, sizeof node->opened);
    node->next = *bucket;
    *bucket = node->place;
    return node;
}

/* Out of the table; its descriptor is the caller's to close. */
static int take_out(struct node *node)
{
    uint32_t *link = bucket_of(&node->key);
    int fd = node->fd;
    while (*link != node->place)
        link = &at(*link)->next;
    *link = node->next;
    node->fd = -1;
    node->next = unused;
    unused = node->place;
    taken--;
    return fd;
}

/* If nothing holds it: its descriptor, or -1. */
static int take_out_unused(struct node *node)
{
    return node->lookups == 0 && node->users == 0 && roots[node->volume] != node->place ? take_out(node) : -1;
}

/* These are not. */

static void close_if_open(int fd)
{
    if (fd >= 0)
        close(fd);
}

int nodes_set_root(uint32_t volume, int fd)
{
    struct about about;
    int error = about_read(fd, "", &about);
    pthread_mutex_lock(&lock);
    struct node *root = error ? NULL : put(volume, &about, fd);
    roots[volume] = root ? root->place : NONE;
    root_devices[volume] = about.key.device;
    pthread_mutex_unlock(&lock);
    if (!root)
        close(fd);
    return root ? 0 : error ? error : -ENFILE;
}

void nodes_drop(uint32_t volume)
{
    pthread_mutex_lock(&lock);
    roots[volume] = NONE;
    for (uint32_t place = 1; place <= places; place++)
        if (at(place)->fd >= 0 && at(place)->volume == volume)
            close(take_out(at(place)));
    pthread_mutex_unlock(&lock);
}

struct node *nodes_hold(uint32_t volume, uint64_t id)
{
    pthread_mutex_lock(&lock);
    struct node *node = find_id(volume, id);
    if (node)
        node->users++;
    pthread_mutex_unlock(&lock);
    return node;
}

void nodes_give_back(struct node *node)
{
    pthread_mutex_lock(&lock);
    node->users--;
    int fd = take_out_unused(node);
    pthread_mutex_unlock(&lock);
    close_if_open(fd);
}

int nodes_fd(const struct node *node)
{
    return node->fd;
}

uint32_t nodes_type(const struct node *node)
{
    return node->type;
}

bool nodes_is_as_seen(struct node *node, const struct seen *now)
{
    pthread_mutex_lock(&lock);
    bool is_as_seen = memcmp(&node->opened, now, sizeof *now) == 0;
    node->opened = *now;
    pthread_mutex_unlock(&lock);
    return is_as_seen;
}

uint64_t nodes_find(uint32_t volume, const struct file_key *key)
{
    pthread_mutex_lock(&lock);
    struct node *node = find(volume, key);
    uint64_t id = node ? id_of(node) : 0;
    if (node)
        node->lookups++;
    pthread_mutex_unlock(&lock);
    return id;
}

uint64_t nodes_add(uint32_t volume, const struct about *about, int fd)
{
    pthread_mutex_lock(&lock);
    struct node *known = find(volume, &about->key), *node = known ? known : put(volume, about, fd);
    uint64_t id = node ? id_of(node) : 0;
    if (node)
        node->lookups++;
    pthread_mutex_unlock(&lock);
    if (known || !node)
        close(fd);
    return id;
}

void nodes_forget(uint32_t volume, uint64_t id, uint64_t count)
{
    int fd = -1;
    pthread_mutex_lock(&lock);
    struct node *node = find_id(volume, id);
    if (node) {
        node->lookups -= count < node->lookups ? count : node->lookups;
        fd = take_out_unused(node);
    }
    pthread_mutex_unlock(&lock);
    close_if_open(fd);
}

uint64_t nodes_inode(uint32_t volume, uint64_t device, uint64_t inode)
{
    uint64_t mixed = device * 0x9e3779b97f4a7c15u;
    return device == root_devices[volume] ? inode : inode ^ (mixed >> 49 | 1) << 48;
}

bool nodes_are_many(void)
{
    pthread_mutex_lock(&lock);
    bool are_many = taken > limit - limit / 4;
    pthread_mutex_unlock(&lock);
    return are_many;
}

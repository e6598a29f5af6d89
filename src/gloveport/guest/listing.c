/* The builtins that look at or remove trees. */
#define _GNU_SOURCE
#include "guestd.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static bool is_dots(const char *name) {
    return name[0] == '.' && (name[1] == 0 || (name[1] == '.' && name[2] == 0));
}

static char type_letter(mode_t mode) {
    switch (mode & S_IFMT) {
    case S_IFREG:
        return 'f';
    case S_IFDIR:
        return 'd';
    case S_IFLNK:
        return 'l';
    case S_IFIFO:
        return 'p';
    case S_IFSOCK:
        return 's';
    case S_IFCHR:
        return 'c';
    default:
        return 'b';
    }
}

static void put_bytes(const char *bytes, size_t size) {
    printf(" %zu ", size);
    fwrite(bytes, 1, size, stdout);
}

static int put_record(int directory, const char *path, const char *name) {
    struct stat about;
    char target[PATH_MAX];
    ssize_t target_size = 0;
    if (fstatat(directory, path, &about, AT_SYMLINK_NOFOLLOW) < 0)
        return -1;
    if (S_ISLNK(about.st_mode) && (target_size = readlinkat(directory, path, target, sizeof target)) < 0)
        return -1;
    long long nanoseconds = (long long)about.st_mtim.tv_sec * 1000000000 + about.st_mtim.tv_nsec;
    printf("%c %o %lld %lld", type_letter(about.st_mode), about.st_mode & 07777, (long long)about.st_size, nanoseconds);
    put_bytes(name, strlen(name));
    if (S_ISLNK(about.st_mode))
        put_bytes(target, (size_t)target_size);
    return putchar('\n') == EOF ? -1 : 0;
}

int builtin_stat(const char *path) {
    return put_record(AT_FDCWD, path, path);
}

/* A directory still to be read; the first is the root itself, whose path is empty. */
struct pending {
    struct pending *next;
    uint64_t depth;
    char path[];
};

struct listing {
    int root;
    uint64_t depth, left;
    struct pending *first, **last;
};

static int remember(struct listing *listing, const char *path, uint64_t depth) {
    size_t size = strlen(path) + 1;
    struct pending *pending = malloc(sizeof *pending + size);
    if (pending == NULL)
        return -1;
    pending->next = NULL;
    pending->depth = depth;
    memcpy(pending->path, path, size);
    *listing->last = pending;
    listing->last = &pending->next;
    return 0;
}

static int list_entry(struct listing *listing, const struct pending *in, int directory, const struct dirent *entry) {
    char path[PATH_MAX];
    const char *slash = in->path[0] != 0 ? "/" : "";
    struct stat about;
    if (snprintf(path, sizeof path, "%s%s%s", in->path, slash, entry->d_name) >= (int)sizeof path)
        return 0;
    if (put_record(directory, entry->d_name, path) < 0)
        return errno == ENOENT ? 0 : -1; /* vanished meanwhile */
    listing->left--;
    if (listing->depth != 0 && in->depth >= listing->depth)
        return 0;
    if (entry->d_type == DT_UNKNOWN && fstatat(directory, entry->d_name, &about, AT_SYMLINK_NOFOLLOW) == 0)
        return S_ISDIR(about.st_mode) ? remember(listing, path, in->depth + 1) : 0;
    return entry->d_type == DT_DIR ? remember(listing, path, in->depth + 1) : 0;
}

static int list_directory(struct listing *listing, const struct pending *pending) {
    const char *path = pending->path[0] != 0 ? pending->path : ".";
    int fd = openat(listing->root, path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    DIR *directory = fd < 0 ? NULL : fdopendir(fd);
    struct dirent *entry;
    int result = 0;
    if (directory == NULL)
        return pending->path[0] != 0 ? 0 : -1; /* below the root, what cannot be read stays closed */
    while (result == 0 && listing->left > 0 && (entry = readdir(directory)) != NULL)
        if (!is_dots(entry->d_name))
            result = list_entry(listing, pending, fd, entry);
    closedir(directory);
    return result;
}

/* Level by level, so that a limit cuts the deepest entries off, and with one directory open at a time. */
int builtin_list(const char *path, uint64_t depth, uint64_t limit) {
    struct listing listing = {.depth = depth, .left = limit > 0 ? limit : UINT64_MAX};
    int result = 0;
    listing.last = &listing.first;
    listing.root = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (listing.root < 0 || remember(&listing, "", 1) < 0)
        return -1;
    while (result == 0 && listing.first != NULL && listing.left > 0) {
        struct pending *pending = listing.first;
        result = list_directory(&listing, pending);
        listing.first = pending->next;
        if (listing.first == NULL)
            listing.last = &listing.first;
        free(pending);
    }
    return result;
}

/* A directory being emptied, inside the one before it. */
struct level {
    struct level *above;
    dev_t device;
    ino_t inode;
    char name[NAME_MAX + 1]; /* in the level above */
};

static int descend(struct level **levels, int *directory, const char *name) {
    struct stat about;
    int fd = openat(*directory, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0)
        return -1;
    struct level *level = malloc(sizeof *level);
    if (level == NULL || fstat(fd, &about) < 0)
        return -1;
    *level = (struct level){.above = *levels, .device = about.st_dev, .inode = about.st_ino};
    memcpy(level->name, name, strlen(name) + 1);
    *levels = level;
    close(*directory);
    *directory = fd;
    return 0;
}

/* Leaves the innermost level, which is empty, and removes it. Its parent must be where it was. */
static int ascend(struct level **levels, int *directory) {
    struct level *level = *levels;
    struct stat about;
    int fd = openat(*directory, "..", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0 || fstat(fd, &about) < 0)
        return -1;
    if (about.st_dev != level->above->device || about.st_ino != level->above->inode) {
        errno = ESTALE;
        return -1;
    }
    close(*directory);
    *directory = fd;
    *levels = level->above;
    int result = unlinkat(fd, level->name, AT_REMOVEDIR);
    free(level);
    return result < 0 && errno != ENOENT ? -1 : 0;
}

/* Removes the files of a directory. 1 and the name of the first directory found, 0 when it is empty, or -1. */
static int empty_directory(int directory, char *name) {
    int fd = openat(directory, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC), result = 0;
    DIR *entries = fd < 0 ? NULL : fdopendir(fd);
    struct dirent *entry;
    if (entries == NULL)
        return -1;
    while (result == 0 && (entry = readdir(entries)) != NULL) {
        if (is_dots(entry->d_name) || unlinkat(fd, entry->d_name, 0) == 0 || errno == ENOENT)
            continue;
        result = errno == EISDIR || errno == EPERM ? 1 : -1;
        if (result == 1)
            memcpy(name, entry->d_name, strlen(entry->d_name) + 1);
    }
    closedir(entries);
    return result;
}

/* Goes down and up again with one directory open, so that no depth is too deep. */
static int remove_below(int directory) {
    struct stat about;
    if (fstat(directory, &about) < 0)
        return -1;
    struct level root = {.device = about.st_dev, .inode = about.st_ino}, *levels = &root;
    for (;;) {
        char name[NAME_MAX + 1];
        int found = empty_directory(directory, name);
        if (found < 0 || (found == 1 && descend(&levels, &directory, name) < 0))
            return -1;
        if (found == 0 && levels == &root)
            return close(directory);
        if (found == 0 && ascend(&levels, &directory) < 0)
            return -1;
    }
}

int builtin_remove(const char *path, bool recursive) {
    if (unlink(path) == 0)
        return 0;
    int failure = errno;
    if (failure != EISDIR && failure != EPERM)
        return -1;
    int directory = recursive ? open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC) : -1;
    if (recursive && (directory < 0 || remove_below(directory) < 0))
        return -1;
    if (rmdir(path) == 0)
        return 0;
    if (errno == ENOTDIR)
        errno = failure;
    return -1;
}

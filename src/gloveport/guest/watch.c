/* The builtin that reports changes below a path. */
#define _GNU_SOURCE
#include "guestd.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/stat.h>
#include <unistd.h>

static const uint32_t INTEREST =
    IN_CREATE | IN_MODIFY | IN_ATTRIB | IN_DELETE | IN_MOVED_FROM | IN_MOVED_TO | IN_DELETE_SELF | IN_MOVE_SELF;

/* A directory under watch. Its path is relative to the root, "" for the root itself. */
struct place {
    struct place *next;
    int descriptor;
    char path[];
};

static struct {
    int inotify;
    const char *root;
    bool recursive;
    struct place *places;
} state;

static void report(const char *event, const char *name) {
    printf("%s %zu %s\n", event, strlen(name), name);
}

static struct place **find_place(int descriptor) {
    struct place **link = &state.places;
    while (*link != NULL && (*link)->descriptor != descriptor)
        link = &(*link)->next;
    return link;
}

static void forget(struct place **link) {
    struct place *place = *link;
    *link = place->next;
    free(place);
}

static int join(char *path, const char *directory, const char *name) {
    const char *slash = directory[0] != 0 && name[0] != 0 ? "/" : "";
    if (snprintf(path, PATH_MAX, "%s%s%s", directory, slash, name) < PATH_MAX)
        return 0;
    errno = ENAMETOOLONG;
    return -1;
}

/* What vanished or is closed to us while it is added is no failure. */
static bool is_harmless(int error) {
    return error == ENOENT || error == ENOTDIR || error == EACCES || error == ELOOP || error == ENAMETOOLONG;
}

static int add_place(const char *path);

/* Watches the directories of a directory; if `fresh`, reports everything in it, which came before the watch. */
static int add_below(const char *path, const char *real, bool fresh) {
    DIR *directory = opendir(real);
    struct dirent *entry;
    int result = 0;
    if (directory == NULL)
        return is_harmless(errno) ? 0 : -1;
    while (result == 0 && (entry = readdir(directory)) != NULL) {
        char below[PATH_MAX];
        struct stat about;
        const char *name = entry->d_name;
        if (strcmp(name, ".") == 0 || strcmp(name, "..") == 0 || join(below, path, name) < 0)
            continue;
        if (fresh)
            report("created", below);
        if (fstatat(dirfd(directory), name, &about, AT_SYMLINK_NOFOLLOW) == 0 && S_ISDIR(about.st_mode))
            result = add_place(below);
    }
    closedir(directory);
    return result;
}

static bool ready;

static int add_place(const char *path) {
    char real[PATH_MAX];
    uint32_t follow = path[0] == 0 ? 0 : IN_DONT_FOLLOW | IN_ONLYDIR;
    if (join(real, state.root, path) < 0)
        return 0;
    int descriptor = inotify_add_watch(state.inotify, real, INTEREST | follow);
    if (descriptor < 0)
        return path[0] != 0 && is_harmless(errno) ? 0 : -1;
    struct place **known = find_place(descriptor);
    if (*known != NULL)
        forget(known);
    size_t size = strlen(path) + 1;
    struct place *place = malloc(sizeof *place + size);
    if (place == NULL)
        return -1;
    *place = (struct place){.next = state.places, .descriptor = descriptor};
    memcpy(place->path, path, size);
    state.places = place;
    return state.recursive ? add_below(path, real, ready) : 0;
}

/* A directory that moved takes its places along: the new ones are added when it arrives, if it does. */
static void remove_places(const char *path) {
    size_t size = strlen(path);
    for (struct place **link = &state.places; *link != NULL;) {
        const char *each = (*link)->path;
        if (strncmp(each, path, size) == 0 && (each[size] == 0 || each[size] == '/')) {
            inotify_rm_watch(state.inotify, (*link)->descriptor);
            forget(link);
        } else {
            link = &(*link)->next;
        }
    }
}

static const char *event_name(uint32_t mask) {
    if (mask & IN_CREATE)
        return "created";
    if (mask & (IN_DELETE | IN_DELETE_SELF))
        return "deleted";
    if (mask & (IN_MOVED_FROM | IN_MOVED_TO | IN_MOVE_SELF))
        return "moved";
    return "modified";
}

/* 1 when the root is gone, 0 to go on, -1 on failure. */
static int handle(const struct inotify_event *event) {
    char path[PATH_MAX];
    if (event->mask & IN_Q_OVERFLOW) {
        report("overflow", "");
        return 0;
    }
    struct place **link = find_place(event->wd);
    if (*link == NULL)
        return 0;
    if (event->mask & IN_IGNORED) {
        bool was_root = (*link)->path[0] == 0;
        forget(link);
        return was_root;
    }
    bool about_itself = event->mask & (IN_DELETE_SELF | IN_MOVE_SELF);
    if (about_itself && (*link)->path[0] != 0)
        return 0; /* its directory says so too */
    if (join(path, (*link)->path, event->len > 0 ? event->name : "") < 0)
        return 0;
    report(event_name(event->mask), path);
    if (!state.recursive || !(event->mask & IN_ISDIR) || event->len == 0)
        return 0;
    if (event->mask & IN_MOVED_FROM)
        remove_places(path);
    return event->mask & (IN_CREATE | IN_MOVED_TO) ? add_place(path) : 0;
}

static int handle_all(void) {
    static char buffer[65536] __attribute__((aligned(__alignof__(struct inotify_event))));
    ssize_t size = read(state.inotify, buffer, sizeof buffer);
    int result = size < 0 && errno != EAGAIN ? -1 : 0;
    for (ssize_t at = 0; at < size && result == 0;) {
        const struct inotify_event *event = (const struct inotify_event *)(buffer + at);
        result = handle(event);
        at += (ssize_t)(sizeof *event + event->len);
    }
    return fflush(stdout) == 0 ? result : -1;
}

/* Standard input carries nothing; its end is the signal to stop. */
static bool input_ended(void) {
    char ignored[256];
    return read(STDIN_FILENO, ignored, sizeof ignored) <= 0;
}

int builtin_watch(const char *path, bool recursive) {
    size_t size = strlen(path);
    char *root = malloc(size + 1);
    if (root == NULL)
        return -1;
    memcpy(root, path, size + 1);
    while (size > 1 && root[size - 1] == '/')
        root[--size] = 0;
    state.root = root;
    state.recursive = recursive;
    state.inotify = inotify_init1(IN_CLOEXEC | IN_NONBLOCK);
    if (state.inotify < 0 || add_place("") < 0)
        return -1;
    ready = true;
    report("ready", "");
    if (fflush(stdout) != 0)
        return -1;
    for (;;) {
        struct pollfd sources[2] = {{STDIN_FILENO, POLLIN, 0}, {state.inotify, POLLIN, 0}};
        if (poll(sources, 2, -1) < 0 && errno != EINTR)
            return -1;
        int result = sources[1].revents ? handle_all() : 0;
        if (result != 0)
            return result < 0 ? -1 : 0;
        if (sources[0].revents && input_ended())
            return 0;
    }
}

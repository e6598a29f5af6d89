/* The builtins that touch one file. Like all builtins they run in a child of guestd and may block. */
#define _GNU_SOURCE
#include "guestd.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

enum { CHUNK = 65536, LINKS = 40, MODE_KEEP = -1 };

static int fail_with(int error) {
    errno = error;
    return -1;
}

static bool parse_number(const char *text, int base, uint64_t most, uint64_t *value) {
    char *end;
    errno = 0;
    *value = strtoull(text, &end, base);
    return text[0] >= '0' && text[0] <= '9' && *end == 0 && errno == 0 && *value <= most;
}

static bool parse_size(const char *text, uint64_t *value) {
    return parse_number(text, 10, INT64_MAX, value);
}

static bool parse_flag(const char *text, bool *value) {
    *value = text[0] == '1';
    return (text[0] == '0' || text[0] == '1') && text[1] == 0;
}

/* Octal, or "-" for the builtin's own choice. */
static bool parse_mode(const char *text, int *mode) {
    uint64_t value;
    if (strcmp(text, "-") == 0) {
        *mode = MODE_KEEP;
        return true;
    }
    bool valid = parse_number(text, 8, 07777, &value);
    *mode = (int)value;
    return valid;
}

static int write_all(int fd, const char *data, size_t size) {
    while (size > 0) {
        ssize_t put = write(fd, data, size);
        if (put < 0 && errno == EINTR)
            continue;
        if (put < 0)
            return -1;
        data += put;
        size -= (size_t)put;
    }
    return 0;
}

/* Copies at most `length` bytes. */
static int copy(int from, int to, uint64_t length) {
    static char chunk[CHUNK];
    while (length > 0) {
        ssize_t got = read(from, chunk, length < CHUNK ? (size_t)length : CHUNK);
        if (got < 0 && errno == EINTR)
            continue;
        if (got <= 0)
            return (int)got;
        if (write_all(to, chunk, (size_t)got) < 0)
            return -1;
        length -= (uint64_t)got;
    }
    return 0;
}

/* Makes every directory above the last component. */
static int make_parents(const char *path) {
    char *copy = strdup(path);
    if (copy == NULL)
        return -1;
    for (char *slash = strchr(copy + 1, '/'); slash != NULL; slash = strchr(slash + 1, '/')) {
        *slash = 0;
        if (mkdir(copy, 0777) < 0 && errno != EEXIST) {
            free(copy);
            return -1;
        }
        *slash = '/';
    }
    free(copy);
    return 0;
}

static int run_mkdir(const char *path, int mode, bool parents) {
    struct stat about;
    if (parents && make_parents(path) < 0)
        return -1;
    if (mkdir(path, 0777) == 0)
        return mode == MODE_KEEP ? 0 : chmod(path, (mode_t)mode);
    if (errno != EEXIST || !parents)
        return -1;
    if (stat(path, &about) < 0)
        return -1;
    return S_ISDIR(about.st_mode) ? 0 : fail_with(EEXIST);
}

static int require_regular(const struct stat *about) {
    if (S_ISREG(about->st_mode))
        return 0;
    return fail_with(S_ISDIR(about->st_mode) ? EISDIR : EINVAL);
}

/* Looks before it opens, so that a device or a FIFO is not even touched, and after, so that a swap does not block. */
static int run_read(const char *path, uint64_t offset, uint64_t length) {
    struct stat about;
    if (stat(path, &about) < 0 || require_regular(&about) < 0)
        return -1;
    int fd = open(path, O_RDONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
    if (fd < 0 || fstat(fd, &about) < 0 || require_regular(&about) < 0)
        return -1;
    if (lseek(fd, (off_t)offset, SEEK_SET) < 0)
        return -1;
    return copy(fd, STDOUT_FILENO, length > 0 ? length : UINT64_MAX);
}

/* Replaces `path` (PATH_MAX bytes) by what it finally names, link by link; it need not exist. */
static int follow_links(char *path) {
    char target[PATH_MAX];
    for (int links = 0; links < LINKS; links++) {
        ssize_t size = readlink(path, target, sizeof target - 1);
        if (size < 0)
            return errno == EINVAL || errno == ENOENT ? 0 : -1;
        target[size] = 0;
        const char *slash = strrchr(path, '/');
        size_t prefix = target[0] == '/' || slash == NULL ? 0 : (size_t)(slash - path) + 1;
        if (prefix + (size_t)size >= PATH_MAX)
            return fail_with(ENAMETOOLONG);
        memcpy(path + prefix, target, (size_t)size + 1);
    }
    return fail_with(ELOOP);
}

/* Makes a new entry beside `path` by calling `make` with unguessable names until one is free; the name is left in
 * `name` (PATH_MAX bytes). What `make` returned. */
static int make_beside(const char *path, char *name, int (*make)(const char *name, int fd), int fd) {
    const char *slash = strrchr(path, '/');
    int prefix = slash == NULL ? 0 : (int)(slash - path) + 1;
    for (;;) {
        uint64_t random;
        if (getrandom(&random, sizeof random, 0) != sizeof random)
            return -1;
        int size = snprintf(name, PATH_MAX, "%.*s.write-%016llx", prefix, path, (unsigned long long)random);
        if (size >= PATH_MAX)
            return fail_with(ENAMETOOLONG);
        int made = make(name, fd);
        if (made >= 0 || errno != EEXIST)
            return made;
    }
}

static int make_file(const char *name, int fd) {
    (void)fd;
    return open(name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0644);
}

static int make_link(const char *name, int fd) {
    char self[64];
    snprintf(self, sizeof self, "/proc/self/fd/%d", fd);
    return linkat(AT_FDCWD, self, AT_FDCWD, name, AT_SYMLINK_FOLLOW);
}

/* A file without a name, which a killed write does not leave behind; -1 where file system or /proc cannot do it. */
static int open_nameless(const char *path) {
    char directory[PATH_MAX] = ".", self[64];
    const char *slash = strrchr(path, '/');
    if (slash != NULL)
        snprintf(directory, sizeof directory, "%.*s", (int)(slash - path) + 1, path);
    int fd = open(directory, O_WRONLY | O_TMPFILE | O_CLOEXEC, 0644);
    snprintf(self, sizeof self, "/proc/self/fd/%d", fd);
    if (fd < 0 || access(self, F_OK) == 0)
        return fd;
    close(fd);
    return -1;
}

/* The mode the new file gets, or MODE_KEEP for what open and the umask make of 0644. */
static int final_mode(const char *path, int mode, int *final) {
    struct stat about;
    *final = mode;
    if (stat(path, &about) < 0)
        return errno == ENOENT ? 0 : -1;
    if (mode == MODE_KEEP)
        *final = (int)(about.st_mode & 01777); /* other content is nobody's program yet: as the kernel does on a write */
    return require_regular(&about);
}

static int fill(int fd, int mode) {
    if (copy(STDIN_FILENO, fd, UINT64_MAX) < 0)
        return -1;
    return mode == MODE_KEEP ? 0 : fchmod(fd, (mode_t)mode);
}

static int replace(const char *target, int mode) {
    char name[PATH_MAX];
    int nameless = open_nameless(target);
    int fd = nameless >= 0 ? nameless : make_beside(target, name, make_file, -1);
    if (fd < 0)
        return -1;
    int result = fill(fd, mode);
    bool named = nameless < 0;
    if (result == 0 && !named) {
        result = make_beside(target, name, make_link, fd);
        named = result == 0;
    }
    if (result == 0)
        result = rename(name, target);
    if (result == 0 || !named)
        return result;
    int failure = errno;
    unlink(name);
    return fail_with(failure);
}

static int run_write(const char *path, int mode, bool parents) {
    char target[PATH_MAX];
    if (strlen(path) >= sizeof target)
        return fail_with(ENAMETOOLONG);
    strcpy(target, path);
    if (follow_links(target) < 0 || (parents && make_parents(target) < 0) || final_mode(target, mode, &mode) < 0)
        return -1;
    return replace(target, mode);
}

static int call_read(char **arguments) {
    uint64_t offset, length;
    if (!parse_size(arguments[1], &offset) || !parse_size(arguments[2], &length))
        return fail_with(EINVAL);
    return run_read(arguments[0], offset, length);
}

static int call_write(char **arguments) {
    int mode;
    bool parents;
    if (!parse_mode(arguments[1], &mode) || !parse_flag(arguments[2], &parents))
        return fail_with(EINVAL);
    return run_write(arguments[0], mode, parents);
}

static int call_stat(char **arguments) {
    return builtin_stat(arguments[0]);
}

static int call_list(char **arguments) {
    uint64_t depth, limit;
    if (!parse_size(arguments[1], &depth) || !parse_size(arguments[2], &limit))
        return fail_with(EINVAL);
    return builtin_list(arguments[0], depth, limit);
}

static int call_watch(char **arguments) {
    bool recursive;
    return parse_flag(arguments[1], &recursive) ? builtin_watch(arguments[0], recursive) : fail_with(EINVAL);
}

static int call_remove(char **arguments) {
    bool recursive;
    return parse_flag(arguments[1], &recursive) ? builtin_remove(arguments[0], recursive) : fail_with(EINVAL);
}

static int call_mkdir(char **arguments) {
    int mode;
    bool parents;
    if (!parse_mode(arguments[1], &mode) || !parse_flag(arguments[2], &parents))
        return fail_with(EINVAL);
    return run_mkdir(arguments[0], mode, parents);
}

static int call_rename(char **arguments) {
    return rename(arguments[0], arguments[1]);
}

static int call_hello(char **arguments) {
    (void)arguments;
    return 0;
}

static const struct {
    const char *name;
    int arguments;
    int (*call)(char **arguments);
} builtins[] = {
    {"read", 3, call_read},     {"write", 3, call_write}, {"stat", 1, call_stat},
    {"list", 3, call_list},     {"watch", 2, call_watch}, {"remove", 2, call_remove},
    {"mkdir", 3, call_mkdir},   {"rename", 2, call_rename}, {"hello", 0, call_hello},
};

static int call(char **argv) {
    int count = 0;
    while (argv[1 + count] != NULL)
        count++;
    for (size_t i = 0; i < sizeof builtins / sizeof *builtins; i++)
        if (strcmp(builtins[i].name, argv[0]) == 0)
            return count == builtins[i].arguments ? builtins[i].call(argv + 1) : fail_with(EINVAL);
    return fail_with(ENOSYS);
}

int builtin_run(char **argv) {
    signal(SIGXFSZ, SIG_IGN); /* a file beyond its limit is a failure like others, to be cleaned up after */
    if (call(argv) == 0 && fflush(stdout) == 0)
        return 0;
    int failure = errno;
    dprintf(STDERR_FILENO, "%d %s\n", failure, strerror(failure));
    return 1;
}

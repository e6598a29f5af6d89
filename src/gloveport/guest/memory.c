/* The memory watch: what the sandbox holds that the host cannot reclaim, a few times a second. */
#define _GNU_SOURCE
#include "guestd.h"

#include <dirent.h>
#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/statfs.h>
#include <unistd.h>

enum {
    CALM = 250,   /* milliseconds between looks */
    ALERT = 50,   /* the same above half of the limit */
    SHARE = 10,   /* a look may take one part in so many of the time */
};

static struct {
    uint64_t limit;
    int64_t next; /* on guestd_clock() */
    int interval;
} watch = {.interval = CALM};

static size_t read_text(const char *path, char *text, size_t size) {
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return 0;
    ssize_t got = read(fd, text, size - 1);
    close(fd);
    text[got > 0 ? got : 0] = 0;
    return got > 0 ? (size_t)got : 0;
}

/* The number of kilobytes in the line that starts with `name`, in bytes. */
static uint64_t kilobytes(const char *text, const char *name) {
    const char *line = strstr(text, name);
    return line == NULL ? 0 : strtoull(line + strlen(name), NULL, 10) * 1024;
}

/* The pid under which the memory is found: that of any thread left once the first has ended. */
static pid_t holder(pid_t pid, char *text, size_t size) {
    char path[64];
    const struct dirent *entry;
    snprintf(path, sizeof path, "/proc/%d/status", pid);
    if (read_text(path, text, size) == 0 || strstr(text, "\nRssAnon:") != NULL)
        return pid;
    snprintf(path, sizeof path, "/proc/%d/task", pid);
    DIR *tasks = opendir(path);
    while (tasks != NULL && (entry = readdir(tasks)) != NULL && strstr(text, "\nRssAnon:") == NULL) {
        pid_t thread = atoi(entry->d_name);
        snprintf(path, sizeof path, "/proc/%d/status", thread);
        if (thread > 0 && read_text(path, text, size) > 0)
            pid = thread;
    }
    if (tasks != NULL)
        closedir(tasks);
    return pid;
}

/* Cheap, and never too little: pages that several processes share count for each. */
static uint64_t at_most(pid_t pid) {
    char text[4096] = "";
    holder(pid, text, sizeof text);
    return kilobytes(text, "\nRssAnon:") + kilobytes(text, "\nRssShmem:");
}

/* Exact, but it walks the page tables. A process that hides its maps counts in full, and what is mapped from a tmpfs
   or a segment counts there too: both err on the safe side. */
static uint64_t exactly(pid_t pid) {
    char path[32], status[4096] = "", text[4096];
    snprintf(path, sizeof path, "/proc/%d/smaps_rollup", holder(pid, status, sizeof status));
    if (read_text(path, text, sizeof text) == 0)
        return kilobytes(status, "\nRssAnon:") + kilobytes(status, "\nRssShmem:");
    return kilobytes(text, "\nPss_Anon:") + kilobytes(text, "\nPss_Shmem:");
}

/* The used bytes of the tmpfs of one line of mountinfo; 0 for anything else and for what the guest cannot write. */
static uint64_t tmpfs_used(char *line) {
    char point[4096], modes[256], type[32];
    const char *dash = strstr(line, " - ");
    struct statfs about;
    if (dash == NULL || sscanf(dash, " - %31s", type) != 1 || strcmp(type, "tmpfs") != 0)
        return 0;
    if (sscanf(line, "%*s %*s %*s %*s %4095s %255s", point, modes) != 2 || strncmp(modes, "ro", 2) == 0)
        return 0;
    if (statfs(point, &about) < 0)
        return 0;
    return (uint64_t)(about.f_blocks - about.f_bfree) * (uint64_t)about.f_bsize;
}

/* Whether the same file system was on an earlier line: `seen` collects the device numbers. */
static bool seen_before(const char *line, char seen[64][16], size_t *count) {
    char device[16];
    if (sscanf(line, "%*s %*s %15s", device) != 1)
        return true;
    for (size_t i = 0; i < *count; i++)
        if (strcmp(seen[i], device) == 0)
            return true;
    if (*count < 64)
        memcpy(seen[(*count)++], device, sizeof device);
    return false;
}

/* Only of a sandbox's own mounts: an ordinary process would count the host's. */
static uint64_t all_tmpfs(void) {
    char seen[64][16], *line = NULL;
    size_t count = 0, room = 0;
    uint64_t total = 0;
    FILE *mounts = getpid() == 1 ? fopen("/proc/self/mountinfo", "re") : NULL;
    if (mounts == NULL)
        return 0;
    while (getline(&line, &room, mounts) > 0)
        if (strstr(line, " - tmpfs ") != NULL && !seen_before(line, seen, &count))
            total += tmpfs_used(line);
    free(line);
    fclose(mounts);
    return total;
}

/* What System V shared memory holds, mapped or not. Of a sandbox's own IPC namespace only, as above. */
static uint64_t system_v(void) {
    char *line = NULL;
    size_t room = 0;
    uint64_t total = 0, resident;
    FILE *segments = getpid() == 1 ? fopen("/proc/sysvipc/shm", "re") : NULL;
    if (segments == NULL)
        return 0;
    while (getline(&line, &room, segments) > 0) /* rss is the 15th column; the heading has no number there */
        if (sscanf(line, "%*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %" SCNu64, &resident) == 1)
            total += resident;
    free(line);
    fclose(segments);
    return total;
}

/* Kills the tree that holds the largest process; builtins are the host's own and spared. */
static void kill_largest(const struct member *members, size_t count) {
    uint64_t largest = 0;
    uint32_t victim = TREE_ALL;
    for (size_t i = 0; i < count; i++) {
        uint64_t held = process_is_builtin(members[i].stream) ? 0 : exactly(members[i].pid);
        if (held > largest) {
            largest = held;
            victim = members[i].stream;
        }
    }
    if (victim == TREE_ALL)
        return;
    process_blame_memory(victim);
    tree_signal(victim, SIGKILL);
}

static uint64_t total(uint64_t (*measure)(pid_t), const struct member *members, size_t count) {
    uint64_t sum = 0;
    for (size_t i = 0; i < count; i++)
        sum += measure(members[i].pid);
    return sum;
}

static void look(void) {
    size_t count;
    struct member *members = census(&count);
    uint64_t apart = all_tmpfs() + system_v();
    uint64_t held = apart + total(at_most, members, count);
    if (held > watch.limit)
        held = apart + total(exactly, members, count);
    watch.interval = held > watch.limit / 2 ? ALERT : CALM;
    if (held > watch.limit)
        kill_largest(members, count);
}

void memory_setup(uint64_t limit) {
    watch.limit = limit;
}

int memory_timeout(void) {
    if (watch.limit == 0 || !processes_any())
        return -1;
    int64_t left = watch.next - guestd_clock();
    return left > 0 ? (int)left : 0;
}

void memory_look(void) {
    if (memory_timeout() != 0)
        return;
    int64_t before = guestd_clock();
    look();
    int64_t after = guestd_clock(), rest = (after - before) * SHARE;
    watch.next = after + (rest > watch.interval ? rest : watch.interval);
}

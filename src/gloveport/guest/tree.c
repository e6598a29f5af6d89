/* Who descends from whom, and signals to all of them. No fork is needed for any of it. */
#define _GNU_SOURCE
#include "guestd.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum {
    ROUNDS = 200,      /* of stopping or killing; each but the first waits a millisecond if something still moves */
    PATIENCE = 8,      /* rounds given to processes in uninterruptible sleep (a parent in vfork stays there) */
};

enum { UNKNOWN, OUTSIDE, INSIDE };

static struct {
    struct member *members;
    size_t count, room;
} now;

/* Fills state, parent and birth from "PID/stat" in /proc or "TID/stat" in a task directory. */
static bool read_stat(int directory, const char *path, struct member *member) {
    char text[512];
    int fd = openat(directory, path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return false;
    ssize_t size = read(fd, text, sizeof text - 1);
    close(fd);
    if (size <= 0)
        return false;
    text[size] = 0;
    /* The name in parentheses is the process's own choice and may hold anything, parentheses too. */
    const char *after_name = strrchr(text, ')');
    return after_name != NULL &&
           sscanf(after_name, ") %c %d %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %" SCNu64,
                  &member->state, &member->parent, &member->born) == 3;
}

static bool add_member(struct member member) {
    if (now.count == now.room) {
        size_t room = now.room > 0 ? 2 * now.room : 256;
        struct member *members = realloc(now.members, room * sizeof *members);
        if (members == NULL)
            return false;
        now.members = members;
        now.room = room;
    }
    now.members[now.count++] = member;
    return true;
}

static int by_pid(const void *left, const void *right) {
    pid_t a = ((const struct member *)left)->pid, b = ((const struct member *)right)->pid;
    return (a > b) - (a < b);
}

static struct member *find(struct member *members, size_t count, pid_t pid) {
    struct member key = {.pid = pid};
    return count == 0 ? NULL : bsearch(&key, members, count, sizeof key, by_pid);
}

static uint8_t kinship_of(pid_t pid, pid_t root) {
    struct member *member = find(now.members, now.count, pid);
    return pid == root ? INSIDE : member == NULL ? OUTSIDE : member->kinship;
}

/* Climbs to the first ancestor whose kinship is known, then gives it to everyone on the way. A census is not a
 * snapshot, so a reused pid may close a circle: the climb is bounded. */
static void settle_kinship(struct member *member, pid_t root) {
    struct member *each = member;
    uint8_t kinship = UNKNOWN;
    for (size_t steps = 0; steps <= now.count && kinship == UNKNOWN; steps++) {
        kinship = kinship_of(each->parent, root);
        if (kinship == UNKNOWN)
            each = find(now.members, now.count, each->parent);
    }
    if (kinship == UNKNOWN)
        kinship = OUTSIDE;
    for (each = member; each != NULL && each->kinship == UNKNOWN && each->pid != root;
         each = find(now.members, now.count, each->parent)) {
        each->kinship = kinship;
        each->inside = kinship == INSIDE;
    }
}

static bool read_members(void) {
    DIR *proc = opendir("/proc");
    struct dirent *entry;
    if (proc == NULL)
        return false;
    now.count = 0;
    bool fits = true;
    while (fits && (entry = readdir(proc)) != NULL) {
        char path[32];
        struct member member = {0};
        if (!isdigit((unsigned char)entry->d_name[0]))
            continue;
        member.pid = atoi(entry->d_name);
        snprintf(path, sizeof path, "%d/stat", member.pid);
        if (read_stat(dirfd(proc), path, &member))
            fits = add_member(member);
    }
    closedir(proc);
    return fits;
}

struct member *census(pid_t root, size_t *count) {
    if (!read_members())
        return NULL;
    qsort(now.members, now.count, sizeof *now.members, by_pid);
    for (size_t i = 0; i < now.count; i++)
        if (now.members[i].kinship == UNKNOWN)
            settle_kinship(&now.members[i], root);
    *count = now.count;
    return now.members;
}

pid_t census_top(const struct member *members, size_t count, size_t index, pid_t root) {
    const struct member *each = &members[index];
    for (size_t steps = 0; steps < count && each->parent != root; steps++) {
        const struct member *parent = find((struct member *)members, count, each->parent);
        if (parent == NULL)
            break;
        each = parent;
    }
    return each->pid;
}

static bool is_dead(char state) {
    return state == 'Z' || state == 'X';
}

static bool is_still(char state) {
    return state == 'T' || state == 't' || is_dead(state);
}

static void breathe(void) {
    nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
}

static void signal_one(pid_t pid, int number) {
    if (pid != getpid())
        kill(pid, number);
}

static void signal_members(const struct member *members, size_t count, int number) {
    for (size_t i = 0; i < count; i++)
        if (members[i].inside && !is_dead(members[i].state))
            signal_one(members[i].pid, number);
}

/* A thread other than the first may still be inside fork when /proc calls the process stopped. */
static bool threads_are_still(pid_t pid) {
    char path[64];
    struct member thread;
    struct dirent *entry;
    snprintf(path, sizeof path, "/proc/%d/task", pid);
    DIR *tasks = opendir(path);
    bool still = true;
    if (tasks == NULL)
        return true;
    while (still && (entry = readdir(tasks)) != NULL) {
        snprintf(path, sizeof path, "%d/stat", atoi(entry->d_name));
        if (entry->d_name[0] != '.' && read_stat(dirfd(tasks), path, &thread))
            still = is_still(thread.state) || thread.state == 'D';
    }
    closedir(tasks);
    return still;
}

/* Stops the root and its descendants until a whole census finds none that moves. A stopped process cannot fork and
 * still counts against RLIMIT_NPROC, so this ends even under a fork bomb. */
static struct member *stop_tree(pid_t root, size_t *count) {
    struct member *members = NULL;
    signal_one(root, SIGSTOP);
    for (int round = 0; round < ROUNDS; round++) {
        size_t moving = 0, asleep = 0;
        if ((members = census(root, count)) == NULL)
            return NULL;
        for (size_t i = 0; i < *count; i++) {
            if (!members[i].inside || is_still(members[i].state))
                continue;
            signal_one(members[i].pid, SIGSTOP);
            if (members[i].state == 'D')
                asleep++;
            else
                moving++;
        }
        if (moving == 0 && (asleep == 0 || round >= PATIENCE) && (root == getpid() || threads_are_still(root)))
            break;
        if (round > 0)
            breathe();
    }
    return members;
}

/* Kills the descendants of a stopped root. Orphans fall to the root, which is a subreaper, and are found next time. */
static void kill_descendants(pid_t root) {
    for (int round = 0; round < ROUNDS; round++) {
        size_t count, alive = 0;
        struct member *members = census(root, &count);
        if (members == NULL)
            return;
        for (size_t i = 0; i < count; i++)
            alive += members[i].inside && !is_dead(members[i].state);
        if (alive == 0)
            return;
        signal_members(members, count, SIGKILL);
        if (round > 0)
            breathe();
    }
}

struct roster {
    size_t count;
    struct {
        pid_t pid;
        uint64_t born;
    } entries[];
};

static struct roster *list_members(const struct member *members, size_t count) {
    struct roster *roster = malloc(sizeof *roster + count * sizeof *roster->entries);
    if (roster == NULL)
        return NULL;
    roster->count = 0;
    for (size_t i = 0; i < count; i++)
        if (members[i].inside) {
            roster->entries[roster->count].pid = members[i].pid;
            roster->entries[roster->count++].born = members[i].born;
        }
    return roster;
}

void roster_kill(const struct roster *roster) {
    for (size_t i = 0; i < roster->count; i++) {
        char path[32];
        struct member there;
        pid_t pid = roster->entries[i].pid;
        snprintf(path, sizeof path, "/proc/%d/stat", pid);
        if (read_stat(AT_FDCWD, path, &there) && there.born == roster->entries[i].born)
            tree_signal(pid, SIGKILL);
    }
}

static void kill_tree(pid_t root) {
    kill_descendants(root);
    signal_one(root, SIGKILL);
}

/* After any signal but these two the tree runs on, to act on it. */
static void signal_tree(pid_t root, const struct member *members, size_t count, int number) {
    signal_members(members, count, number);
    signal_one(root, number);
    if (number == SIGSTOP || number == SIGCONT)
        return;
    signal_members(members, count, SIGCONT);
    signal_one(root, SIGCONT);
}

struct roster *tree_signal_listed(pid_t root, int number) {
    size_t count;
    struct roster *roster = NULL;
    struct member *members = number == SIGCONT ? census(root, &count) : stop_tree(root, &count);
    if (members == NULL) /* no /proc: its session's group is the best that is known */
        kill(-root, number);
    else
        roster = list_members(members, count);
    if (members != NULL && number == SIGKILL)
        kill_tree(root);
    else if (members != NULL)
        signal_tree(root, members, count, number);
    return roster;
}

void tree_signal(pid_t root, int number) {
    free(tree_signal_listed(root, number));
}

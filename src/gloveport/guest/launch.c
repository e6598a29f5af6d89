/* Starts the first program of a sandbox from the host.
 *
 *   launch [--uid N --gid N] [--cgroup DIRECTORY]... [--stage[-writable] SRC DST OWNER GROUP]... [--keep-fd N]...
 *          -- PROGRAM ARG...
 *
 * In this order: closes every descriptor from 3 on that is not kept, leads a new session, joins the cgroups, shows
 * each staged SRC (a directory or file, with what is mounted below) at DST read-only (unless -writable), nosuid, nodev and in a mount
 * namespace of its own, with files of OWNER and GROUP appearing as those of --uid and --gid unless they are "-",
 * becomes that user, and executes PROGRAM with the environment it was given itself.
 *
 * Exit status: 124 when this kernel or file system cannot show other owners, 125 for any other failure; either way
 * one line on stderr, "launch: STEP: REASON".
 */
#define _GNU_SOURCE
#include "signals.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/keyctl.h>
#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

/* Some C libraries do not have these yet, and linux/mount.h cannot be included beside sys/mount.h everywhere. */
#ifndef SYS_open_tree
#define SYS_open_tree 428
#define SYS_move_mount 429
#endif
#ifndef SYS_close_range
#define SYS_close_range 436
#endif
#ifndef SYS_mount_setattr
#define SYS_mount_setattr 442
#endif
enum {
    TREE_CLONE = 1,              /* OPEN_TREE_CLONE */
    TREE_RECURSIVE = 0x8000,     /* AT_RECURSIVE */
    MOVE_FROM_DESCRIPTOR = 4,    /* MOVE_MOUNT_F_EMPTY_PATH */
    ATTR_RDONLY = 1,
    ATTR_NOSUID = 2,
    ATTR_NODEV = 4,
    ATTR_IDMAP = 0x100000,
};
struct attributes { /* struct mount_attr */
    uint64_t set, clear, propagation, userns;
};

enum { FAILED = 125, CANNOT_MAP = 124, MANY = 64, ID_MAX = 0x7fffffff };

struct stage {
    const char *source, *target;
    bool mapped, writable;
    unsigned owner, group;
    int tree;
};

struct request {
    bool drop;
    unsigned uid, gid;
    const char *cgroups[MANY];
    struct stage stages[MANY];
    int keep[MANY];
    int cgroup_count, stage_count, keep_count;
    char **program;
};

static _Noreturn void end(int status, const char *step, const char *reason) {
    dprintf(STDERR_FILENO, "launch: %s: %s\n", step, reason);
    _exit(status);
}

static _Noreturn void fail(const char *step) {
    end(FAILED, step, strerror(errno));
}

static _Noreturn void misuse(const char *what) {
    end(FAILED, "command line", what);
}

static unsigned number(const char *text, unsigned most) {
    char *rest;
    errno = 0;
    unsigned long value = strtoul(text, &rest, 10);
    if (text[0] < '0' || text[0] > '9' || *rest != 0 || errno != 0 || value > most)
        misuse(text);
    return (unsigned)value;
}

static int next_slot(int *count) {
    if (*count == MANY)
        misuse("an option is given too often");
    return (*count)++;
}

static struct stage parse_stage(char **values) {
    struct stage stage = {.source = values[0], .target = values[1], .tree = -1};
    bool plain_owner = strcmp(values[2], "-") == 0, plain_group = strcmp(values[3], "-") == 0;
    if (plain_owner != plain_group)
        misuse("--stage: OWNER and GROUP go together");
    if (stage.source[0] != '/' || stage.target[0] != '/')
        misuse("--stage: paths must be absolute");
    stage.mapped = !plain_owner;
    if (stage.mapped) {
        stage.owner = number(values[2], ID_MAX);
        stage.group = number(values[3], ID_MAX);
    }
    return stage;
}

static const struct option {
    const char *name;
    int values;
} options[] = {{"--uid", 1}, {"--gid", 1}, {"--cgroup", 1}, {"--stage", 4}, {"--stage-writable", 4}, {"--keep-fd", 1}};
enum { UID, GID, CGROUP, STAGE, STAGE_WRITABLE, KEEP_FD, OPTIONS };

static int find_option(const char *name) {
    for (int i = 0; i < OPTIONS; i++)
        if (strcmp(options[i].name, name) == 0)
            return i;
    misuse(name);
}

static void take_option(struct request *request, int option, char **values) {
    switch (option) {
    case UID:
        request->uid = number(values[0], ID_MAX);
        break;
    case GID:
        request->gid = number(values[0], ID_MAX);
        break;
    case CGROUP:
        if (values[0][0] != '/')
            misuse("--cgroup: the path must be absolute");
        request->cgroups[next_slot(&request->cgroup_count)] = values[0];
        break;
    case STAGE:
        request->stages[next_slot(&request->stage_count)] = parse_stage(values);
        break;
    case STAGE_WRITABLE: {
        struct stage stage = parse_stage(values);
        stage.writable = true;
        request->stages[next_slot(&request->stage_count)] = stage;
        break;
    }
    case KEEP_FD:
        request->keep[next_slot(&request->keep_count)] = (int)number(values[0], ID_MAX);
        break;
    }
}

static void check(const struct request *request, bool uid_given, bool gid_given) {
    if (request->program[0] == NULL || strchr(request->program[0], '/') == NULL)
        misuse("PROGRAM must be a path");
    if (uid_given != gid_given)
        misuse("--uid and --gid go together");
    if (request->drop && (request->uid == 0 || request->gid == 0))
        misuse("--uid and --gid: not 0");
    if ((request->drop || request->stage_count > 0) && geteuid() != 0)
        misuse("--uid, --gid and --stage are for root");
    for (int i = 0; i < request->stage_count; i++)
        if (request->stages[i].mapped && !request->drop)
            misuse("--stage with an OWNER needs --uid and --gid");
}

static struct request parse(int argc, char **argv) {
    struct request request = {0};
    bool given[OPTIONS] = {false};
    int at = 1;
    while (at < argc && strcmp(argv[at], "--") != 0) {
        int option = find_option(argv[at]);
        if (argc - at <= options[option].values)
            misuse(argv[at]);
        if (given[option] && (option == UID || option == GID))
            misuse("--uid and --gid: once");
        given[option] = true;
        take_option(&request, option, argv + at + 1);
        at += 1 + options[option].values;
    }
    if (at == argc)
        misuse("-- PROGRAM is missing");
    request.program = argv + at + 1;
    request.drop = given[UID];
    check(&request, given[UID], given[GID]);
    return request;
}

static int by_number(const void *left, const void *right) {
    return *(const int *)left - *(const int *)right;
}

static void close_between(unsigned first, unsigned last) {
    if (first <= last && syscall(SYS_close_range, first, last, 0) < 0)
        fail("close_range");
}

static void close_descriptors(struct request *request) {
    unsigned next = STDERR_FILENO + 1;
    qsort(request->keep, (size_t)request->keep_count, sizeof *request->keep, by_number);
    for (int i = 0; i < request->keep_count; i++) {
        int fd = request->keep[i];
        if (fcntl(fd, F_SETFD, 0) < 0)
            fail("--keep-fd");
        if ((unsigned)fd < next)
            continue;
        close_between(next, (unsigned)fd - 1);
        next = (unsigned)fd + 1;
    }
    close_between(next, ~0U);
}

static void reset_signals(void) {
    sigset_t none;
    sigemptyset(&none);
    signals_reset();
    if (sigprocmask(SIG_SETMASK, &none, NULL) < 0)
        fail("sigprocmask");
}

/* Version 1 takes one thread by "tasks" at once; by "cgroup.procs" it waits milliseconds until every CPU has noticed. */
static int open_members(const char *directory, const char *file) {
    char path[4096];
    if (snprintf(path, sizeof path, "%s/%s", directory, file) >= (int)sizeof path)
        misuse("--cgroup: too long");
    return open(path, O_WRONLY | O_CLOEXEC);
}

static void join_cgroup(const char *directory) {
    int fd = open_members(directory, "tasks");
    if (fd < 0)
        fd = open_members(directory, "cgroup.procs");
    if (fd < 0 || write(fd, "0", 1) < 0 || close(fd) < 0)
        fail(directory);
}

static _Noreturn void fail_to_map(const char *step) {
    bool unsupported = errno == ENOSYS || errno == EINVAL || errno == EPERM || errno == EOPNOTSUPP ||
                       errno == ENOSPC || errno == EUSERS;
    end(unsupported ? CANNOT_MAP : FAILED, step, strerror(errno));
}

static void write_map(pid_t pid, const char *file, unsigned from, unsigned to) {
    char path[64], line[64];
    snprintf(path, sizeof path, "/proc/%d/%s", pid, file);
    snprintf(line, sizeof line, "%u %u 1", from, to);
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    if (fd < 0 || write(fd, line, strlen(line)) < 0)
        fail_to_map(file);
    close(fd);
}

/* A user namespace that exists only to say which owner on disk is shown as which user. The process that holds it at
 * first ends with the pipe, so also when this one fails. */
static int open_mapping(const struct stage *stage, const struct request *request) {
    char path[64];
    int alive[2];
    if (pipe2(alive, O_CLOEXEC) < 0)
        fail("pipe");
    pid_t pid = (pid_t)syscall(SYS_clone, CLONE_NEWUSER | SIGCHLD, NULL, NULL, NULL, NULL);
    if (pid < 0)
        fail_to_map("user namespace");
    if (pid == 0) {
        close(alive[1]);
        _exit(read(alive[0], path, 1) != 0);
    }
    write_map(pid, "uid_map", stage->owner, request->uid);
    write_map(pid, "gid_map", stage->group, request->gid);
    snprintf(path, sizeof path, "/proc/%d/ns/user", pid);
    int namespace = open(path, O_RDONLY | O_CLOEXEC);
    if (namespace < 0)
        fail("user namespace");
    close(alive[0]);
    close(alive[1]);
    waitpid(pid, NULL, 0);
    return namespace;
}

static void clone_tree(struct stage *stage, const struct request *request) {
    struct attributes attributes = {.set = (stage->writable ? 0 : ATTR_RDONLY) | ATTR_NOSUID | ATTR_NODEV};
    stage->tree = (int)syscall(SYS_open_tree, AT_FDCWD, stage->source, TREE_CLONE | TREE_RECURSIVE | O_CLOEXEC);
    if (stage->tree < 0)
        fail(stage->source);
    int mapping = -1;
    if (stage->mapped) {
        mapping = open_mapping(stage, request);
        attributes.set |= ATTR_IDMAP;
        attributes.userns = (uint64_t)mapping;
    }
    int flags = AT_EMPTY_PATH | TREE_RECURSIVE;
    if (syscall(SYS_mount_setattr, stage->tree, "", flags, &attributes, sizeof attributes) < 0) {
        if (stage->mapped)
            fail_to_map(stage->source);
        fail(stage->source);
    }
    if (mapping >= 0)
        close(mapping);
}

/* All sources are taken before any target is covered. What the host unmounts later goes here too, not the reverse. */
static void show_stages(struct request *request) {
    if (request->stage_count == 0)
        return;
    if (unshare(CLONE_NEWNS) < 0 || mount(NULL, "/", NULL, MS_REC | MS_SLAVE, NULL) < 0)
        fail("mount namespace");
    for (int i = 0; i < request->stage_count; i++)
        clone_tree(&request->stages[i], request);
    for (int i = 0; i < request->stage_count; i++) {
        const struct stage *stage = &request->stages[i];
        if (syscall(SYS_move_mount, stage->tree, "", AT_FDCWD, stage->target, MOVE_FROM_DESCRIPTOR) < 0)
            fail(stage->target);
        close(stage->tree);
    }
}

static void become(const struct request *request) {
    unsigned uid = request->uid, gid = request->gid;
    if (setgroups(0, NULL) < 0 || setresgid(gid, gid, gid) < 0 || setresuid(uid, uid, uid) < 0)
        fail("user");
}

int main(int argc, char **argv) {
    struct request request = parse(argc, argv);
    close_descriptors(&request);
    reset_signals();
    if (setsid() < 0)
        fail("setsid");
    for (int i = 0; i < request.cgroup_count; i++)
        join_cgroup(request.cgroups[i]);
    show_stages(&request);
    if (request.drop)
        become(&request);
    /* A new session keyring, of the new user; without it (some filters refuse) there is none to inherit secrets from
     * that the user could not read anyway. */
    syscall(SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, NULL);
    execv(request.program[0], request.program);
    fail(request.program[0]);
}

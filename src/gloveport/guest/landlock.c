/* The second file wall: nobody writes but below the paths that guestd was told, whatever is mounted where. */
#define _GNU_SOURCE
#include "guestd.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

/* Not every C library has linux/landlock.h, and none older than the kernel has all of it. */
#ifndef SYS_landlock_create_ruleset
#define SYS_landlock_create_ruleset 444
#define SYS_landlock_add_rule 445
#define SYS_landlock_restrict_self 446
#endif
enum { ASK_VERSION = 1 /* LANDLOCK_CREATE_RULESET_VERSION */, BELOW_PATH = 1 /* LANDLOCK_RULE_PATH_BENEATH */ };

enum access { /* LANDLOCK_ACCESS_FS_ */
    WRITE_FILE = 1 << 1,
    REMOVE_DIR = 1 << 4,
    REMOVE_FILE = 1 << 5,
    MAKE_CHAR = 1 << 6,
    MAKE_DIR = 1 << 7,
    MAKE_REG = 1 << 8,
    MAKE_SOCK = 1 << 9,
    MAKE_FIFO = 1 << 10,
    MAKE_BLOCK = 1 << 11,
    MAKE_SYM = 1 << 12,
    REFER = 1 << 13,     /* version 2 */
    TRUNCATE = 1 << 14,  /* 3 */
    IOCTL_DEV = 1 << 15, /* 5 */
};
enum {
    SCOPES = 3, /* LANDLOCK_SCOPE_: sockets with an abstract name, and signals; version 6 */
    TO_A_FILE = WRITE_FILE | TRUNCATE | IOCTL_DEV,
    TO_A_TREE = TO_A_FILE | REMOVE_DIR | REMOVE_FILE | MAKE_DIR | MAKE_REG | MAKE_SOCK | MAKE_FIFO | MAKE_SYM | REFER,
    EVERYTHING = TO_A_TREE | MAKE_CHAR | MAKE_BLOCK,
};

struct ruleset { /* struct landlock_ruleset_attr */
    uint64_t files, ports, scopes;
};

struct rule { /* struct landlock_path_beneath_attr */
    uint64_t allowed;
    int32_t parent;
} __attribute__((packed));

/* Ports are left alone: a rule on them knows no address, and the guest's network has nobody else in it. */
static struct ruleset known_to(int version) {
    struct ruleset ruleset = {.files = EVERYTHING};
    if (version < 3)
        ruleset.files &= ~(uint64_t)TRUNCATE;
    if (version < 5)
        ruleset.files &= ~(uint64_t)IOCTL_DEV;
    if (version >= 6)
        ruleset.scopes = SCOPES;
    return ruleset;
}

static void allow(int ruleset, const char *path, uint64_t access) {
    struct stat facts;
    struct rule rule = {.parent = open(path, O_PATH | O_CLOEXEC)};
    if (rule.parent < 0 || fstat(rule.parent, &facts) < 0)
        guestd_end(1, "landlock: a writable path is missing");
    rule.allowed = S_ISDIR(facts.st_mode) ? access : access & TO_A_FILE;
    if (syscall(SYS_landlock_add_rule, ruleset, BELOW_PATH, &rule, 0) < 0)
        guestd_end(1, "landlock_add_rule");
    close(rule.parent);
}

int landlock_version(void) {
    long version = syscall(SYS_landlock_create_ruleset, NULL, 0, ASK_VERSION);
    return version > 0 ? (int)version : 0;
}

void landlock_install(const char *const *writable, size_t count) {
    int version = landlock_version();
    if (count == 0 || version < 2) /* the first version refuses every rename to another directory */
        return;
    struct ruleset known = known_to(version);
    int ruleset = (int)syscall(SYS_landlock_create_ruleset, &known, sizeof known, 0);
    if (ruleset < 0)
        guestd_end(1, "landlock_create_ruleset");
    allow(ruleset, "/dev", TO_A_FILE & known.files);
    for (size_t i = 0; i < count; i++)
        allow(ruleset, writable[i], TO_A_TREE & known.files);
    if (syscall(SYS_landlock_restrict_self, ruleset, 0) < 0)
        guestd_end(1, "landlock_restrict_self");
    close(ruleset);
}

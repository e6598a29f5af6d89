/* What the parts of guestd share: the protocol's numbers and each part's few entry points.
 *
 * guestd is one thread around one epoll loop. The parts, each in the file of its name:
 *   guestd    start, hardening, the loop
 *   control   the stream to the host: frames in, frames out, back-pressure
 *   start     the START frame as C strings
 *   process   the table of processes, their start and their end (process.h is for it and flow only)
 *   flow      the input and output of a process, and their credit
 *   spawn     how a process comes to life
 *   tree      which process belongs to which stream, and signals to all of them
 *   egress    the listening socket of the guest's way out, given to the host
 *   filter    what no process may do to guestd and to its mark
 *   landlock  where processes may write
 *   memory    the memory watch
 *   builtins, listing, watch   functions run in a child of guestd rather than a program
 *
 * The protocol is docs/reference/guestd-protocol.md.
 */
#ifndef GUESTD_H
#define GUESTD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

enum {
    PROTOCOL_VERSION = 1,
    HEAD_SIZE = 9,
    PAYLOAD_MAX = 65536,
    START_MAX = 2 << 20,
    STRINGS_MAX = 4096,
    INPUT_WINDOW = 262144,
    EGRESS_PORT = 3128, /* of the guest's loopback */
};

enum host_kind {
    HOST_START = 1,
    HOST_INPUT,
    HOST_INPUT_END,
    HOST_SIGNAL,
    HOST_RESIZE,
    HOST_CREDIT,
    HOST_START_PART,
    HOST_PING,
};

enum guest_kind {
    GUEST_HELLO = 64,
    GUEST_STARTED,
    GUEST_STDOUT,
    GUEST_STDERR,
    GUEST_INPUT_CREDIT,
    GUEST_EXIT,
    GUEST_PONG,
};

enum { START_TERMINAL = 1, START_INPUT = 2, START_BUILTIN = 4 };
enum exit_how { EXIT_CODE = 0, EXIT_SIGNAL = 1, EXIT_NOT_STARTED = 2 };
enum { EXIT_FLAG_MEMORY = 1, EXIT_FLAG_TIMEOUT = 2, EXIT_FLAG_DIRECTORY = 4 };

/* In egress.c */
bool egress_hand_over(int channel, uint16_t port);

/* In guestd.c */

struct process;

enum source_kind { SOURCE_CONTROL, SOURCE_CHILDREN, SOURCE_INPUT, SOURCE_OUTPUT };

/* One descriptor the loop may wait for. It is registered only while `events` is not 0, because epoll reports a
 * hang-up even of a descriptor one is not interested in. */
struct source {
    int fd; /* -1 when closed */
    uint32_t events;
    enum source_kind kind;
    struct process *process;
};

void source_watch(struct source *source, uint32_t events);
void source_close(struct source *source);

/* Signals every process of the guest but guestd itself, orphans included. */
void guestd_signal_all(int number);

/* Kills everything guestd started and exits; `why` (may be NULL) goes to stderr. */
_Noreturn void guestd_end(int status, const char *why);

/* The monotonic clock in milliseconds. */
int64_t guestd_clock(void);

/* Closes the open descriptors from first to last. */
void guestd_close_range(unsigned first, unsigned last);

/* In control.c */

void control_open(int fd);
void control_ready(uint32_t events);
void control_flush(void);

/* Appends a small frame. False when there is no room: processes_settle() follows when there is again. */
bool control_send(enum guest_kind kind, uint32_t stream, const void *payload, size_t size);

/* How many bytes of output fit right now; 0 as control_send's false. */
size_t control_space(void);
/* Where to read up to control_space() bytes of output to, and then: send that many of them. */
void *control_payload(void);
void control_push(enum guest_kind kind, uint32_t stream, size_t size);

uint16_t get_u16(const uint8_t *at);
uint32_t get_u32(const uint8_t *at);
uint64_t get_u64(const uint8_t *at);
void put_u32(uint8_t *at, uint32_t value);
void put_u64(uint8_t *at, uint64_t value);

/* In start.c */

struct start {
    uint16_t flags, rows, columns;
    uint32_t credit, timeout; /* milliseconds, 0: none */
    uint64_t keep;
    const char *cwd;
    char **argv; /* NULL-terminated, as is environment; both belong to the struct */
    char **environment;
    uint32_t argc;
};

/* Parses a whole START payload in place: its strings point into `payload`, which is modified. False: malformed. */
bool start_parse(struct start *start, uint8_t *payload, size_t size);
void start_free(struct start *start);

/* In spawn.c */

struct limits {
    uint64_t processes, files, file_size, data; /* 0: as inherited */
};

struct spawned {
    pid_t pid;
    int input, output, error; /* guestd's non-blocking ends; -1 where there is none */
    bool cwd_failed;
};

void spawn_setup(const struct limits *limits);
/* Starts a process of a stream. 0, or the errno that prevented it (then nothing is left open). */
int spawn(uint32_t stream, const struct start *start, struct spawned *spawned);

/* In filter.c */

/* Installs the filter for guestd and, by inheritance, for every process. */
void filter_install(void);
/* Gives the calling process its mark: the only way past the filter. 0, or -1 with errno set. */
int filter_set_mark(uint64_t mark);

/* In landlock.c */

/* Of the kernel's Landlock; 0 where it has none, or does not use it. */
int landlock_version(void);
/* For guestd and, by inheritance, for every process: writing ends but below these paths and to devices. Nothing is done
 * without a path, or where the kernel has no such wall; whatever else fails ends guestd. */
void landlock_install(const char *const *writable, size_t count);

/* In process.c */

void process_start(uint32_t stream, const struct start *start);
void process_input(uint32_t stream, const uint8_t *data, size_t size);
void process_input_end(uint32_t stream);
void process_signal(uint32_t stream, int number, bool tree);
void process_resize(uint32_t stream, uint16_t rows, uint16_t columns);
void process_credit(uint32_t stream, uint32_t amount);

void process_ready(struct source *source);
/* The control stream has room again. */
void processes_settle(void);
/* Reaps children that ended. Whether there may be more at once. */
bool processes_reap(void);
/* Ends the processes whose time is over. */
void processes_expire(void);
/* Milliseconds until the next one's is, -1 for never. */
int processes_timeout(void);
/* Frees what ended; call when no event of the current round can name it any more. */
void processes_sweep(void);
/* Whether any child may be alive, orphans included. */
bool processes_any(void);
/* Whether the stream is a builtin's. */
bool process_is_builtin(uint32_t stream);
/* Notes that the stream's process is being killed for its memory. */
void process_blame_memory(uint32_t stream);

/* In tree.c */

/* Every process of a stream bears the stream's mark in RLIMIT_LOCKS, for which the kernel has no use: soft and hard
 * value are tree_mark(). Children inherit it whoever their parent becomes. */
enum { TREE_ALL = 0 /* no process has this stream */ };

void tree_setup(void);
uint64_t tree_mark(uint32_t stream);

struct member {
    pid_t pid;
    uint32_t stream;
};

/* Every process that bears a mark of this guestd; valid until the next census. guestd ends when it cannot see them. */
struct member *census(size_t *count);

/* Signals every process of a stream, or of all; SIGKILL until nobody is left. */
void tree_signal(uint32_t stream, int number);

/* In memory.c */

void memory_setup(uint64_t limit);
/* Milliseconds until the next look, -1 for none. */
int memory_timeout(void);
void memory_look(void);

/* In builtins.c, listing.c and watch.c: these run in a child of guestd */

/* Runs a builtin to its end; the exit status. */
int builtin_run(char **argv);

/* 0, or -1 with errno set. */
int builtin_stat(const char *path);
int builtin_list(const char *path, uint64_t depth, uint64_t limit);
int builtin_remove(const char *path, bool recursive);
int builtin_watch(const char *path, bool recursive);

#endif

/* One process, as process.c and flow.c see it. */
#ifndef PROCESS_H
#define PROCESS_H

#include "guestd.h"

struct output {
    struct source source;
    enum guest_kind kind;
    uint64_t kept, dropped;
    uint64_t left; /* once the process ended: bytes that may still come before EXIT */
};

struct process {
    uint32_t stream;
    pid_t pid; /* 0 once reaped */
    bool terminal, builtin;
    bool ended;        /* EXIT is sent; what background children write is read and dropped */
    bool input_ending; /* input ends when the queue is empty */
    uint64_t credit, keep;
    uint32_t window;   /* bytes of input the host may still send */
    uint32_t consumed; /* bytes of input that may be granted again */
    uint8_t *queue;    /* input the process has not taken; NULL when there is none */
    size_t queue_from, queue_to;
    struct source input;
    struct output output[2];
    int64_t deadline; /* on guestd_clock(): when it gets SIGTERM, then when SIGKILL; 0 for never */
    uint8_t how, flags;
    int32_t code;
    struct process *next; /* in its bucket, or among the gone */
};

static inline bool process_has_exited(const struct process *process) {
    return process->pid == 0;
}

/* Input from the host: into the pipe as far as it goes, the rest into the queue. False: more than was granted. */
bool flow_input(struct process *process, const uint8_t *data, size_t size);
void flow_input_end(struct process *process);
/* The process may take more. */
void flow_input_ready(struct process *process);
bool flow_wants_input(const struct process *process);
void flow_close_input(struct process *process);
/* Tells the host how much more input it may send, when that is worth a frame. */
void flow_grant(struct process *process);

/* Reads output once, for the host or to be dropped. Whether there may be more at once. */
bool flow_output(struct process *process, struct output *output);
bool flow_wants_output(const struct process *process, const struct output *output);
/* The process has exited: takes what is in its pipes as far as credit goes, and notes how much is left. */
void flow_last_output(struct process *process);
/* Whether all that has to precede EXIT is sent. */
bool flow_is_done(struct process *process);

#endif

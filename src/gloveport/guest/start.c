/* The START frame as C strings. */
#define _GNU_SOURCE
#include "guestd.h"

#include <stdlib.h>
#include <string.h>

struct cursor {
    uint8_t *at;
    size_t left;
};

static const uint8_t *take(struct cursor *cursor, size_t size) {
    if (cursor->left < size)
        return NULL;
    const uint8_t *taken = cursor->at;
    cursor->at += size;
    cursor->left -= size;
    return taken;
}

static bool take_count(struct cursor *cursor, uint32_t least, uint32_t *count) {
    const uint8_t *at = take(cursor, 4);
    if (at == NULL)
        return false;
    *count = get_u32(at);
    return *count >= least && *count <= STRINGS_MAX;
}

/* A string moves left over its own length, which makes room for its terminator. */
static char *take_string(struct cursor *cursor) {
    const uint8_t *at = take(cursor, 4);
    if (at == NULL)
        return NULL;
    uint32_t size = get_u32(at);
    const uint8_t *text = take(cursor, size);
    if (text == NULL || memchr(text, 0, size) != NULL)
        return NULL;
    char *string = (char *)text - 1;
    memmove(string, text, size);
    string[size] = 0;
    return string;
}

static bool take_strings(struct cursor *cursor, uint32_t count, char **strings) {
    for (uint32_t i = 0; i < count; i++)
        if ((strings[i] = take_string(cursor)) == NULL)
            return false;
    strings[count] = NULL;
    return true;
}

static bool take_head(struct cursor *cursor, struct start *start) {
    const uint8_t *at = take(cursor, 22);
    if (at == NULL)
        return false;
    start->flags = get_u16(at);
    start->rows = get_u16(at + 2);
    start->columns = get_u16(at + 4);
    start->credit = get_u32(at + 6);
    start->timeout = get_u32(at + 10);
    start->keep = get_u64(at + 14);
    return (start->flags & ~(START_TERMINAL | START_INPUT | START_BUILTIN)) == 0;
}

static bool take_environment(struct cursor *cursor, struct start *start) {
    uint32_t count;
    if (!take_count(cursor, 0, &count))
        return false;
    start->environment = calloc(count + 1, sizeof(char *));
    if (start->environment == NULL || !take_strings(cursor, count, start->environment))
        return false;
    for (uint32_t i = 0; i < count; i++) {
        const char *equals = strchr(start->environment[i], '=');
        if (equals == NULL || equals == start->environment[i])
            return false;
    }
    return true;
}

static bool parse(struct cursor *cursor, struct start *start) {
    if (!take_head(cursor, start))
        return false;
    start->cwd = take_string(cursor);
    if (start->cwd == NULL || start->cwd[0] != '/')
        return false;
    if (!take_count(cursor, 1, &start->argc))
        return false;
    start->argv = calloc(start->argc + 1, sizeof(char *));
    if (start->argv == NULL || !take_strings(cursor, start->argc, start->argv))
        return false;
    return take_environment(cursor, start) && cursor->left == 0;
}

bool start_parse(struct start *start, uint8_t *payload, size_t size) {
    *start = (struct start){0};
    struct cursor cursor = {payload, size};
    if (parse(&cursor, start))
        return true;
    start_free(start);
    return false;
}

void start_free(struct start *start) {
    free(start->argv);
    free(start->environment);
    start->argv = start->environment = NULL;
}

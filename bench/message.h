/* The message of the benchmark: 130 bytes that look like somebody's JSON, numbered and stamped.
 *
 * The publisher writes it, the load client checks every byte of it, so that a torn or mixed event is never counted as
 * a good one. "n" is the number from 0 up, "t" the publisher's CLOCK_MONOTONIC in nanoseconds (one machine, one clock).
 */
#ifndef MESSAGE_H
#define MESSAGE_H

#include <stdint.h>
#include <string.h>
#include <time.h>

#define MESSAGE_HEAD "{\"n\":\""
#define MESSAGE_MIDDLE "\",\"t\":\""
#define MESSAGE_TAIL "\",\"state\":\"paid\",\"order\":4711,\"total\":\"129.90 EUR\",\"customer\":\"c-20817\",\"note\":\"ok\"}"

enum {
    NUMBER_AT = sizeof MESSAGE_HEAD - 1,
    NUMBER_DIGITS = 12,
    MIDDLE_AT = NUMBER_AT + NUMBER_DIGITS,
    STAMP_AT = MIDDLE_AT + sizeof MESSAGE_MIDDLE - 1,
    STAMP_DIGITS = 19,
    TAIL_AT = STAMP_AT + STAMP_DIGITS,
    MESSAGE_LENGTH = TAIL_AT + sizeof MESSAGE_TAIL - 1,
};

static inline uint64_t now_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static inline void put_digits(char *at, int digits, uint64_t value) {
    while (digits--) {
        at[digits] = (char)('0' + value % 10);
        value /= 10;
    }
}

/* Eight digits at once, by pairs, then fours, then all (little-endian): of millions of events a second each has 31. */
static inline uint64_t eight_digits(const char *at) {
    uint64_t value;
    memcpy(&value, at, sizeof value);
    value = (value & 0x0f0f0f0f0f0f0f0f) * 2561 >> 8;
    value = (value & 0x00ff00ff00ff00ff) * 6553601 >> 16;
    return (value & 0x0000ffff0000ffff) * 42949672960001 >> 32;
}

static inline uint64_t get_digits(const char *at, int digits) {
    uint64_t value = 0;
    for (; digits >= 8; digits -= 8, at += 8)
        value = value * 100000000 + eight_digits(at);
    while (digits--)
        value = value * 10 + (uint64_t)(*at++ - '0');
    return value;
}

/* Write message `number`, stamped now, to `at` (MESSAGE_LENGTH bytes). */
static inline void message_write(char *at, uint64_t number) {
    memcpy(at, MESSAGE_HEAD, NUMBER_AT);
    put_digits(at + NUMBER_AT, NUMBER_DIGITS, number);
    memcpy(at + MIDDLE_AT, MESSAGE_MIDDLE, sizeof MESSAGE_MIDDLE - 1);
    put_digits(at + STAMP_AT, STAMP_DIGITS, now_ns());
    memcpy(at + TAIL_AT, MESSAGE_TAIL, sizeof MESSAGE_TAIL - 1);
}

/* Whether MESSAGE_LENGTH bytes at `at` are one whole message; its number and stamp. */
static inline int message_read(const char *at, uint64_t *number, uint64_t *stamp) {
    if (memcmp(at, MESSAGE_HEAD, NUMBER_AT) || memcmp(at + MIDDLE_AT, MESSAGE_MIDDLE, sizeof MESSAGE_MIDDLE - 1) ||
        memcmp(at + TAIL_AT, MESSAGE_TAIL, sizeof MESSAGE_TAIL - 1))
        return 0;
    *number = get_digits(at + NUMBER_AT, NUMBER_DIGITS);
    *stamp = get_digits(at + STAMP_AT, STAMP_DIGITS);
    return 1;
}

#endif

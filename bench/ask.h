/* The small request of the benchmark: what a page's script asks its application for, numbered, so that an answer that
 * belongs to another request is noticed. The client writes it, the origin reads the number out of the target.
 */
#ifndef ASK_H
#define ASK_H

#include "message.h"

#define TARGET_HEAD "GET /orders/"
#define TARGET_TAIL "?fields=state,total HTTP/1.1\r\n"
#define REQUEST_FIELDS                                                                                                 \
    "Host: shop.example\r\n"                                                                                           \
    "User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0\r\n"                           \
    "Accept: application/json\r\n"                                                                                     \
    "Accept-Language: en-US,en;q=0.5\r\n"                                                                              \
    "Accept-Encoding: gzip, deflate\r\n"                                                                               \
    "Cookie: session=8c1f0f5d2f6b4b7c9a3e\r\n\r\n"

enum {
    TARGET_AT = sizeof TARGET_HEAD - 1, /* where the number's NUMBER_DIGITS digits begin */
    REQUEST_LENGTH = TARGET_AT + NUMBER_DIGITS + sizeof TARGET_TAIL REQUEST_FIELDS - 1,
};

/* Write request `number` to `at` (REQUEST_LENGTH bytes). */
static inline void request_write(char *at, uint64_t number) {
    memcpy(at, TARGET_HEAD, TARGET_AT);
    put_digits(at + TARGET_AT, NUMBER_DIGITS, number);
    memcpy(at + TARGET_AT + NUMBER_DIGITS, TARGET_TAIL REQUEST_FIELDS, sizeof TARGET_TAIL REQUEST_FIELDS - 1);
}

/* Whether a request's first bytes ask for an order; its number. `at` holds a whole head, ended by NUL. */
static inline int request_read(const char *at, uint64_t *number) {
    if (strncmp(at, TARGET_HEAD, TARGET_AT) || strspn(at + TARGET_AT, "0123456789") != NUMBER_DIGITS)
        return 0;
    *number = get_digits(at + TARGET_AT, NUMBER_DIGITS);
    return 1;
}

#endif

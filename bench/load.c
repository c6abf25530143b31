/* The load client: many event streams over HTTP/1.1 or HTTP/2, every event of every stream checked and timed.
 *
 * One thread, one epoll, one large buffer that every connection is read into; an event that lies whole in the buffer
 * is checked in place, so that a million events a second cost a fraction of a core. HTTP/2 is written by hand (RFC 9113
 * with prior knowledge, or ALPN over TLS): a fixed request head without Huffman or indexing (RFC 7541 §6.2.2), and
 * windows granted so early that no server ever waits for them.
 *
 * On standard output: one JSON line when every stream has its head ("opened" or failed), one with the figures at the
 * end: when every stream has --count events, after --timeout seconds, or when standard input ends.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <netinet/tcp.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include "histogram.h"
#include "message.h"

enum {
    BUFFER = 1 << 18,
    CARRY = 256,             /* a line longer than this is no message of ours */
    CONTROL = 1 << 14,       /* SETTINGS_MAX_FRAME_SIZE, RFC 9113 §6.5.2: the default */
    STREAM_WINDOW = 1 << 24, /* as much as a stream may have under way; granted anew at the half */
    CONNECTION_WINDOW = 1 << 30,
    PER_SOURCE = 25000, /* ports of one source address */
};

struct stream {
    uint64_t next, pending_number, pending_stamp;
    uint32_t fill, granted; /* carried bytes of an unfinished line; bytes of DATA since the last grant */
    uint8_t opened, ended, pending, too_long;
    char line[CARRY];
};

enum phase { UNUSED, CONNECTING, HANDSHAKE, HEAD, BODY, CLOSED };
enum chunk { SIZE, SIZE_REST, DATA, DATA_END };

struct connection {
    int fd;
    enum phase phase;
    enum chunk chunk;
    int chunked, waiting; /* waiting: streams of it without a head yet */
    uint64_t begun, remaining;
    SSL *ssl;
    struct stream *streams;
    char *out; /* requests and HTTP/2 control frames that the socket has not taken yet */
    size_t out_size, out_from;
    unsigned char frame[9], *control; /* HTTP/2: the head of the frame being read; its payload unless DATA */
    uint32_t frame_fill, control_fill, granted, last_id;
    char *head; /* HTTP/1.1: the response head, until it is whole */
    uint32_t head_fill;
};

static struct {
    const char *host, *path;
    int port, connections, streams, burst, sources, tls, h2;
    uint64_t count;
    double timeout;
} options = {.host = "127.0.0.1", .path = "/events", .connections = 1, .streams = 1, .burst = 256, .sources = 1,
             .timeout = 60};

static struct {
    uint64_t events, lost, duplicated, out_of_order, torn, comments, bytes, reads, first_ns, last_ns, max_delay;
    int opened, failed, closed, finished;
} seen;

static histogram delays, openings;
static struct connection *connections;
static char buffer[BUFFER];
static SSL_CTX *tls;
static int poller, started, opening, announced;
static uint64_t began, opened_ns, now;
static volatile sig_atomic_t stop;

/* ---- events ------------------------------------------------------------------------------------------------- */

static void event(struct stream *s, uint64_t number, uint64_t stamp) {
    if (number < s->next) {
        number + 1 == s->next ? seen.duplicated++ : seen.out_of_order++;
        return;
    }
    seen.lost += number - s->next;
    s->next = number + 1;
    uint64_t delay = now > stamp ? now - stamp : 0;
    histogram_add(delays, delay);
    if (delay > seen.max_delay)
        seen.max_delay = delay;
    if (!seen.events++)
        seen.first_ns = now;
    seen.last_ns = now;
    if (s->next == options.count)
        seen.finished++;
}

static void line(struct stream *s, const char *at, size_t size) {
    if (size && at[size - 1] == '\r')
        size--;
    if (size == 0) { /* the blank line dispatches (WHATWG HTML §9.2.6) */
        if (s->pending)
            event(s, s->pending_number, s->pending_stamp);
        s->pending = 0;
    } else if (*at == ':') {
        seen.comments++;
    } else if (size >= 5 && !memcmp(at, "data:", 5)) {
        size_t skip = size > 5 && at[5] == ' ' ? 6 : 5;
        if (s->pending || size - skip != MESSAGE_LENGTH || !message_read(at + skip, &s->pending_number, &s->pending_stamp))
            seen.torn++;
        else
            s->pending = 1;
    }
}

static void carry(struct stream *s, const char *at, size_t size) {
    size_t room = CARRY - s->fill;
    if (size > room) {
        s->too_long = 1;
        size = room;
    }
    memcpy(s->line + s->fill, at, size);
    s->fill += (uint32_t)size;
}

/* Feed bytes of a stream's body, cut anywhere. */
static void feed(struct stream *s, const char *at, size_t size) {
    const char *end = at + size;
    while (at < end) {
        if (!s->fill && !s->pending && end - at >= MESSAGE_LENGTH + 8 && !memcmp(at, "data: ", 6) &&
            at[MESSAGE_LENGTH + 6] == '\n' && at[MESSAGE_LENGTH + 7] == '\n') {
            uint64_t number, stamp;
            if (message_read(at + 6, &number, &stamp)) {
                event(s, number, stamp);
                at += MESSAGE_LENGTH + 8;
                continue;
            }
        }
        const char *newline = memchr(at, '\n', (size_t)(end - at));
        if (!newline) {
            carry(s, at, (size_t)(end - at));
            return;
        }
        if (s->fill) {
            carry(s, at, (size_t)(newline - at));
            if (s->too_long)
                seen.torn += !memcmp(s->line, "data:", 5);
            else
                line(s, s->line, s->fill);
            s->fill = s->too_long = 0;
        } else {
            line(s, at, (size_t)(newline - at));
        }
        at = newline + 1;
    }
}

/* ---- connections: bytes out, ends -------------------------------------------------------------------------- */

static void watch(struct connection *c) {
    int want_out = c->phase == CONNECTING || (c->out_size > c->out_from && c->phase > HANDSHAKE);
    struct epoll_event wanted = {.events = EPOLLIN | (want_out ? (uint32_t)EPOLLOUT : 0), .data.ptr = c};
    epoll_ctl(poller, EPOLL_CTL_MOD, c->fd, &wanted);
}

static void stream_opened(struct connection *c, struct stream *s, int good) {
    if (s->opened || s->ended)
        return;
    c->waiting--;
    opening--;
    if (good) {
        s->opened = 1;
        seen.opened++;
        histogram_add(openings, now_ns() - c->begun);
    } else {
        s->ended = 1;
        seen.failed++;
    }
}

static void stream_ended(struct connection *c, struct stream *s) {
    if (!s->opened) {
        stream_opened(c, s, 0);
    } else if (!s->ended) {
        s->ended = 1;
        seen.closed += !options.count || s->next < options.count; /* cut off before its last event */
    }
}

static void hang_up(struct connection *c) {
    if (c->phase == CLOSED)
        return;
    c->phase = CLOSED;
    for (int i = 0; i < options.streams; i++)
        stream_ended(c, &c->streams[i]);
    if (c->ssl)
        SSL_free(c->ssl);
    c->ssl = NULL;
    close(c->fd);
}

static void flush_out(struct connection *c) {
    while (c->out_from < c->out_size) {
        const char *at = c->out + c->out_from;
        int size = (int)(c->out_size - c->out_from);
        int sent = c->ssl ? SSL_write(c->ssl, at, size) : (int)send(c->fd, at, (size_t)size, MSG_NOSIGNAL);
        if (sent <= 0)
            break;
        c->out_from += (size_t)sent;
    }
    if (c->out_from == c->out_size)
        c->out_from = c->out_size = 0;
    watch(c);
}

static void put(struct connection *c, const void *at, size_t size) {
    c->out = realloc(c->out, c->out_size + size);
    memcpy(c->out + c->out_size, at, size);
    c->out_size += size;
}

/* ---- HTTP/1.1 ------------------------------------------------------------------------------------------------ */

static void h1_request(struct connection *c) {
    char request[512];
    int size = snprintf(request, sizeof request, "GET %s HTTP/1.1\r\nHost: %s:%d\r\nAccept: text/event-stream\r\n\r\n",
                        options.path, options.host, options.port);
    put(c, request, (size_t)size);
}

/* Take the response head; how many of the bytes were its. */
static size_t h1_head(struct connection *c, const char *at, size_t size) {
    size_t take = size < (size_t)(CONTROL - 1 - c->head_fill) ? size : (size_t)(CONTROL - 1 - c->head_fill);
    if (!c->head)
        c->head = malloc(CONTROL);
    memcpy(c->head + c->head_fill, at, take);
    c->head[c->head_fill + take] = 0;
    char *end = strstr(c->head, "\r\n\r\n");
    if (!end) {
        c->head_fill += (uint32_t)take;
        if (c->head_fill >= CONTROL - 1)
            hang_up(c);
        return size;
    }
    size_t used = (size_t)(end + 4 - c->head) - c->head_fill;
    if (memcmp(c->head, "HTTP/1.1 200", 12)) {
        fprintf(stderr, "load: %.*s\n", (int)(end - c->head), c->head);
        hang_up(c);
        return size;
    }
    c->chunked = strcasestr(c->head, "\r\ntransfer-encoding: chunked") != NULL;
    free(c->head);
    c->head = NULL;
    c->phase = BODY;
    stream_opened(c, c->streams, 1);
    return used;
}

/* Undo the chunked coding (RFC 9112 §7.1); chunks and reads may be cut anywhere. */
static void h1_chunks(struct connection *c, const char *at, size_t size) {
    const char *end = at + size;
    while (at < end) {
        if (c->chunk == DATA) {
            size_t part = (uint64_t)(end - at) < c->remaining ? (size_t)(end - at) : (size_t)c->remaining;
            feed(c->streams, at, part);
            at += part;
            if ((c->remaining -= part) == 0)
                c->chunk = DATA_END;
            continue;
        }
        char byte = *at++;
        if (byte == '\n') {
            if (c->chunk != DATA_END && c->remaining == 0) {
                hang_up(c); /* the last chunk: a clean end */
                return;
            }
            c->chunk = c->chunk == DATA_END ? SIZE : DATA;
        } else if (c->chunk == SIZE) {
            int digit = byte >= '0' && byte <= '9' ? byte - '0' : (byte | 32) >= 'a' && (byte | 32) <= 'f' ? (byte | 32) - 'a' + 10 : -1;
            if (digit < 0)
                c->chunk = SIZE_REST;
            else
                c->remaining = c->remaining * 16 + (uint64_t)digit;
        }
    }
}

static void h1_read(struct connection *c, const char *at, size_t size) {
    if (c->phase == HEAD) {
        size_t used = h1_head(c, at, size);
        at += used;
        size -= used;
    }
    if (c->phase != BODY)
        return;
    if (c->chunked)
        h1_chunks(c, at, size);
    else
        feed(c->streams, at, size);
}

/* ---- HTTP/2 -------------------------------------------------------------------------------------------------- */

enum { H2_DATA = 0, H2_HEADERS = 1, H2_RST = 3, H2_SETTINGS = 4, H2_PING = 6, H2_GOAWAY = 7, H2_WINDOW = 8 };

static void h2_frame(struct connection *c, int type, int flags, uint32_t id, const void *payload, uint32_t size) {
    unsigned char head[9] = {(unsigned char)(size >> 16), (unsigned char)(size >> 8), (unsigned char)size,
                             (unsigned char)type, (unsigned char)flags, (unsigned char)(id >> 24),
                             (unsigned char)(id >> 16), (unsigned char)(id >> 8), (unsigned char)id};
    put(c, head, sizeof head);
    put(c, payload, size);
}

static void h2_grant(struct connection *c, uint32_t id, uint32_t bytes) {
    uint32_t value = htonl(bytes);
    h2_frame(c, H2_WINDOW, 0, id, &value, 4);
}

/* One header field: literal without indexing, name from the static table (RFC 7541 §6.2.2, appendix A). */
static size_t field(unsigned char *at, int name, const char *value) {
    size_t length = strlen(value), size = 0;
    at[size++] = (unsigned char)(name < 15 ? name : 15);
    if (name >= 15)
        at[size++] = (unsigned char)(name - 15);
    at[size++] = (unsigned char)length; /* shorter than 127: checked with the options */
    memcpy(at + size, value, length);
    return size + length;
}

static void h2_open(struct connection *c) {
    static const char preface[] = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    uint32_t window = htonl(STREAM_WINDOW);
    unsigned char settings[12] = {0, 2, 0, 0, 0, 0, 0, 4}; /* ENABLE_PUSH 0, INITIAL_WINDOW_SIZE */
    char authority[80];
    unsigned char request[512] = {0x82, options.tls ? 0x87 : 0x86}; /* GET, the scheme */
    memcpy(settings + 8, &window, 4);
    put(c, preface, sizeof preface - 1);
    h2_frame(c, H2_SETTINGS, 0, 0, settings, sizeof settings);
    h2_grant(c, 0, CONNECTION_WINDOW);
    snprintf(authority, sizeof authority, "%s:%d", options.host, options.port);
    size_t size = 2;
    size += field(request + size, 4, options.path);
    size += field(request + size, 1, authority);
    size += field(request + size, 19, "text/event-stream");
    for (int i = 0; i < options.streams; i++)
        h2_frame(c, H2_HEADERS, 0x5, (uint32_t)(2 * i + 1), request, (uint32_t)size); /* END_STREAM | END_HEADERS */
}

static struct stream *h2_stream(struct connection *c, uint32_t id) {
    return id % 2 && id / 2 < (uint32_t)options.streams ? &c->streams[id / 2] : NULL;
}

/* Whether a header block begins with the indexed field ":status: 200", table size updates aside. */
static int h2_is_200(const unsigned char *at, uint32_t size, int flags) {
    const unsigned char *end = at + size;
    at += (flags & 0x8 ? 1 : 0) + (flags & 0x20 ? 5 : 0);
    while (at < end && (*at & 0xe0) == 0x20) {
        int more = (*at & 0x1f) == 0x1f;
        for (at++; more && at < end; at++)
            more = *at & 0x80;
    }
    return at < end && *at == 0x88;
}

static void h2_control(struct connection *c, int type, int flags, uint32_t id, uint32_t size) {
    struct stream *s = h2_stream(c, id);
    if (type == H2_HEADERS && s && !s->opened)
        stream_opened(c, s, h2_is_200(c->control, size, flags));
    if (type == H2_SETTINGS && !(flags & 1))
        h2_frame(c, H2_SETTINGS, 1, 0, "", 0);
    if (type == H2_PING && !(flags & 1))
        h2_frame(c, H2_PING, 1, 0, c->control, 8);
    if (s && (type == H2_RST || (type <= H2_HEADERS && flags & 1)))
        stream_ended(c, s);
    if (type == H2_GOAWAY)
        hang_up(c);
}

/* One part of a DATA payload; whatever came is granted back before the window is half used. */
static void h2_data(struct connection *c, uint32_t id, const char *at, size_t size) {
    struct stream *s = h2_stream(c, id);
    c->granted += (uint32_t)size;
    if (c->granted > CONNECTION_WINDOW / 8) {
        h2_grant(c, 0, c->granted);
        c->granted = 0;
    }
    if (!s)
        return;
    feed(s, at, size);
    s->granted += (uint32_t)size;
    if (s->granted > STREAM_WINDOW / 4 && !s->ended) {
        h2_grant(c, id, s->granted);
        s->granted = 0;
    }
}

static void h2_read(struct connection *c, const char *at, size_t size) {
    while (size && c->phase != CLOSED) {
        if (c->frame_fill < 9) {
            size_t part = size < 9 - c->frame_fill ? size : 9 - c->frame_fill;
            memcpy(c->frame + c->frame_fill, at, part);
            c->frame_fill += (uint32_t)part;
            at += part;
            size -= part;
            if (c->frame_fill < 9)
                return;
            c->remaining = (uint64_t)c->frame[0] << 16 | (uint64_t)c->frame[1] << 8 | c->frame[2];
            c->control_fill = 0;
            if (c->remaining > CONTROL || (c->frame[3] == H2_DATA && c->frame[4] & 0x8)) {
                fprintf(stderr, "load: a frame of %lu bytes, flags %d: not for us\n", c->remaining, c->frame[4]);
                hang_up(c);
                return;
            }
        }
        uint32_t id = ((uint32_t)c->frame[5] & 0x7f) << 24 | (uint32_t)c->frame[6] << 16 | (uint32_t)c->frame[7] << 8 | c->frame[8];
        size_t part = size < c->remaining ? size : (size_t)c->remaining;
        if (c->frame[3] == H2_DATA) {
            h2_data(c, id, at, part);
        } else {
            memcpy(c->control + c->control_fill, at, part);
            c->control_fill += (uint32_t)part;
        }
        at += part;
        size -= part;
        if ((c->remaining -= part) == 0) {
            c->frame_fill = 0;
            h2_control(c, c->frame[3], c->frame[4], id, c->control_fill);
        }
    }
}

/* ---- one connection's life ------------------------------------------------------------------------------------ */

static void connect_next(void) {
    struct connection *c = &connections[started];
    struct sockaddr_in source = {.sin_family = AF_INET, .sin_port = 0}, server = {.sin_family = AF_INET};
    int one = 1;
    int address = started++ / PER_SOURCE;
    if (address < started % options.sources)
        address = started % options.sources;
    c->streams = calloc((size_t)options.streams, sizeof *c->streams);
    c->control = options.h2 ? malloc(CONTROL) : NULL;
    c->waiting = options.streams;
    opening += options.streams;
    c->begun = now_ns();
    c->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    c->phase = CONNECTING;
    source.sin_addr.s_addr = htonl(INADDR_LOOPBACK + (uint32_t)address);
    server.sin_port = htons((uint16_t)options.port);
    inet_pton(AF_INET, options.host, &server.sin_addr);
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    setsockopt(c->fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &one, sizeof one);
    struct epoll_event wanted = {.events = EPOLLIN | EPOLLOUT, .data.ptr = c};
    if (c->fd < 0 || epoll_ctl(poller, EPOLL_CTL_ADD, c->fd, &wanted) ||
        bind(c->fd, (struct sockaddr *)&source, sizeof source) ||
        (connect(c->fd, (struct sockaddr *)&server, sizeof server) && errno != EINPROGRESS)) {
        perror("load: connect");
        hang_up(c);
    }
}

static void begin(struct connection *c) {
    c->phase = HEAD;
    if (options.h2)
        h2_open(c);
    else
        h1_request(c);
    flush_out(c);
}

static void handshake(struct connection *c) {
    int done = SSL_connect(c->ssl);
    if (done == 1) {
        begin(c);
        return;
    }
    int why = SSL_get_error(c->ssl, done);
    if (why != SSL_ERROR_WANT_READ && why != SSL_ERROR_WANT_WRITE) {
        ERR_print_errors_fp(stderr);
        hang_up(c);
    } else if (why == SSL_ERROR_WANT_READ) {
        watch(c);
    }
}

static void connected(struct connection *c) {
    int error = 0;
    socklen_t size = sizeof error;
    getsockopt(c->fd, SOL_SOCKET, SO_ERROR, &error, &size);
    if (error) {
        hang_up(c);
        return;
    }
    if (!options.tls) {
        begin(c);
        return;
    }
    c->phase = HANDSHAKE;
    c->ssl = SSL_new(tls);
    SSL_set_fd(c->ssl, c->fd);
    handshake(c);
}

static void readable(struct connection *c) {
    for (;;) {
        ssize_t size = c->ssl ? SSL_read(c->ssl, buffer, BUFFER) : recv(c->fd, buffer, BUFFER, 0);
        if (size <= 0) {
            int again = c->ssl ? SSL_get_error(c->ssl, (int)size) == SSL_ERROR_WANT_READ : size < 0 && errno == EAGAIN;
            if (!again)
                hang_up(c);
            return;
        }
        now = now_ns();
        seen.reads++;
        seen.bytes += (uint64_t)size;
        if (options.h2)
            h2_read(c, buffer, (size_t)size);
        else
            h1_read(c, buffer, (size_t)size);
        if (c->phase == CLOSED)
            return;
        if (c->out_size)
            flush_out(c);
        if (!c->ssl)
            return;
    }
}

/* ---- the whole ------------------------------------------------------------------------------------------------ */

static void announce(void) {
    announced = 1;
    opened_ns = now_ns();
    printf("{\"opened\": %d, \"failed\": %d, \"seconds\": %.6f, \"open_ms_median\": %.3f, \"open_ms_max\": %.3f}\n",
           seen.opened, seen.failed, (double)(opened_ns - began) / 1e9, histogram_part(openings, 0.5),
           histogram_part(openings, 1));
    fflush(stdout);
}

static void report(void) {
    struct rusage used;
    uint64_t missing = 0;
    getrusage(RUSAGE_SELF, &used);
    for (int i = 0; i < started; i++)
        for (int k = 0; k < options.streams; k++)
            missing += options.count > connections[i].streams[k].next ? options.count - connections[i].streams[k].next : 0;
    printf("{\"events\": %lu, \"lost\": %lu, \"missing\": %lu, \"duplicated\": %lu, \"out_of_order\": %lu, \"torn\": %lu, "
           "\"comments\": %lu, \"closed\": %d, \"finished\": %d, \"bytes\": %lu, \"reads\": %lu, \"first_ns\": %lu, "
           "\"last_ns\": %lu, \"delay_ms\": {\"median\": %.4f, \"p99\": %.4f, \"max\": %.4f}, \"client_cpu\": %.4f}\n",
           seen.events, seen.lost, missing, seen.duplicated, seen.out_of_order, seen.torn, seen.comments, seen.closed,
           seen.finished, seen.bytes, seen.reads, seen.first_ns, seen.last_ns, histogram_part(delays, 0.5),
           histogram_part(delays, 0.99), (double)seen.max_delay / 1e6,
           (double)(used.ru_utime.tv_sec + used.ru_stime.tv_sec) + (double)(used.ru_utime.tv_usec + used.ru_stime.tv_usec) / 1e6);
}

static int all_done(void) {
    int total = options.connections * options.streams;
    return announced && (stop || seen.closed + seen.failed >= total ||
                         (options.count && seen.finished + seen.closed + seen.failed >= total) ||
                         (double)(now_ns() - opened_ns) > options.timeout * 1e9);
}

static void run(void) {
    struct epoll_event ready[512];
    struct epoll_event input = {.events = EPOLLIN, .data.ptr = NULL};
    epoll_ctl(poller, EPOLL_CTL_ADD, STDIN_FILENO, &input);
    began = now_ns();
    while (!all_done()) {
        while (started < options.connections && opening < options.burst)
            connect_next();
        if (!announced && started == options.connections && (!opening || (double)(now_ns() - began) > options.timeout * 1e9))
            announce();
        int found = epoll_wait(poller, ready, 512, 100);
        for (int i = 0; i < found; i++) {
            struct connection *c = ready[i].data.ptr;
            char byte;
            if (!c)
                stop = read(STDIN_FILENO, &byte, 1) <= 0;
            else if (c->phase == CONNECTING)
                connected(c);
            else if (c->phase == HANDSHAKE)
                handshake(c);
            else if (c->phase != CLOSED) {
                if (ready[i].events & EPOLLOUT)
                    flush_out(c);
                if (ready[i].events & ~(uint32_t)EPOLLOUT)
                    readable(c);
            }
        }
        if (stop && !announced)
            announce();
    }
}

static void on_signal(int number) {
    (void)number;
    stop = 1;
}

static void read_options(int count, char **arguments) {
    static const struct option known[] = {{"host", 1, 0, 'h'}, {"port", 1, 0, 'p'}, {"path", 1, 0, 'u'},
                                          {"connections", 1, 0, 'c'}, {"streams", 1, 0, 's'}, {"count", 1, 0, 'n'},
                                          {"timeout", 1, 0, 't'}, {"burst", 1, 0, 'b'}, {"sources", 1, 0, 'a'},
                                          {"tls", 0, 0, 'T'}, {"h2", 0, 0, '2'}, {0, 0, 0, 0}};
    for (int key; (key = getopt_long(count, arguments, "", known, NULL)) != -1;) {
        if (key == 'h') options.host = optarg;
        else if (key == 'p') options.port = atoi(optarg);
        else if (key == 'u') options.path = optarg;
        else if (key == 'c') options.connections = atoi(optarg);
        else if (key == 's') options.streams = atoi(optarg);
        else if (key == 'n') options.count = strtoull(optarg, NULL, 10);
        else if (key == 't') options.timeout = atof(optarg);
        else if (key == 'b') options.burst = atoi(optarg);
        else if (key == 'a') options.sources = atoi(optarg);
        else if (key == 'T') options.tls = 1;
        else if (key == '2') options.h2 = 1;
        else exit(2);
    }
    if (!options.port || options.connections < 1 || options.streams < 1 || options.burst < 1 || options.sources < 1 ||
        strlen(options.path) > 120 || strlen(options.host) > 60 || (options.streams > 1 && !options.h2)) {
        fprintf(stderr, "usage: load --port P [--host H] [--path /p] [--connections N] [--h2 --streams K] [--tls] [--count EVENTS]\n"
                        "            [--timeout S] [--burst N] [--sources N]\n");
        exit(2);
    }
}

static void prepare_tls(void) {
    static const unsigned char h2[] = "\x02h2", h1[] = "\x08http/1.1";
    tls = SSL_CTX_new(TLS_client_method());
    SSL_CTX_set_verify(tls, SSL_VERIFY_NONE, NULL); /* a certificate of our own making on the loopback */
    SSL_CTX_set_mode(tls, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
    SSL_CTX_set_alpn_protos(tls, options.h2 ? h2 : h1, options.h2 ? sizeof h2 - 1 : sizeof h1 - 1);
}

int main(int count, char **arguments) {
    struct rlimit files;
    read_options(count, arguments);
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
    signal(SIGTERM, on_signal);
    signal(SIGINT, on_signal);
    signal(SIGPIPE, SIG_IGN);
    if (options.tls)
        prepare_tls();
    connections = calloc((size_t)options.connections, sizeof *connections);
    poller = epoll_create1(EPOLL_CLOEXEC);
    run();
    report();
    return seen.failed ? 1 : 0;
}

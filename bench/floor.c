/* The floor: what the kernel and librabbitmq cost, and nothing else.
 *
 * usage: floor PORT RABBIT_PORT [--join] [--heartbeat S]
 *
 * One thread. A message from RabbitMQ becomes one HTTP/1.1 chunk, and a bare loop sends it to every socket that has
 * asked for anything; no routing, no limits, no request parsing. A full socket is waited for (nothing is lost, everybody
 * waits): a product may not do that, a floor may. `--join` sends what lay in the AMQP buffer together with one call.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "listen.h"
#include "rabbit.h"

enum { FILES = 1 << 16, ROOM = 1 << 17, READER_PATIENCE_MS = 5000 };

static const char head[] = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\n"
                           "Cache-Control: no-cache, no-transform\r\nTransfer-Encoding: chunked\r\n\r\n3\r\n:\n\n\r\n";
static int readers[FILES], reader_at[FILES], reader_count; /* the open streams; where each descriptor stands there */
static char block[ROOM];
static size_t block_size;
static int poller, join;

static void drop(int reader) {
    int last = readers[--reader_count];
    readers[reader_at[reader]] = last;
    reader_at[last] = reader_at[reader];
    reader_at[reader] = -1;
    close(reader);
}

/* Send all of it, waiting where the socket is full. 0 when the reader is gone or sleeps. */
static int send_whole(int reader, const char *at, size_t size) {
    for (;;) {
        ssize_t sent = send(reader, at, size, MSG_DONTWAIT | MSG_NOSIGNAL);
        if (sent == (ssize_t)size)
            return 1;
        if (sent < 0 && errno != EAGAIN)
            return 0;
        if (sent > 0) {
            at += sent;
            size -= (size_t)sent;
        }
        struct pollfd wanted = {.fd = reader, .events = POLLOUT};
        if (poll(&wanted, 1, READER_PATIENCE_MS) != 1)
            return 0;
    }
}

static void send_to_all(const char *at, size_t size) {
    for (int i = reader_count; i--;)
        if (!send_whole(readers[i], at, size))
            drop(readers[i]);
}

static void add_chunk(const amqp_bytes_t *body) {
    block_size += (size_t)sprintf(block + block_size, "%zx\r\ndata: ", body->len + 8);
    memcpy(block + block_size, body->bytes, body->len);
    block_size += body->len;
    memcpy(block + block_size, "\n\n\r\n", 4);
    block_size += 4;
}

static void take_messages(amqp_connection_state_t rabbit) {
    struct timeval at_once = {0, 0};
    do {
        amqp_envelope_t envelope;
        amqp_maybe_release_buffers(rabbit);
        amqp_rpc_reply_t reply = amqp_consume_message(rabbit, &envelope, &at_once, 0);
        if (reply.reply_type == AMQP_RESPONSE_LIBRARY_EXCEPTION && reply.library_error == AMQP_STATUS_TIMEOUT)
            break;
        rabbit_must(reply, "consume");
        add_chunk(&envelope.message.body);
        amqp_destroy_envelope(&envelope);
        if (!join || block_size > ROOM / 2) {
            send_to_all(block, block_size);
            block_size = 0;
        }
    } while (amqp_frames_enqueued(rabbit) || amqp_data_in_buffer(rabbit));
    if (block_size)
        send_to_all(block, block_size);
    block_size = 0;
}

static void accept_all(int listener) {
    for (int reader, one = 1; (reader = accept4(listener, NULL, NULL, SOCK_NONBLOCK)) >= 0;) {
        struct epoll_event wanted = {.events = EPOLLIN, .data.fd = reader};
        setsockopt(reader, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        reader_at[reader] = -1;
        epoll_ctl(poller, EPOLL_CTL_ADD, reader, &wanted);
    }
}

/* The first bytes of a connection open its stream; its end closes it; all else is ignored. */
static void hear(int reader) {
    char request[4096];
    ssize_t size = recv(reader, request, sizeof request, 0);
    if (size <= 0) {
        if (reader_at[reader] >= 0)
            drop(reader);
        else
            close(reader);
    } else if (reader_at[reader] < 0) {
        reader_at[reader] = reader_count;
        readers[reader_count++] = reader;
        send_whole(reader, head, sizeof head - 1);
    }
}

static amqp_connection_state_t subscribe(int port) {
    amqp_connection_state_t rabbit = rabbit_open(port);
    amqp_queue_declare_ok_t *queue = amqp_queue_declare(rabbit, 1, amqp_empty_bytes, 0, 0, 1, 1, amqp_empty_table);
    rabbit_must(amqp_get_rpc_reply(rabbit), "queue");
    amqp_bytes_t name = amqp_bytes_malloc_dup(queue->queue);
    amqp_queue_bind(rabbit, 1, name, amqp_cstring_bytes(EXCHANGE), amqp_cstring_bytes("#"), amqp_empty_table);
    rabbit_must(amqp_get_rpc_reply(rabbit), "bind");
    amqp_basic_consume(rabbit, 1, name, amqp_empty_bytes, 0, 1, 1, amqp_empty_table);
    rabbit_must(amqp_get_rpc_reply(rabbit), "consume");
    return rabbit;
}

static void serve(int listener, amqp_connection_state_t rabbit, int heartbeat) {
    struct epoll_event ready[512], wanted = {.events = EPOLLIN, .data.fd = listener};
    int broker = amqp_get_sockfd(rabbit);
    time_t last = time(NULL);
    epoll_ctl(poller, EPOLL_CTL_ADD, listener, &wanted);
    wanted.data.fd = broker;
    epoll_ctl(poller, EPOLL_CTL_ADD, broker, &wanted);
    for (;;) {
        int found = epoll_wait(poller, ready, 512, heartbeat ? 1000 : -1);
        for (int i = 0; i < found; i++) {
            int fd = ready[i].data.fd;
            if (fd == broker)
                take_messages(rabbit);
            else if (fd == listener)
                accept_all(listener);
            else
                hear(fd);
        }
        if (heartbeat && time(NULL) - last >= heartbeat) {
            send_to_all("3\r\n:\n\n\r\n", 8);
            last = time(NULL);
        }
    }
}

int main(int count, char **arguments) {
    struct rlimit files;
    int heartbeat = 0;
    if (count < 3) {
        fprintf(stderr, "usage: floor PORT RABBIT_PORT [--join] [--heartbeat S]\n");
        return 2;
    }
    for (int i = 3; i < count; i++) {
        if (!strcmp(arguments[i], "--join"))
            join = 1;
        else if (!strcmp(arguments[i], "--heartbeat") && i + 1 < count)
            heartbeat = atoi(arguments[++i]);
    }
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max < FILES ? files.rlim_max : FILES;
    setrlimit(RLIMIT_NOFILE, &files);
    poller = epoll_create1(0);
    amqp_connection_state_t rabbit = subscribe(atoi(arguments[2]));
    serve(listen_on(atoi(arguments[1])), rabbit, heartbeat);
}

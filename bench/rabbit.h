/* A connection to RabbitMQ by librabbitmq, as both the publisher and the floor need it; dies with a word on an error. */
#ifndef RABBIT_H
#define RABBIT_H

#include <amqp.h>
#include <amqp_tcp_socket.h>
#include <stdio.h>
#include <stdlib.h>

#define EXCHANGE "bench"

static inline void rabbit_must(amqp_rpc_reply_t reply, const char *what) {
    if (reply.reply_type == AMQP_RESPONSE_NORMAL)
        return;
    fprintf(stderr, "%s: %s\n", what,
            reply.reply_type == AMQP_RESPONSE_LIBRARY_EXCEPTION ? amqp_error_string2(reply.library_error)
                                                                : "the broker refused");
    exit(1);
}

/* Connect to 127.0.0.1:`port` as guest, open channel 1 and declare the topic exchange. */
static inline amqp_connection_state_t rabbit_open(int port) {
    amqp_connection_state_t rabbit = amqp_new_connection();
    amqp_socket_t *socket = amqp_tcp_socket_new(rabbit);
    if (amqp_socket_open(socket, "127.0.0.1", port)) {
        fprintf(stderr, "no RabbitMQ on port %d\n", port);
        exit(1);
    }
    rabbit_must(amqp_login(rabbit, "/", 0, 131072, 0, AMQP_SASL_METHOD_PLAIN, "guest", "guest"), "login");
    amqp_channel_open(rabbit, 1);
    rabbit_must(amqp_get_rpc_reply(rabbit), "channel");
    amqp_exchange_declare(rabbit, 1, amqp_cstring_bytes(EXCHANGE), amqp_cstring_bytes("topic"), 0, 1, 0, 0,
                          amqp_empty_table);
    rabbit_must(amqp_get_rpc_reply(rabbit), "exchange");
    return rabbit;
}

#endif

// What the two Node.js peers share: the listener (HTTP/1.1 or HTTP/2, plain or TLS) and the queue in RabbitMQ.
import { readFileSync } from "node:fs";
import http from "node:http";
import http2 from "node:http2";
import https from "node:https";
import amqp from "amqplib";

const { PORT, AMQP_URL, H2, TLS_CERTIFICATE, TLS_KEY } = process.env;

function server(handler) {
  const tls = TLS_CERTIFICATE && { cert: readFileSync(TLS_CERTIFICATE), key: readFileSync(TLS_KEY) };
  if (H2) return tls ? http2.createSecureServer(tls, handler) : http2.createServer(handler);
  return tls ? https.createServer(tls, handler) : http.createServer(handler);
}

export async function serve(handler, onMessage) {
  const connection = await amqp.connect(AMQP_URL);
  const channel = await connection.createChannel();
  await channel.assertExchange("bench", "topic", { durable: true });
  const { queue } = await channel.assertQueue("", { exclusive: true });
  await channel.bindQueue(queue, "bench", "#");
  await channel.consume(queue, onMessage, { noAck: true });
  server(handler).listen({ port: Number(PORT), host: "127.0.0.1", backlog: 4096 });
}

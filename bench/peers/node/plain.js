// Node.js' peer: http and amqplib, plain writes to every open response.
import { serve } from "./serve.js";

const clients = new Set();

function onRequest(request, response) {
  response.writeHead(200, { "Content-Type": "text/event-stream; charset=utf-8", "Cache-Control": "no-cache, no-transform" });
  response.write(":\n\n");
  const heartbeat = setInterval(() => response.write(":\n\n"), 15_000);
  clients.add(response);
  response.on("close", () => {
    clearInterval(heartbeat);
    clients.delete(response);
  });
}

function onMessage(message) {
  const block = Buffer.from(`data: ${message.content}\n\n`);
  for (const response of clients) response.write(block);
}

await serve(onRequest, onMessage);

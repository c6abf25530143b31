// better-sse's peer: a session for each client in one channel, as its documentation shows it. The data is a text
// already, so it is not serialised again.
import { createChannel, createSession } from "better-sse";
import { serve } from "./serve.js";

const channel = createChannel();

async function onRequest(request, response) {
  channel.register(await createSession(request, response, { serializer: (data) => data, keepAlive: 15_000 }));
}

await serve(onRequest, (message) => channel.broadcast(message.content.toString(), "message"));

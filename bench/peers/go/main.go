// Go's peer: net/http and amqp091-go, a buffered channel for each client. What has gathered in the channel is written
// together before the flush, as a careful author would; a full channel is waited for, so that no event is lost.
package main

import (
	"log"
	"net"
	"net/http"
	"os"
	"sync"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
)

type hub struct {
	sync.RWMutex
	clients map[chan []byte]struct{}
}

func (h *hub) add(client chan []byte) {
	h.Lock()
	h.clients[client] = struct{}{}
	h.Unlock()
}

// remove takes the client out, draining its channel so that a broadcast that waits for it goes on.
func (h *hub) remove(client chan []byte) {
	done := make(chan struct{})
	go func() {
		for {
			select {
			case <-client:
			case <-done:
				return
			}
		}
	}()
	h.Lock()
	delete(h.clients, client)
	h.Unlock()
	close(done)
}

func (h *hub) broadcast(block []byte) {
	h.RLock()
	defer h.RUnlock()
	for client := range h.clients {
		client <- block
	}
}

func (h *hub) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	flusher := w.(http.Flusher)
	w.Header().Set("Content-Type", "text/event-stream; charset=utf-8")
	w.Header().Set("Cache-Control", "no-cache, no-transform")
	w.Write([]byte(":\n\n"))
	client := make(chan []byte, 64)
	h.add(client)
	defer h.remove(client)
	flusher.Flush()
	heartbeat := time.NewTicker(15 * time.Second)
	defer heartbeat.Stop()
	for {
		select {
		case <-r.Context().Done():
			return
		case <-heartbeat.C:
			w.Write([]byte(":\n\n"))
		case block := <-client:
			w.Write(block)
			for more := len(client); more > 0; more-- {
				w.Write(<-client)
			}
		}
		flusher.Flush()
	}
}

func must[T any](value T, err error) T {
	if err != nil {
		log.Fatal(err)
	}
	return value
}

func consume(h *hub) {
	connection := must(amqp.Dial(os.Getenv("AMQP_URL")))
	channel := must(connection.Channel())
	if err := channel.ExchangeDeclare("bench", "topic", true, false, false, false, nil); err != nil {
		log.Fatal(err)
	}
	queue := must(channel.QueueDeclare("", false, true, true, false, nil))
	if err := channel.QueueBind(queue.Name, "#", "bench", false, nil); err != nil {
		log.Fatal(err)
	}
	deliveries := must(channel.Consume(queue.Name, "", true, true, false, false, nil))
	go func() {
		for delivery := range deliveries {
			h.broadcast([]byte("data: " + string(delivery.Body) + "\n\n"))
		}
	}()
}

func main() {
	h := &hub{clients: map[chan []byte]struct{}{}}
	consume(h)
	mux := http.NewServeMux()
	mux.Handle("/events", h)
	server := &http.Server{Handler: mux, Protocols: new(http.Protocols)}
	server.Protocols.SetHTTP1(true)
	server.Protocols.SetHTTP2(true)
	server.Protocols.SetUnencryptedHTTP2(true)
	listener := must(net.Listen("tcp", "127.0.0.1:"+os.Getenv("PORT")))
	if certificate := os.Getenv("TLS_CERTIFICATE"); certificate != "" {
		log.Fatal(server.ServeTLS(listener, certificate, os.Getenv("TLS_KEY")))
	}
	log.Fatal(server.Serve(listener))
}

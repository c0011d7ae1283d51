// Command gateway is the shop's front door: a plain HTTP server on loopback
// that knows nothing of Ashlar. It fetches pages from the web service.
package main

import (
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net/http"
	"os"
	"time"
)

func main() {
	web := os.Getenv("WEB_URL")
	client := &http.Client{Timeout: 5 * time.Second}
	fetch := func(w http.ResponseWriter, path string) {
		resp, err := client.Get(web + path)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadGateway)
			return
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadGateway)
			return
		}
		if resp.StatusCode != http.StatusOK {
			http.Error(w, string(body), resp.StatusCode)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		json.NewEncoder(w).Encode(map[string]any{"service": "gateway", "language": "Go", "web": json.RawMessage(body)})
	}
	http.HandleFunc("GET /{$}", func(w http.ResponseWriter, _ *http.Request) { fetch(w, "/page") })
	http.HandleFunc("GET /admin", func(w http.ResponseWriter, _ *http.Request) { fetch(w, "/admin") })
	http.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	server := &http.Server{Addr: "127.0.0.1:8080", ReadHeaderTimeout: 5 * time.Second}
	log.Fatal(server.ListenAndServe())
}

package main

import (
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"time"

	"github.com/keyway-edge/keyway/edge/handover"
)

// maxEcho is how much of a request body the echo answers with.
const maxEcho = 64 << 10

// answerEcho is the built-in upstream of development mode: it answers with what it got.
func answerEcho(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(io.LimitReader(r.Body, maxEcho))
	if err != nil {
		http.Error(w, "the request body broke off", http.StatusBadRequest)
		return
	}
	out, err := json.MarshalIndent(map[string]any{
		"message": "hello from the upstream", "method": r.Method, "path": r.URL.Path, "query": r.URL.RawQuery,
		"host": r.Host, "headers": r.Header, "body": string(body),
	}, "", "  ")
	if err != nil {
		http.Error(w, "rendering the echo failed", http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(append(out, '\n'))
}

// serveHTTP serves a small internal endpoint until ctx ends. It is not the data plane.
// prepare, nil for nothing, has a say in the server before it serves.
func serveHTTP(ctx context.Context, l net.Listener, h http.Handler, prepare func(*http.Server)) error {
	srv := &http.Server{
		Handler: h, ReadHeaderTimeout: 10 * time.Second, ReadTimeout: 30 * time.Second,
		WriteTimeout: time.Minute, IdleTimeout: 75 * time.Second, MaxHeaderBytes: 32 << 10,
	}
	if prepare != nil {
		prepare(srv)
	}
	// Requests in flight here are short; what is left after a second is cut.
	return handover.ServeHTTP(ctx, srv, l, time.Second)
}

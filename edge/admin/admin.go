// Package admin serves the node's facts to people and tools: the read side of the
// admin listener and the manager page. It knows documents and nothing of the data
// path, which it therefore cannot harm.
package admin

import (
	"encoding/json"
	"html/template"
	"net/http"
	"os"

	"github.com/keyway-edge/keyway/routing/spec"
)

// Facts is what GET / answers about the node.
type Facts struct {
	Tagline  string
	Version  string
	NodeID   string
	Plugins  map[string]bool // known to this build
	Document *spec.Document  // in force, nil before the first
}

// Handler serves GET / and, through status, /status and /metrics, and the health of
// targets, nil for none. Writing is not possible: documents are changed where they
// come from. The health of a target is no document, and may be set.
func Handler(facts func() Facts, status http.Handler, targets Targets) http.Handler {
	mux := http.NewServeMux()
	if targets != nil {
		(&health{facts, targets}).register(mux)
	}
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, _ *http.Request) { answer(w, http.StatusOK, root(facts())) })
	mux.Handle("GET /status", status)
	mux.Handle("GET /status/live", status)
	mux.Handle("GET /status/ready", status)
	mux.Handle("GET /metrics", status)
	mux.HandleFunc("GET /", func(w http.ResponseWriter, _ *http.Request) {
		answer(w, http.StatusNotFound, map[string]string{"message": "Not found"})
	})
	mux.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Allow", "GET, HEAD") // RFC 9110, section 15.5.6
		answer(w, http.StatusMethodNotAllowed, map[string]any{
			"code": 12, "name": "operation unsupported", "message": "documents are read from files on this node: change the file, it is picked up at once",
		})
	})
	return http.NewCrossOriginProtection().Handler(mux)
}

func root(f Facts) map[string]any {
	host, err := os.Hostname()
	if err != nil {
		host = ""
	}
	enabled := map[string]bool{}
	if f.Document != nil {
		for _, p := range f.Document.Plugins {
			if p.Enabled {
				enabled[p.Name] = true
			}
		}
	}
	return map[string]any{
		"tagline": f.Tagline, "version": f.Version, "node_id": f.NodeID, "hostname": host, "edition": "community",
		"plugins":       map[string]any{"available_on_server": f.Plugins, "enabled_in_cluster": enabled},
		"configuration": map[string]any{"database": "off", "router_flavor": "traditional_compatible"},
	}
}

func answer(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	_ = e.Encode(v)
}

var page = template.Must(template.New("page").Parse(`<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Keyway</title>
<style>body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}pre{background:#f4f4f4;padding:1rem;overflow:auto}</style>
</head><body><h1>Keyway</h1><p>State of this node. The commands <code>keyway certs list</code>, <code>keyway secrets list</code> and
<code>keyway explain</code> tell more.</p><pre>{{.}}</pre></body></html>
`))

// Page serves one page with the node's status, for a browser on this machine.
func Page(status func() any) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, _ *http.Request) {
		text, err := json.MarshalIndent(status(), "", "  ")
		if err != nil {
			http.Error(w, "rendering the status failed", http.StatusInternalServerError)
			return
		}
		h := w.Header()
		h.Set("Content-Type", "text/html; charset=utf-8")
		h.Set("Cache-Control", "no-store")
		h.Set("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'")
		h.Set("X-Content-Type-Options", "nosniff")
		_ = page.Execute(w, string(text))
	})
	return mux
}

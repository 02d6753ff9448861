package telemetry

import (
	"encoding/json"
	"net/http"
	"os"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/keyway-edge/keyway/certs"
	"github.com/keyway-edge/keyway/edge"
	"github.com/keyway-edge/keyway/routing/spec"
	"github.com/keyway-edge/keyway/secrets"
)

// Status is what GET /status answers.
type Status struct {
	Version    string    `json:"version"`
	NodeID     string    `json:"node_id"`
	Pid        int       `json:"pid"`
	Started    time.Time `json:"started"`
	Ready      bool      `json:"ready"`
	NotReady   []string  `json:"not_ready,omitempty"` // reasons
	Remarks    []string  `json:"remarks,omitempty"`   // what to know of a node that is ready all the same
	Generation uint64    `json:"generation"`
	Built      time.Time `json:"built"`
	Counts     Counts    `json:"counts"`
	Problems   []Problem `json:"problems"`
	Expiring   []Expiry  `json:"expiring"` // certificates in use that end within 30 days
	Sources    []Source  `json:"sources,omitempty"`
	// Listeners are those that documents declare.
	Listeners []edge.ListenerState `json:"listeners,omitempty"`
}

// Source is one place where credentials come from.
type Source struct {
	Name      string    `json:"name"`
	State     string    `json:"state"` // ok, away
	Since     time.Time `json:"since,omitzero"`
	LastGood  time.Time `json:"last_good,omitzero"`
	NextProbe time.Time `json:"next_probe,omitzero"` // while it is away
	Waiting   int       `json:"waiting,omitempty"`   // credentials that wait for it to be back
	Looks     uint64    `json:"looks"`
	Failures  uint64    `json:"failures"`
	Reason    string    `json:"reason,omitempty"`
}

// Counts are the sizes of the snapshot in force.
type Counts struct {
	Services     int `json:"services"`
	Routes       int `json:"routes"`
	Upstreams    int `json:"upstreams"`
	Consumers    int `json:"consumers"`
	Plugins      int `json:"plugins"`
	Certificates int `json:"certificates"`
	Credentials  int `json:"credentials"`
}

// Problem is one object that is quarantined or served with a remark, or one
// fault of a document that was not taken.
type Problem struct {
	Where   string `json:"where,omitempty"` // file:line
	Entity  string `json:"entity,omitempty"`
	Name    string `json:"name,omitempty"`
	ID      string `json:"id,omitempty"`
	Field   string `json:"field,omitempty"`
	Reason  string `json:"reason"`
	Message string `json:"message"`
}

// Expiry is one certificate that ends soon.
type Expiry struct {
	Certificate string    `json:"certificate"`
	NotAfter    time.Time `json:"not_after"`
}

// Health answers what keeps the node from being ready, nothing when it is ready,
// the faults of documents that were not taken, and what else to know.
type Health interface {
	NotReady() []string
	Rejected() []Problem
	Remarks() []string
}

// Status answers the node's status.
func (t *Telemetry) Status(h Health) Status {
	st := Status{
		Version: t.opts.Version, NodeID: t.opts.NodeID, Pid: os.Getpid(), Started: t.started,
		NotReady: h.NotReady(), Remarks: h.Remarks(), Problems: h.Rejected(), Expiring: []Expiry{},
	}
	st.Ready = len(st.NotReady) == 0
	if st.Problems == nil {
		st.Problems = []Problem{}
	}
	if t.opts.Broker != nil {
		st.Sources = sourceList(t.opts.Broker())
	}
	if t.opts.Listeners != nil {
		st.Listeners = t.opts.Listeners().States
	}
	s := t.opts.Current()
	if s == nil {
		return st
	}
	d := s.Document
	st.Generation, st.Built = s.Generation, s.Built
	st.Counts = Counts{len(d.Services), len(d.Routes), len(d.Upstreams), len(d.Consumers), len(d.Plugins), len(d.Certificates), s.Set.Len()}
	for _, p := range s.Problems {
		st.Problems = append(st.Problems, ProblemOf(p))
	}
	s.Slots(func(_ string, slot *certs.Slot) bool {
		for _, b := range slot.Active {
			if time.Until(b.NotAfter) < 30*24*time.Hour {
				st.Expiring = append(st.Expiring, Expiry{slot.Name, b.NotAfter})
			}
		}
		return true
	})
	return st
}

func sourceList(b secrets.Stats) []Source {
	list := make([]Source, 0, len(b.Sources))
	for _, s := range b.Sources {
		x := Source{Name: s.Name, State: "ok", LastGood: s.LastGood, Looks: s.Fetches, Failures: s.Failures}
		if s.Away {
			x.State, x.Since, x.NextProbe, x.Waiting, x.Reason = "away", s.AwaySince, s.NextProbe, s.Parked, s.LastError
		}
		list = append(list, x)
	}
	return list
}

// StatusHandler serves /status, /status/live, /status/ready and /metrics.
func (t *Telemetry) StatusHandler(h Health) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /status", func(w http.ResponseWriter, _ *http.Request) {
		answer(w, http.StatusOK, t.Status(h))
	})
	mux.HandleFunc("GET /status/live", func(w http.ResponseWriter, _ *http.Request) { // costs nothing, whatever is served
		answer(w, http.StatusOK, map[string]any{"message": "alive"})
	})
	mux.HandleFunc("GET /status/ready", func(w http.ResponseWriter, _ *http.Request) {
		if why := h.NotReady(); len(why) > 0 {
			answer(w, http.StatusServiceUnavailable, map[string]any{"message": why[0], "reasons": why})
			return
		}
		answer(w, http.StatusOK, map[string]any{"message": "ready"})
	})
	mux.Handle("GET /metrics", promhttp.HandlerFor(t.registry, promhttp.HandlerOpts{ErrorHandling: promhttp.ContinueOnError}))
	mux.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) {
		answer(w, http.StatusNotFound, map[string]any{"message": "Not found"})
	})
	return mux
}

// answer writes a JSON answer that nobody may cache.
func answer(w http.ResponseWriter, status int, v any) {
	body, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		http.Error(w, "rendering the answer failed", http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_, _ = w.Write(append(body, '\n'))
}

// ProblemOf renders a problem of a document.
func ProblemOf(p *spec.Problem) Problem {
	out := Problem{Entity: p.Entity, Name: p.Name, ID: p.ID, Field: p.Field, Reason: string(p.Reason), Message: p.Message}
	if p.Pos.File != "" {
		out.Where = p.Pos.File + ":" + strconv.Itoa(p.Pos.Line)
	}
	return out
}

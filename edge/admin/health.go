package admin

import (
	"net"
	"net/http"
	"strconv"
	"strings"

	"github.com/keyway-edge/keyway/routing/spec"
)

// Targets is the health of the node's targets, as the data path sees it.
type Targets interface {
	// Overview answers the health of an upstream by its id.
	Overview(upstreamID string) (Overview, bool)
	// Mark sets the health of a target, host:port, by order, or of one of its addresses
	// if that is not ""; false without such a target.
	Mark(upstreamID, target, address string, healthy bool) bool
}

// Overview is the health of one upstream.
type Overview struct {
	Serving   bool                 // requests find a target
	Checked   bool                 // something judges its targets
	Addresses map[string][]Address // by the target's host:port
}

// Address is one address of a target.
type Address struct {
	IP     string // "" where the name has none
	Port   int
	Weight int
	State  string // HEALTHY, UNHEALTHY, HEALTHCHECKS_OFF, DNS_ERROR
}

// available says whether it gets traffic.
func (a *Address) available() bool { return a.State == "HEALTHY" || a.State == "HEALTHCHECKS_OFF" }

// health serves /upstreams/{upstream}/health and the orders about targets.
type health struct {
	facts   func() Facts
	targets Targets
}

func (h *health) register(mux *http.ServeMux) {
	mux.HandleFunc("GET /upstreams/{upstream}/health", h.show)
	mux.HandleFunc("PUT /upstreams/{upstream}/targets/{target}/{order}", h.mark)
	mux.HandleFunc("PUT /upstreams/{upstream}/targets/{target}/{address}/{order}", h.mark)
}

// upstream finds an upstream of the document in force by id or name.
func (h *health) upstream(r *http.Request) (*spec.Document, *spec.Upstream) {
	d, key := h.facts().Document, r.PathValue("upstream")
	if d == nil {
		return nil, nil
	}
	for _, u := range d.Upstreams {
		if u.ID == key || u.Name == key {
			return d, u
		}
	}
	return nil, nil
}

func notFound(w http.ResponseWriter) {
	answer(w, http.StatusNotFound, map[string]string{"message": "Not found"})
}

// show answers the health of an upstream: of each target, or with balancer_health=1 of
// the whole.
func (h *health) show(w http.ResponseWriter, r *http.Request) {
	d, u := h.upstream(r)
	if u == nil {
		notFound(w)
		return
	}
	o, ok := h.targets.Overview(u.ID)
	if !ok {
		notFound(w)
		return
	}
	node := h.facts().NodeID
	if r.URL.Query().Get("balancer_health") == "1" {
		answer(w, http.StatusOK, map[string]any{"data": o.whole(d, u), "next": nil, "node_id": node})
		return
	}
	data := []any{}
	for _, t := range d.Targets {
		if t.Upstream == u.ID {
			data = append(data, o.target(t))
		}
	}
	answer(w, http.StatusOK, map[string]any{"data": data, "next": nil, "node_id": node})
}

// split reads a target as documents write it.
func split(target string) (host string, port int) {
	host, digits, err := net.SplitHostPort(target)
	if err != nil {
		return strings.Trim(target, "[]"), 8000
	}
	port, _ = strconv.Atoi(digits) // the document was judged
	return host, port
}

// weights sums what is and what is not available.
func weights(list []Address) map[string]int {
	w := map[string]int{"total": 0, "available": 0, "unavailable": 0}
	for i := range list {
		w["total"] += list[i].Weight
		if list[i].available() {
			w["available"] += list[i].Weight
		} else {
			w["unavailable"] += list[i].Weight
		}
	}
	return w
}

// host is what both forms say of a target, and its addresses.
func (o *Overview) host(t *spec.Target) (map[string]any, []Address) {
	host, port := split(t.Target)
	list := o.Addresses[net.JoinHostPort(host, strconv.Itoa(port))]
	return map[string]any{"host": host, "port": port, "dns": "A", "nodeWeight": t.Weight, "weight": weights(list)}, list
}

// target is one target of the list.
func (o *Overview) target(t *spec.Target) map[string]any {
	data, list := o.host(t)
	state := "DNS_ERROR"
	addresses := []any{}
	for i := range list {
		a := &list[i]
		if state != "HEALTHY" { // one good address is enough
			state = a.State
		}
		if a.IP != "" {
			addresses = append(addresses, map[string]any{"ip": a.IP, "port": a.Port, "weight": a.Weight, "health": a.State})
		}
	}
	data["addresses"] = addresses
	var tags any
	if len(t.Tags) > 0 {
		tags = t.Tags
	}
	return map[string]any{
		"id": t.ID, "target": t.Target, "weight": t.Weight, "tags": tags, "upstream": map[string]string{"id": t.Upstream},
		"created_at": float64(t.CreatedMilli) / 1000, "updated_at": float64(t.UpdatedMilli) / 1000, "health": state, "data": data,
	}
}

// whole is the health of an upstream.
func (o *Overview) whole(d *spec.Document, u *spec.Upstream) map[string]any {
	state := "UNHEALTHY"
	switch {
	case !o.Checked:
		state = "HEALTHCHECKS_OFF"
	case o.Serving:
		state = "HEALTHY"
	}
	hosts := []any{}
	var all []Address
	for _, t := range d.Targets {
		if t.Upstream != u.ID {
			continue
		}
		data, list := o.host(t)
		addresses := []any{}
		for i := range list {
			a := &list[i]
			addresses = append(addresses, map[string]any{"ip": a.IP, "port": a.Port, "weight": a.Weight, "healthy": a.available()})
		}
		data["addresses"] = addresses
		hosts = append(hosts, data)
		all = append(all, list...)
	}
	return map[string]any{
		"id": u.ID, "health": state, "balancer_health": state,
		"details": map[string]any{"healthy": o.Serving, "weight": weights(all), "hosts": hosts},
	}
}

// mark takes the orders healthy and unhealthy about a target, named by its id or as
// the document writes it, or about one of its addresses.
func (h *health) mark(w http.ResponseWriter, r *http.Request) {
	d, u := h.upstream(r)
	order := r.PathValue("order")
	if u == nil || order != "healthy" && order != "unhealthy" {
		notFound(w)
		return
	}
	key := r.PathValue("target")
	for _, t := range d.Targets {
		if t.Upstream == u.ID && (t.ID == key || t.Target == key) {
			if h.targets.Mark(u.ID, t.Target, r.PathValue("address"), order == "healthy") {
				w.WriteHeader(http.StatusNoContent)
				return
			}
		}
	}
	notFound(w)
}

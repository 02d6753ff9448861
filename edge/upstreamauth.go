package edge

import (
	"context"
	"encoding/base64"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/keyway-edge/keyway/certs"
	"github.com/keyway-edge/keyway/edge/exchange"
	"github.com/keyway-edge/keyway/edge/sigv4"
	"github.com/keyway-edge/keyway/routing/spec"
	"github.com/keyway-edge/keyway/secrets"
)

// upstreamAuth is a service's credential, ready to be put into requests. Its values
// are in functions only: nothing that prints a snapshot can print them.
type upstreamAuth struct {
	service string
	header  string                // that it is sent in, "" for none; what a client sent there is dropped
	value   func() string         // of the header
	query   func(q string) string // the query with the credential in place
	signer  *sigv4.Signer         // for signed requests
	stream  bool                  // the body may be sent unsigned
	refresh []int                 // answers that cast doubt on the credential
	used    []*secrets.Credential // what it is made of, none for literals
	closed  *spec.Problem         // why it cannot be used: the service's routes are closed
}

// auths compiles the credential of every service that has one.
func (w *build) auths() {
	w.next.auths = make(map[string]*upstreamAuth)
	w.next.pairs = make(map[string]*certs.Bundle)
	for _, s := range w.in.Document.Services {
		if s.UpstreamAuth == nil {
			continue
		}
		a := w.auth(s)
		w.next.auths[s.ID] = a
		if a.closed != nil {
			w.problem(a.closed)
		}
	}
}

func (w *build) auth(s *spec.Service) *upstreamAuth {
	conf := s.UpstreamAuth
	a := &upstreamAuth{service: s.ID, refresh: conf.RefreshOn}
	get := func(field string, v spec.Secret) string {
		if a.closed != nil || v.IsZero() {
			return ""
		}
		field = "x_keyway_upstream_auth." + field
		value, c, why := w.permitted(v, s, field)
		if why == "" && strings.ContainsAny(string(value.Reveal()), "\r\n\x00") && conf.Type != "client_certificate" {
			why = "the value has a line break or a zero byte, which no request can carry"
		}
		if why != "" {
			a.closed = &spec.Problem{Pos: s.Pos, Entity: "services", ID: s.ID, Name: s.Name, Field: field, Reason: spec.ReasonCredential, Message: why}
			return ""
		}
		if c != nil {
			a.used = append(a.used, c)
		}
		return string(value.Reveal())
	}
	constant := func(text string) func() string { return func() string { return text } }
	switch conf.Type {
	case "header":
		a.header, a.value = conf.Name, constant(get("value", conf.Value))
	case "bearer":
		a.header, a.value = "Authorization", constant("Bearer "+get("value", conf.Value))
	case "basic":
		user := get("username", conf.Username)
		a.header, a.value = "Authorization", constant("Basic "+base64.StdEncoding.EncodeToString([]byte(user+":"+get("password", conf.Password))))
	case "query":
		name, value := url.QueryEscape(conf.Name), url.QueryEscape(get("value", conf.Value))
		a.query = func(q string) string { return withArgument(q, name, value) }
	case "aws_sigv4":
		a.header = "Authorization"
		a.signer = sigv4.New(sigv4.Credential{
			AccessKeyID: get("access_key_id", conf.AccessKeyID), SecretAccessKey: get("secret_access_key", conf.SecretAccessKey), SessionToken: get("session_token", conf.SessionToken),
		}, conf.Region, conf.ServiceName)
		a.stream = conf.ServiceName == "s3"
	case "client_certificate":
		w.authPair(s, a, certs.Pair{Cert: secrets.NewValue([]byte(get("cert", conf.Cert))), Key: secrets.NewValue([]byte(get("key", conf.Key)))})
	}
	return a
}

// authPair checks the pair that a service shows to its upstream. One that is bad
// leaves the one in use before, which is told like every refusal.
func (w *build) authPair(s *spec.Service, a *upstreamAuth, pair certs.Pair) {
	if a.closed != nil {
		return
	}
	bundle, refusal := certs.ParseBundle(pair)
	if refusal == nil {
		w.next.pairs[s.ID] = bundle
		return
	}
	p := &spec.Problem{Pos: s.Pos, Entity: "services", ID: s.ID, Name: s.Name, Field: "x_keyway_upstream_auth.cert", Reason: spec.ReasonCredential, Message: refusal.Error()}
	if w.prev != nil {
		if old := w.prev.pairs[s.ID]; old != nil && w.in.Now.Before(old.NotAfter) {
			w.next.pairs[s.ID] = old
			w.problem(p)
			return
		}
	}
	a.closed = p
}

// permitted is secret, but for references that the rules of their vault do not let
// the object use: rules are held when a document is read, and again here.
func (w *build) permitted(v spec.Secret, e spec.Entity, field string) (secrets.Value, *secrets.Credential, string) {
	if use := spec.UseOf(e, field, v.Ref); !v.Ref.IsZero() && !w.in.Document.Permits(use) {
		w.denied(e, field, v.Ref)
		return secrets.Value{}, nil, w.in.Document.Denial(use)
	}
	return w.secret(v)
}

// denied tells once that a rule refused a reference.
func (w *build) denied(e spec.Entity, field string, r secrets.Ref) {
	key := e.Base().ID + " " + field + " " + r.String()
	if w.next.refusals == nil {
		w.next.refusals = map[string]bool{}
	}
	w.next.refusals[key] = true
	if w.prev != nil && w.prev.refusals[key] {
		return
	}
	w.report.Rotations = append(w.report.Rotations, Rotation{
		Kind: "secret", Name: r.String(), Source: r.Vault, Result: "refused", Check: "access", Reason: "the rules of the vault do not let " + e.Kind() + " " + e.Base().ID + " use it",
	})
}

// withArgument is a query in which an argument has one value, whatever it had.
func withArgument(q, name, value string) string {
	parts := slices.DeleteFunc(strings.Split(q, "&"), func(p string) bool {
		key, _, _ := strings.Cut(p, "=")
		plain, err := url.QueryUnescape(key)
		return p == "" || err == nil && url.QueryEscape(plain) == name
	})
	return strings.Join(append(parts, name+"="+value), "&")
}

// versions names what the credential is made of, for the access log.
func (a *upstreamAuth) versions(dst []*secrets.Credential) []*secrets.Credential {
	if a == nil {
		return dst
	}
	return append(dst, a.used...)
}

// authorize puts the credential of the request's service into what is sent.
func (h *Handler) authorize(r *request, a *upstreamAuth) error {
	if a.header != "" {
		r.dropField(a.header)
	}
	switch {
	case a.value != nil:
		r.fields.Add(a.header, a.value())
	case a.query != nil:
		path, query, _ := strings.Cut(r.out.URI, "?")
		r.out.URI = path + "?" + a.query(query)
	case a.signer != nil:
		return h.sign(r, a)
	}
	return nil
}

// dropField takes a field out of what is sent, in every spelling that an origin may
// read as its name.
func (r *request) dropField(name string) {
	same := func(other string) bool {
		return exchange.EqualFold(name, other) || len(name) == len(other) && exchange.EqualFold(strings.ReplaceAll(name, "_", "-"), strings.ReplaceAll(other, "_", "-"))
	}
	gone := 0
	for i := range r.lead {
		if same(r.fields.At(i).Name) {
			gone++
		}
	}
	r.lead -= gone
	r.out.Lead = r.lead
	r.fields.DeleteFunc(func(f exchange.Field) bool { return same(f.Name) })
}

// doubt keeps forced looks from becoming a storm where an upstream refuses for
// reasons that no rotation cures: the next one waits longer each time.
type doubt struct {
	mu    sync.Mutex // guards the group below
	until map[string]time.Time
	wait  map[string]time.Duration
	looks map[string]bool // services with a look that nobody waits for
}

const (
	doubtLeast = time.Second
	doubtMost  = time.Minute
)

// may says whether a look may be forced for a service now.
func (d *doubt) may(service string, now time.Time) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return !now.Before(d.until[service])
}

// begin says whether a look that nobody waits for may begin; then done ends it.
func (d *doubt) begin(service string) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.looks[service] {
		return false
	}
	if d.looks == nil {
		d.looks = map[string]bool{}
	}
	d.looks[service] = true
	return true
}

func (d *doubt) done(service string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.looks, service)
}

// ended takes what a forced look brought.
func (d *doubt) ended(service string, fruitful bool, now time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.until == nil {
		d.until, d.wait = map[string]time.Time{}, map[string]time.Duration{}
	}
	if fruitful {
		delete(d.until, service)
		delete(d.wait, service)
		return
	}
	if now.Before(d.until[service]) {
		return // others asked at the same time
	}
	d.wait[service] = min(max(2*d.wait[service], doubtLeast), doubtMost)
	d.until[service] = now.Add(d.wait[service])
}

// refreshWait is how long a request may wait for a forced look.
const refreshWait = 5 * time.Second

// refused reacts to an answer that may be the credential's fault: the source is
// asked once for all requests, and where a newer version comes of it and the
// request can be sent again, it is. It answers the credential to try with, or nil.
func (h *Handler) refused(r *request, a *upstreamAuth) *upstreamAuth {
	now := time.Now()
	if h.force == nil || len(a.used) == 0 || !slices.Contains(a.refresh, r.x.Response.Status) || !h.doubt.may(a.service, now) {
		return nil
	}
	again := replayable(r.x)
	// The look is made whoever asked: a client that hangs up must not end it.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(r.x.Ctx), refreshWait)
	look := func() *upstreamAuth {
		defer cancel()
		return h.lookAgain(ctx, a)
	}
	if again {
		return look()
	}
	// Nobody waits for it, so that one at a time is enough however many are refused.
	if !h.doubt.begin(a.service) {
		cancel()
		return nil
	}
	go func() {
		defer h.doubt.done(a.service)
		look()
	}()
	return nil
}

// lookAgain forces a look and answers the service's credential if it is newer.
func (h *Handler) lookAgain(ctx context.Context, a *upstreamAuth) *upstreamAuth {
	// Another request may have had it fetched already.
	if next := h.newer(a); next != nil {
		return next
	}
	seen := map[string]bool{}
	for _, c := range a.used {
		resource := c.Ref.Vault + "/" + c.Ref.Resource + "?" + c.Ref.Query
		if seen[resource] {
			continue
		}
		seen[resource] = true
		if err := h.force(ctx, c.Ref); err != nil {
			h.doubt.ended(a.service, false, time.Now())
			return nil
		}
	}
	var next *upstreamAuth
	h.publisher.Await(ctx, func(s *Snapshot) bool {
		next = h.newer(a)
		return next != nil || h.current(a, s.Set)
	})
	h.doubt.ended(a.service, next != nil, time.Now())
	return next
}

// newer answers the credential of the snapshot in force if it is a newer one.
func (h *Handler) newer(a *upstreamAuth) *upstreamAuth {
	next := h.publisher.Current().auths[a.service]
	if next == nil || next.closed != nil || len(next.used) != len(a.used) {
		return nil
	}
	for i := range next.used {
		if next.used[i].Version != a.used[i].Version {
			return next
		}
	}
	return nil
}

// current says that the broker has nothing newer than a, so that no snapshot will.
func (h *Handler) current(a *upstreamAuth, _ *secrets.Set) bool {
	set := h.latest()
	for _, c := range a.used {
		if x := set.Get(c.Ref); x != nil && x.Version != c.Version {
			return false
		}
	}
	return true
}

// replayable says whether a request can be sent again: a method that may be
// repeated (RFC 9110, section 9.2.2), and no body or one that is kept.
func replayable(x *exchange.Exchange) bool {
	switch x.Request.Method {
	case http.MethodGet, http.MethodHead, http.MethodOptions, http.MethodPut, http.MethodDelete:
	default:
		return false
	}
	if x.Response.Switch != nil {
		return false
	}
	_, kept := x.Request.Body.(*keptBody)
	return kept || !x.Request.HasBody()
}

// judgeUse counts how the use of a credential ended, for the trial of its version.
func (a *upstreamAuth) judgeUse(status int) {
	bad := slices.Contains(a.refresh, status)
	for _, c := range a.used {
		if bad {
			c.Trial.Bad()
		} else {
			c.Trial.Good()
		}
	}
}

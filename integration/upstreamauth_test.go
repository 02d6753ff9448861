package integration

import (
	"cmp"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// bearers are the ways of bringing one secret to an upstream, and how that finds out
// which of the secrets it knows a request was sent with.
var bearers = []struct {
	name, conf string // conf has %s for the reference
	find       func(r *http.Request, known []string) (secret string, ok bool)
}{
	{"header", `{type: header, name: X-Api-Key, value: "%s"}`, func(r *http.Request, _ []string) (string, bool) {
		return r.Header.Get("X-Api-Key"), true
	}},
	{"bearer", `{type: bearer, value: "%s"}`, func(r *http.Request, _ []string) (string, bool) {
		return strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	}},
	{"basic", `{type: basic, username: app, password: "%s"}`, func(r *http.Request, _ []string) (string, bool) {
		name, password, ok := r.BasicAuth()
		return password, ok && name == "app"
	}},
	{"query", `{type: query, name: token, value: "%s"}`, func(r *http.Request, _ []string) (string, bool) {
		list := r.URL.Query()["token"]
		return strings.Join(list, " and "), len(list) == 1
	}},
	{"sigv4", `{type: aws_sigv4, access_key_id: AKIDEXAMPLE, secret_access_key: "%s", region: eu-west-1, service: execute-api}`, signedWith},
}

// signedWith answers the secret that makes a request's signature, computed anew from
// what arrived, as AWS documents it for Signature Version 4.
func signedWith(r *http.Request, known []string) (string, bool) {
	sum := func(key []byte, text string) []byte {
		m := hmac.New(sha256.New, key)
		m.Write([]byte(text))
		return m.Sum(nil)
	}
	hash := func(text string) string { h := sha256.Sum256([]byte(text)); return hex.EncodeToString(h[:]) }
	rest, ok := strings.CutPrefix(r.Header.Get("Authorization"), "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/")
	scope, rest, ok2 := strings.Cut(rest, ", SignedHeaders=")
	names, signature, ok3 := strings.Cut(rest, ", Signature=")
	at := r.Header.Get("X-Amz-Date")
	when, err := time.Parse("20060102T150405Z", at)
	if !ok || !ok2 || !ok3 || err != nil || time.Since(when).Abs() > 5*time.Minute || !strings.HasPrefix(scope, at[:8]) || !strings.Contains(names, "host") {
		return "", false
	}
	var lines string
	for _, name := range strings.Split(names, ";") {
		value := r.Header.Get(name)
		if name == "host" {
			value = r.Host
		}
		lines += name + ":" + strings.TrimSpace(value) + "\n"
	}
	payload := cmp.Or(r.Header.Get("X-Amz-Content-Sha256"), hash(""))
	query := strings.Split(r.URL.RawQuery, "&")
	slices.Sort(query)
	canonical := strings.Join([]string{r.Method, r.URL.EscapedPath(), strings.Join(query, "&"), lines, names, payload}, "\n")
	text := "AWS4-HMAC-SHA256\n" + at + "\n" + scope + "\n" + hash(canonical)
	for _, secret := range known {
		key := []byte("AWS4" + secret)
		for _, part := range strings.Split(scope, "/") {
			key = sum(key, part)
		}
		if hex.EncodeToString(sum(key, text)) == signature {
			return secret, true
		}
	}
	return "", false
}

// door is an upstream that knows when each secret of one kind came, and which it takes.
type door struct {
	find func(r *http.Request, known []string) (string, bool)
	more func(since time.Time) time.Duration // than a second that an older secret may come; nil for none
	of   *clients                            // who have their requests noted in met; nil for nobody

	mu      sync.Mutex  // guards what follows
	known   []string    // newest first
	since   time.Time   // of the newest
	came    []time.Time // of all, oldest first, where they are noted in met
	met     []meeting
	taken   int    // how many of them are good
	last    string // secret of the last request
	refused int
	old     int // requests sent with an older secret a second after
	strange int // with none, or one that never was
}

func (d *door) check(r *http.Request) (int, string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	secret, ok := d.find(r, d.known)
	i := slices.Index(d.known, secret)
	if !ok || i < 0 {
		d.strange++
		return http.StatusUnauthorized, "unknown"
	}
	d.last = secret
	if n, err := strconv.ParseInt(r.Header.Get("X-Number"), 10, 64); err == nil && d.of != nil {
		d.met = append(d.met, meeting{int64(len(d.known) - 1 - i), n, d.of.number.Load(), time.Now()})
	}
	grace := time.Second
	if i > 0 && d.more != nil {
		grace += d.more(d.since)
	}
	if i > 0 && time.Since(d.since) > grace {
		d.old++
	}
	if i >= d.taken {
		d.refused++
		return http.StatusUnauthorized, "replaced"
	}
	return http.StatusOK, "ok"
}

// TestUpstreamCredentialsOfEveryKind rotates a credential of each kind under load, with
// an upstream that takes those before too and with one that does not: no client
// sees a refusal, no request that begins after the new value was sent brings the old one,
// and that is within a second of a rotation.
func TestUpstreamCredentialsOfEveryKind(t *testing.T) {
	root := t.TempDir()
	var secret canaries
	var doc strings.Builder
	fmt.Fprintf(&doc, "_format_version: \"3.0\"\nvaults: [{name: file, prefix: keys, config: {root: %s}}]\n", root)
	fmt.Fprintf(&doc, "certificates: [{cert: \"{vault://keys/tls/cert}\", key: \"{vault://keys/tls/key}\", snis: [kept.test]}]\nservices:\n")
	a := newAuthority(t, "proof")
	cert, key := encode(t, a.server(t, "kept.test"))
	file(t, filepath.Join(root, "tls"), "cert", cert)
	file(t, filepath.Join(root, "tls"), "key", key)
	secret.add(key)
	doors := map[string]*door{}
	n := 0
	rotate := func(name string, taken int) {
		n++
		value := fmt.Sprintf("canary-%s-%d-c0ffee", name, n)
		secret.add(value)
		d := doors[name]
		d.mu.Lock()
		defer d.mu.Unlock()
		file(t, root, name+".new", value)
		if err := os.Rename(filepath.Join(root, name+".new"), filepath.Join(root, name)); err != nil {
			t.Fatal(err)
		}
		d.known, d.came, d.taken = append([]string{value}, d.known...), append(d.came, time.Now()), taken
	}
	var origins []*tattler
	for _, b := range bearers {
		d := &door{find: b.find}
		doors[b.name] = d
		rotate(b.name, 1)
		o := tattle(t, d.check)
		origins = append(origins, o)
		fmt.Fprintf(&doc, "- {name: %s, url: \"http://%s\", x_keyway_upstream_auth: %s, routes: [{paths: [/%s], strip_path: false}]}\n", b.name, o.addr, fmt.Sprintf(b.conf, "{vault://keys/"+b.name+"/}"), b.name)
	}
	g := start(t, options{document: doc.String(), env: debug(nil)})
	var loads []*clients
	for _, b := range bearers {
		// What a client brings of its own is replaced.
		l := &clients{g: g, roots: a.pool(), names: []string{"kept.test"}, path: "/" + b.name + "?b=2&a=1&token=mine"}
		doors[b.name].of = l
		loads = append(loads, l.begin(1))
	}
	for _, phase := range []struct {
		rotations, taken int
		apart            time.Duration
	}{{20, 20, 300 * time.Millisecond}, {5, 1, 1300 * time.Millisecond}} {
		for range phase.rotations {
			for _, b := range bearers {
				rotate(b.name, phase.taken)
			}
			time.Sleep(phase.apart)
		}
	}
	for i, b := range bearers {
		d := doors[b.name]
		poll(t, b.name+": the newest is sent", 20*time.Second, func() bool {
			d.mu.Lock()
			defer d.mu.Unlock()
			return d.last == d.known[0]
		})
		l := loads[i]
		l.end()
		back, late := succession(d.came, d.met)
		t.Logf("%s: %d requests, %d refused by the upstream and sent again, an old one was sent for %s after half of the rotations", b.name, l.requests.Load(), d.refused, late.Round(time.Millisecond))
		if l.requests.Load() == 0 || l.lost.Load() > 0 || d.strange > 0 || back > 0 || late > time.Second {
			t.Errorf("%s: %d requests, %d lost, %d with a strange credential, %d with an old one after the new one, for %s after half of the rotations; the first: %v", b.name, l.requests.Load(), l.lost.Load(), d.strange, back, late, l.first.Load())
		}
		if n := origins[i].twice(); n > 0 {
			t.Errorf("%s: %d requests were served twice", b.name, n)
		}
	}
	// Two that come while the node waits for a processor are one version to it.
	log := g.log.String()
	versions := regexp.MustCompile(`"msg":"credential changed","kind":"secret","name":"\{vault://keys/bearer/\}".*"new_version":(\d+)`).FindAllStringSubmatch(log, -1)
	if len(versions) == 0 {
		t.Fatal("the log tells of no version")
	}
	if last := versions[len(versions)-1][1]; len(versions) > len(doors["bearer"].known) || !strings.Contains(log, `"upstream_credentials":["{vault://keys/bearer/}@`+last+`"]`) {
		t.Errorf("of %d versions the last is %s; the access log does not say that it was sent", len(versions), last)
	}
	secret.scan(t, g)
}

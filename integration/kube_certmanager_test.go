package integration

import (
	"crypto/tls"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// certManaged is a node that serves a cluster in which cert-manager issues.
type certManaged struct {
	*kubeServer
	g     *gateway
	roots *authority
}

// issuedIngress is an Ingress shop/NAME whose certificate, in the Secret NAME-tls, an
// issuer makes that its annotations name.
func issuedIngress(name, annotations string, hosts ...string) string {
	rules := make([]string, 0, len(hosts))
	for _, h := range hosts {
		rules = append(rules, fmt.Sprintf(`{host: %s, http: {paths: [{path: /, pathType: Prefix, backend: {service: {name: web, port: {name: http}}}}]}}`, h))
	}
	return fmt.Sprintf(`
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {name: %[1]s, namespace: shop, annotations: {%[2]s}}
spec:
  ingressClassName: keyway
  tls: [{hosts: [%[3]s], secretName: %[1]s-tls}]
  rules: [%[4]s]
---
`, name, annotations, strings.Join(hosts, ", "), strings.Join(rules, ", "))
}

const byCA = "cert-manager.io/cluster-issuer: ca"

// TestCertManager has cert-manager issue for Ingresses of a real API server, and looks
// at what clients, operators and the cluster see of it.
func TestCertManager(t *testing.T) {
	k, dns := startKube(t), startDNS(t)
	dns.a["origin.shop.test."] = "127.0.0.1"
	k.namespace("shop")
	k.controller()
	x := &certManaged{kubeServer: k, roots: newAuthority(t, "ca")}
	k.apply(ingressClass)
	k.backend("web", saying(t, "web"))
	// The node comes first: the kinds of cert-manager are found when they are there.
	x.g = kubeGateway(t, k, dns, nil, options{})
	k.startCertManager(nil)
	k.caIssuer("ca", x.roots)

	t.Run("an annotated Ingress", func(t *testing.T) { x.in(t).annotated() })
	t.Run("renewed under load", func(t *testing.T) { x.in(t).renewed() })
	t.Run("the Secret deleted", func(t *testing.T) { x.in(t).deleted() })
	t.Run("a host added", func(t *testing.T) { x.in(t).added() })
	t.Run("an issuer that fails", func(t *testing.T) { x.in(t).failing() })
	t.Run("a temporary certificate", func(t *testing.T) { x.in(t).temporary() })
	t.Run("issued by Vault", func(t *testing.T) { x.in(t).vault() })
	t.Run("what cannot be renewed", func(t *testing.T) { x.in(t).refused() })
}

func (x *certManaged) in(t *testing.T) *certManaged {
	x.g.t = t
	k := *x.kubeServer
	k.t = t
	return &certManaged{kubeServer: &k, g: x.g, roots: x.roots}
}

// shown is what the command says of a certificate.
func (x *certManaged) shown(name string) (c struct {
	State   string
	Version int
	Bundles []struct{ Serial string }
	Owner   struct {
		Certificate, Issuer, State, Reason string
		Ready, Temporary                   bool
		Renewal                            time.Time `json:"renewal_time"`
		NotAfter                           time.Time `json:"not_after"`
		Attempts                           int       `json:"failed_issuance_attempts"`
	} `json:"cert_manager"`
},
) {
	x.t.Helper()
	if out, err := x.g.run("certs", "show", name, "--json"); err == nil {
		if err := json.Unmarshal([]byte(out), &c); err != nil {
			x.t.Fatalf("%v: %s", err, out)
		}
	}
	return c
}

// becomes waits until cert-manager's part of a certificate has a state.
func (x *certManaged) becomes(name, state string) {
	x.t.Helper()
	poll(x.t, name+" is "+state, 30*time.Second, func() bool { return x.shown(name).Owner.State == state })
}

// told waits until the ledger has an event with a text.
func (x *certManaged) told(event, text string) {
	x.t.Helper()
	poll(x.t, "the ledger has "+event+" of "+text, 20*time.Second, func() bool {
		return strings.Contains(x.g.said("audit", "query", "--event", event), text)
	})
}

// serial is that of the certificate that a handshake for a name shows, "" for none that
// the roots vouch for.
func (x *certManaged) serial(name string) string {
	d := tls.Dialer{Config: &tls.Config{RootCAs: x.roots.pool(), ServerName: name, MinVersion: tls.VersionTLS12}}
	c, err := d.DialContext(x.t.Context(), "tcp", x.g.tls)
	if err != nil {
		return ""
	}
	defer func() { _ = c.Close() }()
	return c.(*tls.Conn).ConnectionState().PeerCertificates[0].SerialNumber.Text(16)
}

// another waits until a handshake shows another certificate, and answers how long that
// took and which it is.
func (x *certManaged) another(name, than string, limit time.Duration) (string, time.Duration) {
	x.t.Helper()
	began, now := time.Now(), ""
	poll(x.t, "another certificate of "+name, limit, func() bool {
		now = x.serial(name)
		return now != "" && now != than
	})
	return now, time.Since(began)
}

// shaking shakes hands for a name, 4 at a time, until it is told to end; then it answers
// how many did and how many failed.
func (x *certManaged) shaking(name string) (end func() (all, failed int64)) {
	var good, bad atomic.Int64
	var wg sync.WaitGroup
	stop := make(chan struct{})
	for range 4 {
		wg.Go(func() {
			for range 5000 {
				select {
				case <-stop:
					return
				case <-time.After(10 * time.Millisecond):
				}
				if x.serial(name) == "" {
					bad.Add(1)
				} else {
					good.Add(1)
				}
			}
		})
	}
	return func() (int64, int64) {
		close(stop)
		wg.Wait()
		return good.Load() + bad.Load(), bad.Load()
	}
}

func (x *certManaged) annotated() {
	began := time.Now()
	x.apply(issuedIngress("web", byCA, "web.shop.test"))
	x.g.answers(x.roots, "web.shop.test", "/hello", 200, "web /hello")
	x.t.Logf("served %v after the Ingress was written", time.Since(began).Round(time.Millisecond))
	x.becomes("web.shop.test", "issued")
	c := x.shown("web.shop.test")
	if c.Owner.Certificate != "shop/web-tls" || c.Owner.Issuer != "ClusterIssuer ca" || !c.Owner.Ready || c.Owner.Temporary || c.Owner.Renewal.Before(time.Now()) || !c.Owner.NotAfter.After(c.Owner.Renewal) {
		x.t.Errorf("cert-manager's part: %+v", c.Owner)
	}
	table := x.g.said("certs", "list")
	if !strings.Contains(table, "CERT-MANAGER") || !strings.Contains(table, "issued") {
		x.t.Errorf("certs list:\n%s", table)
	}
	if text := x.g.said("certs", "show", "web.shop.test"); !strings.Contains(text, "Certificate shop/web-tls of ClusterIssuer ca") {
		x.t.Errorf("certs show:\n%s", text)
	}
	if n := x.g.counter(x.t, `keyway_certmanager_certificates{state="issued"}`); n != 1 {
		x.t.Errorf("%g certificates are counted as issued, want 1", n)
	}
}

// renewed has one certificate renewed by a command and another by its own time.
func (x *certManaged) renewed() {
	x.apply(issuedIngress("brief", byCA+`, cert-manager.io/duration: 1h, cert-manager.io/renew-before: 59m45s`, "brief.shop.test"))
	brief, _ := x.another("brief.shop.test", "", 30*time.Second)
	web := x.serial("web.shop.test")
	ends := map[string]func() (int64, int64){"web.shop.test": x.shaking("web.shop.test"), "brief.shop.test": x.shaking("brief.shop.test")}
	began := time.Now()
	if out, err := x.g.run("certs", "renew", "web.shop.test"); err != nil {
		x.t.Errorf("certs renew: %v: %s", err, out)
	}
	asked := time.Since(began)
	if now := x.serial("web.shop.test"); now == web || now == "" {
		x.t.Errorf("the command is done after %v, and %s serves as before", asked, now)
	}
	_, took := x.another("brief.shop.test", brief, 40*time.Second)
	for name, end := range ends {
		all, failed := end()
		if failed > 0 || all < 20 {
			x.t.Errorf("%s: %d of %d handshakes failed", name, failed, all)
		}
		x.t.Logf("%s: %d handshakes, %d failed", name, all, failed)
	}
	x.t.Logf("renewed by command in %v, by time after %v", asked.Round(time.Millisecond), took.Round(time.Millisecond))
	x.unapply(issuedIngress("brief", byCA, "brief.shop.test"))
}

func (x *certManaged) deleted() {
	before := x.serial("web.shop.test")
	end := x.shaking("web.shop.test")
	x.remove("shop", "web-tls")
	_, took := x.another("web.shop.test", before, 30*time.Second)
	all, failed := end()
	if failed > 0 {
		x.t.Errorf("%d of %d handshakes failed", failed, all)
	}
	x.t.Logf("another serves %v after the Secret was deleted; %d handshakes, %d failed", took.Round(time.Millisecond), all, failed)
}

func (x *certManaged) added() {
	end := x.shaking("web.shop.test")
	began := time.Now()
	x.apply(issuedIngress("web", byCA, "web.shop.test", "api.shop.test"))
	x.g.answers(x.roots, "api.shop.test", "/", 200, "web /")
	all, failed := end()
	if failed > 0 {
		x.t.Errorf("%d of %d handshakes for the name that was there failed", failed, all)
	}
	x.t.Logf("the added name is served after %v; %d handshakes for the other, %d failed", time.Since(began).Round(time.Millisecond), all, failed)
}

// failing gives a Certificate in use to an issuer of elsewhere, which refuses.
func (x *certManaged) failing() {
	x.apply(issuedIngress("web", `cert-manager.io/issuer: broken, cert-manager.io/issuer-kind: Broken, cert-manager.io/issuer-group: example.test`, "web.shop.test", "api.shop.test"))
	x.refuseRequests("web-tls")
	x.becomes("web.shop.test", "failing")
	c := x.shown("web.shop.test")
	if c.Owner.Attempts != 1 || c.Owner.Issuer != "Broken.example.test broken" || !strings.Contains(c.Owner.Reason, "the test says no") {
		x.t.Errorf("cert-manager's part: %+v", c.Owner)
	}
	if x.serial("web.shop.test") == "" {
		x.t.Error("the old pair serves no more")
	}
	if text := x.g.said("certs", "list"); !strings.Contains(text, "failing") || !strings.Contains(text, "the test says no") {
		x.t.Errorf("certs list:\n%s", text)
	}
	if n := x.g.counter(x.t, `keyway_certmanager_certificates{state="failing"}`); n != 1 {
		x.t.Errorf("%g certificates are counted as failing, want 1", n)
	}
	x.told("issuance_failing", "Certificate shop/web-tls of Broken.example.test broken: failed 1 times")
	poll(x.t, "an Event on the Certificate", 30*time.Second, func() bool {
		out := x.do(http.MethodGet, "/api/v1/namespaces/shop/events?fieldSelector=reason%3DIssuanceFailing", nil)
		items, _ := out["items"].([]any)
		text, _ := json.Marshal(items)
		return len(items) == 1 && strings.Contains(string(text), `"kind":"Certificate","name":"web-tls"`) && strings.Contains(string(text), "the test says no")
	})
	x.apply(issuedIngress("web", byCA, "web.shop.test", "api.shop.test"))
	poll(x.t, "the Certificate has its issuer again", 20*time.Second, func() bool { return x.shown("web.shop.test").Owner.Issuer == "ClusterIssuer ca" })
	before := x.serial("web.shop.test")
	if out, err := x.g.run("certs", "renew", "web.shop.test"); err != nil {
		x.t.Fatalf("certs renew: %v: %s", err, out)
	}
	x.another("web.shop.test", before, 30*time.Second)
	x.becomes("web.shop.test", "issued")
	x.told("issuance_recovered", "Certificate shop/web-tls of ClusterIssuer ca")
}

// refuseRequests answers the requests of a Certificate as its issuer would.
func (x *certManaged) refuseRequests(certificate string) {
	x.t.Helper()
	const path = "/apis/cert-manager.io/v1/namespaces/shop/certificaterequests"
	poll(x.t, "a request of "+certificate+" is refused", 30*time.Second, func() bool {
		out := x.do(http.MethodGet, path, nil)
		items, _ := out["items"].([]any)
		for _, item := range items {
			o, _ := item.(object)
			spec, _ := o["spec"].(object)
			issuer, _ := spec["issuerRef"].(object)
			meta, _ := o["metadata"].(object)
			status, _ := o["status"].(object)
			if issuer["group"] != "example.test" || !strings.HasPrefix(fmt.Sprint(meta["name"]), certificate) || !strings.Contains(fmt.Sprint(status["conditions"]), "Approved") {
				continue
			}
			now := time.Now().UTC().Format(time.RFC3339)
			conditions, _ := status["conditions"].([]any)
			status["conditions"] = append(conditions, object{"type": "Ready", "status": "False", "reason": "Failed", "message": "the test says no", "lastTransitionTime": now})
			status["failureTime"] = now
			code, _ := x.try(http.MethodPut, path+"/"+fmt.Sprint(meta["name"])+"/status", o)
			return code == http.StatusOK
		}
		return false
	})
}

// temporary has a stand-in serve until an issuer is there.
func (x *certManaged) temporary() {
	x.apply(`
apiVersion: cert-manager.io/v1
kind: Certificate
metadata: {name: late, namespace: shop, annotations: {cert-manager.io/issue-temporary-certificate: "true"}}
spec: {secretName: late-tls, dnsNames: [late.shop.test], issuerRef: {kind: ClusterIssuer, name: late}}
---
` + issuedIngress("late", "a: b", "late.shop.test"))
	x.becomes("late.shop.test", "temporary")
	if c := x.shown("late.shop.test"); !c.Owner.Temporary || c.State != "active" || !strings.Contains(c.Owner.Reason, "a stand-in serves until ClusterIssuer late has answered") {
		x.t.Errorf("%+v", c)
	}
	if x.serial("late.shop.test") != "" {
		x.t.Error("the stand-in is vouched for")
	}
	x.told("issuance_temporary", "Certificate shop/late of ClusterIssuer late")
	x.caIssuer("late", x.roots)
	x.g.answers(x.roots, "late.shop.test", "/", 200, "web /")
	x.becomes("late.shop.test", "issued")
	x.unapply(issuedIngress("late", "", "late.shop.test"))
}

// refused asks for what cannot be: a Secret that is nobody's, and without the right.
func (x *certManaged) refused() {
	cert, key := encode(x.t, x.roots.server(x.t, "hand.shop.test"))
	x.put("shop", "hand-tls", map[string]string{"tls.crt": cert, "tls.key": key})
	x.apply(issuedIngress("hand", "a: b", "hand.shop.test"))
	x.g.answers(x.roots, "hand.shop.test", "/", 200, "web /")
	if out, err := x.g.run("certs", "renew", "hand.shop.test"); err == nil || !strings.Contains(out, "comes from Secret shop/hand-tls: no Certificate of cert-manager writes it") {
		x.t.Errorf("one of nobody: %v: %s", err, out)
	}
	if c := x.shown("hand.shop.test"); c.Owner.Certificate != "" {
		x.t.Errorf("a Secret that was written by hand is of %+v", c.Owner)
	}
	role := x.do(http.MethodGet, "/apis/rbac.authorization.k8s.io/v1/clusterroles/keyway", nil)
	rules, _ := role["rules"].([]any)
	var left []any
	for _, r := range rules {
		if !strings.Contains(fmt.Sprint(r), "certificates/status") {
			left = append(left, r)
		}
	}
	if role["rules"] = left; len(left) != len(rules)-1 {
		x.t.Fatalf("the rules of the role: %v", rules)
	}
	x.do(http.MethodPut, "/apis/rbac.authorization.k8s.io/v1/clusterroles/keyway", role)
	poll(x.t, "the command says which right is missing", 20*time.Second, func() bool {
		out, err := x.g.run("certs", "renew", "web.shop.test")
		return err != nil && strings.Contains(out, "the account may not patch certificates/status of cert-manager.io in the namespace shop")
	})
	if x.serial("web.shop.test") == "" {
		x.t.Error("what was issued serves no more")
	}
}

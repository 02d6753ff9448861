package integration

import (
	"cmp"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// kubeSize is how much there is in a cluster, and how much of it changes.
type kubeSize struct {
	Ingresses int `json:"ingresses"` // each with a host and a TLS Secret of its own
	Services  int `json:"services"`
	Endpoints int `json:"endpoints"`
	Unused    int `json:"unused_secrets"`
	Each      int `json:"kib_of_each"`
	Samples   int `json:"samples"` // of each kind of change
	Rate      int `json:"changes_a_second"`
	Seconds   int `json:"seconds_of_changes"`
}

// kubeFigures are what was measured. Times are milliseconds where nothing else is said.
type kubeFigures struct {
	Date     string   `json:"date"`
	Version  string   `json:"version"`
	Go       string   `json:"go"`
	CPUs     int      `json:"cpus"`
	Size     kubeSize `json:"size"`
	Making   float64  `json:"making_objects_seconds"`
	Ready    float64  `json:"cold_start_to_ready_seconds"`
	All      float64  `json:"cold_start_to_all_certificates_seconds"`
	StartCPU float64  `json:"cold_start_cpu_seconds"`
	RSS      int      `json:"rss_bytes"`
	Peak     int      `json:"peak_rss_bytes"`
	Slice    [2]int   `json:"slice_to_traffic_p50_p99"`
	Secret   [2]int   `json:"secret_to_handshake_p50_p99"`
	Heap     [2]int   `json:"heap_before_and_with_unused_secrets_bytes"`
	Changes  int64    `json:"changes"`
	Took     float64  `json:"changes_seconds"`
	CPU      float64  `json:"changes_cpu_seconds"`
	Beside   [2]int   `json:"slice_to_traffic_beside_changes_p50_p99"`
	Lag      [2]int   `json:"last_slice_and_secret_after_changes"`
}

// kubeScale is a node that serves a big cluster.
type kubeScale struct {
	*gateway
	t      *testing.T
	k      *kubeServer
	size   kubeSize
	client *http.Client // keeps connections
	roots  *authority
	keys   []*ecdsa.PrivateKey
	says   [2]string // addresses of two origins, which say 0 and 1
	turn   map[int]int
	f      kubeFigures
}

// TestKubeScale has a node serve a real API server that is full of objects, and measures
// how it starts, what it needs, how soon a change is served, alone and beside many
// others, and that Secrets that nobody uses cost it nothing. KUBE_SCALE=full has the size
// of docs/benchmarks.md and holds the node to its aims.
func TestKubeScale(t *testing.T) {
	size := kubeSize{Ingresses: 150, Services: 40, Endpoints: 400, Unused: 500, Each: 128, Samples: 10, Rate: 50, Seconds: 3}
	full := os.Getenv("KUBE_SCALE") == "full"
	if full {
		size = kubeSize{Ingresses: 10000, Services: 2000, Endpoints: 20000, Unused: 5000, Each: 32, Samples: 400, Rate: 100, Seconds: 60}
	}
	s := &kubeScale{t: t, k: startKube(t), size: size, roots: newAuthority(t, "edge"), turn: map[int]int{}}
	s.client = &http.Client{Timeout: time.Minute, Transport: &http.Transport{ForceAttemptHTTP2: true, MaxIdleConnsPerHost: 32, TLSClientConfig: &tls.Config{
		RootCAs: s.k.a.pool(), Certificates: []tls.Certificate{s.k.issue("admin", "system:masters")}, MinVersion: tls.VersionTLS12,
	}}}
	t.Cleanup(s.client.CloseIdleConnections)
	for range 8 {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		s.keys = append(s.keys, key)
	}
	s.says = [2]string{saying(t, "0"), saying(t, "1")}
	s.fill()
	s.coldStart()
	s.changesAlone()
	s.unused()
	s.sustained()
	s.f.RSS, s.f.Peak = s.resident(), s.peak()
	s.tell(full)
}

// at calls the API, safe for concurrent use.
func (s *kubeScale) at(method, path string, body any) error {
	text, err := json.Marshal(body)
	if err != nil {
		return err
	}
	req, err := http.NewRequest(method, s.k.addr+path, strings.NewReader(string(text)))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", map[string]string{http.MethodPatch: "application/merge-patch+json"}[method])
	if method != http.MethodPatch {
		req.Header.Set("Content-Type", "application/json")
	}
	resp, err := s.client.Do(req)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }()
	var said struct{ Message string }
	if err := json.NewDecoder(resp.Body).Decode(&said); err != nil {
		return err
	}
	if resp.StatusCode > 299 {
		return fmt.Errorf("%s %s: %d %s", method, path, resp.StatusCode, said.Message)
	}
	return nil
}

// each does something n times, some at a time, and fails the test for errors.
func (s *kubeScale) each(n int, do func(i int) error) {
	s.t.Helper()
	var next, bad atomic.Int64
	var first atomic.Value
	var all sync.WaitGroup
	for range 16 {
		all.Go(func() {
			for i := int(next.Add(1)) - 1; i < n; i = int(next.Add(1)) - 1 {
				if err := do(i); err != nil {
					bad.Add(1)
					first.CompareAndSwap(nil, err.Error())
				}
			}
		})
	}
	if all.Wait(); bad.Load() > 0 {
		s.t.Fatalf("%d of %d objects were not written: %v", bad.Load(), n, first.Load())
	}
}

const shopCore, shopNet, shopSlices = "/api/v1/namespaces/shop/", "/apis/networking.k8s.io/v1/namespaces/shop/ingresses", "/apis/discovery.k8s.io/v1/namespaces/shop/endpointslices"

func hostOf(i int) string { return fmt.Sprintf("h%d.scale.test", i) }

// pair is the content of the Secret of a host, of another serial number each time.
func (s *kubeScale) pair(i int) (data map[string]string, serial string) {
	c := s.roots.serverFor(s.t, s.keys[i%len(s.keys)], hostOf(i))
	cert, key := encode(s.t, c)
	return map[string]string{"tls.crt": cert, "tls.key": key}, serialOf(s.t, cert)
}

func (s *kubeScale) rules(i int, paths ...string) object {
	var list []any
	for _, path := range paths {
		list = append(list, object{"path": path, "pathType": "Prefix", "backend": object{"service": object{"name": fmt.Sprint("s", i%s.size.Services), "port": object{"name": "http"}}}})
	}
	return object{
		"ingressClassName": "keyway", "tls": []any{object{"hosts": []string{hostOf(i)}, "secretName": fmt.Sprint("tls", i)}},
		"rules": []any{object{"host": hostOf(i), "http": object{"paths": list}}},
	}
}

func (s *kubeScale) ports(origin int) []any {
	_, port, _ := strings.Cut(s.says[origin], ":")
	return []any{object{"name": "http", "protocol": "TCP", "port": json.Number(port)}}
}

// changing is how many Services at the beginning have an origin that answers.
const changing = 8

// fill makes the objects.
func (s *kubeScale) fill() {
	s.t.Helper()
	k, began := s.k, time.Now()
	k.define()
	k.namespace("shop")
	k.controller()
	k.apply("apiVersion: networking.k8s.io/v1\nkind: IngressClass\nmetadata: {name: keyway}\nspec: {controller: keyway.dev/ingress}\n")
	s.each(s.size.Services, func(i int) error {
		if err := s.at(http.MethodPost, shopCore+"services", object{"metadata": object{"name": fmt.Sprint("s", i)}, "spec": object{"clusterIP": "None", "ports": []any{object{"name": "http", "port": 80}}}}); err != nil {
			return err
		}
		slice := object{"metadata": object{"name": fmt.Sprint("s", i), "labels": object{"kubernetes.io/service-name": fmt.Sprint("s", i)}}, "addressType": "FQDN", "ports": s.ports(0)}
		if ready := (object{"ready": true}); i < changing {
			slice["endpoints"] = []any{object{"addresses": []string{"origin.shop.test"}, "conditions": ready}}
		} else {
			slice["addressType"] = "IPv4"
			var list []any
			for j := range s.size.Endpoints / s.size.Services {
				list = append(list, object{"addresses": []string{fmt.Sprintf("10.%d.%d.%d", 1+j, i/250, 1+i%250)}, "conditions": ready})
			}
			slice["endpoints"] = list
		}
		return s.at(http.MethodPost, shopSlices, slice)
	})
	s.each(s.size.Ingresses, func(i int) error {
		data, _ := s.pair(i)
		if err := s.at(http.MethodPost, shopCore+"secrets", object{"metadata": object{"name": fmt.Sprint("tls", i)}, "type": "kubernetes.io/tls", "stringData": data}); err != nil {
			return err
		}
		return s.at(http.MethodPost, shopNet, object{"metadata": object{"name": fmt.Sprint("i", i)}, "spec": s.rules(i, "/")})
	})
	s.f.Making = time.Since(began).Seconds()
}

// coldStart starts a node that has never run, and looks at what it serves.
func (s *kubeScale) coldStart() {
	t := s.t
	t.Helper()
	dns := startDNS(t)
	dns.a["origin.shop.test."] = "127.0.0.1"
	began := time.Now()
	s.gateway = kubeGateway(t, s.k, dns, map[string]string{"KEYWAY_MEMORY_LIMIT": "1GiB"}, options{patience: 3 * time.Minute})
	s.f.Ready = time.Since(began).Seconds()
	active := fmt.Sprintf("keyway_credentials{state=\"active\"} %d\n", 2*s.size.Ingresses)
	poll(t, "every certificate is there", 2*time.Minute, func() bool {
		_, body := s.read("/metrics")
		return strings.Contains(body, active)
	})
	s.f.All, s.f.StartCPU = time.Since(began).Seconds(), s.busy().Seconds()
	for i := 0; i < s.size.Ingresses; i += max(1, s.size.Ingresses/50) {
		if _, err := shownLeaf(s.tls, hostOf(i), s.roots.pool()); err != nil {
			t.Fatalf("%s: %v", hostOf(i), err)
		}
	}
	s.answers(s.roots, hostOf(0), "/x", 200, "0 /x")
}

// slice points a Service at its other origin and answers how long its traffic needs to
// get there, from when the change was asked for.
func (s *kubeScale) slice(i int) (time.Duration, error) {
	s.turn[i] = 1 - s.turn[i]
	want, began := fmt.Sprintf("%d /", s.turn[i]), time.Now()
	if err := s.at(http.MethodPatch, fmt.Sprintf("%s/s%d", shopSlices, i), object{"ports": s.ports(s.turn[i])}); err != nil {
		return 0, err
	}
	return s.until(began, func() bool {
		_, body := s.asked(nil, hostOf(i), "/")
		return strings.HasPrefix(body, want)
	})
}

// renew gives a host another certificate and answers how long it takes until that is shown.
func (s *kubeScale) renew(i int) (time.Duration, error) {
	data, serial := s.pair(i)
	began := time.Now()
	if err := s.at(http.MethodPatch, fmt.Sprintf("%ssecrets/tls%d", shopCore, i), object{"stringData": data}); err != nil {
		return 0, err
	}
	return s.until(began, func() bool {
		leaf, err := shownLeaf(s.tls, hostOf(i), s.roots.pool())
		return err == nil && leaf.SerialNumber.String() == serial
	})
}

func (s *kubeScale) until(began time.Time, is func() bool) (time.Duration, error) {
	for !is() {
		if time.Since(began) > 30*time.Second {
			return 0, fmt.Errorf("a change is not served after %s", time.Since(began).Round(time.Millisecond))
		}
		<-time.After(2 * time.Millisecond)
	}
	return time.Since(began), nil
}

// middle is the median and the 99th percentile in milliseconds.
func middle(list []time.Duration) [2]int {
	m := timings{}
	for _, d := range list {
		m.add(false, d)
	}
	_, p50, p99 := m.reset(0)
	return [2]int{int(p50.Milliseconds()), int(p99.Milliseconds())}
}

// changesAlone changes one thing at a time.
func (s *kubeScale) changesAlone() {
	s.t.Helper()
	var slices, secrets []time.Duration
	for n := range s.size.Samples {
		took, err := s.slice(n % changing)
		if err != nil {
			s.t.Fatalf("an EndpointSlice: %v", err)
		}
		slices = append(slices, took)
		if took, err = s.renew(n * (s.size.Ingresses/s.size.Samples - 1)); err != nil {
			s.t.Fatalf("a Secret: %v", err)
		}
		secrets = append(secrets, took)
	}
	s.f.Slice, s.f.Secret = middle(slices), middle(secrets)
}

// unused makes Secrets that nothing refers to.
func (s *kubeScale) unused() {
	s.t.Helper()
	least := func() int {
		var h holding
		for n := range 40 { // changes make garbage, which is collected some time
			if _, err := s.slice(n % changing); err != nil {
				s.t.Fatalf("an EndpointSlice: %v", err)
			}
			h.least(s.holds(s.t))
		}
		return h.Heap
	}
	s.f.Heap[0] = least()
	fill := strings.Repeat("unused-c0ffee-16", s.size.Each<<10/16)
	s.each(s.size.Unused, func(i int) error {
		return s.at(http.MethodPost, shopCore+"secrets", object{"metadata": object{"name": fmt.Sprint("unused", i)}, "stringData": object{"data": fill}})
	})
	if _, err := s.renew(1); err != nil { // all before it were told of
		s.t.Fatalf("a Secret: %v", err)
	}
	s.f.Heap[1] = least()
	if grown := s.f.Heap[1] - s.f.Heap[0]; grown > s.size.Unused*len(fill)/2 {
		s.t.Errorf("%d Secrets that nobody uses have the heap grow by %d KiB", s.size.Unused, grown>>10)
	}
}

// sustained changes objects of all kinds at a rate, looks at some of the changes, and at
// the last ones.
func (s *kubeScale) sustained() {
	t := s.t
	t.Helper()
	total, began, cpu := s.size.Rate*s.size.Seconds, time.Now(), s.busy()
	stop, done := make(chan struct{}), make(chan struct{})
	var beside []time.Duration
	var trouble error
	go func() {
		defer close(done)
		for n := 0; trouble == nil; n++ {
			select {
			case <-stop:
				return
			case <-time.After(100 * time.Millisecond):
			}
			var took time.Duration
			if took, trouble = s.slice(n % changing); trouble == nil {
				beside = append(beside, took)
			}
		}
	}()
	s.each(total, func(n int) error {
		<-time.After(time.Until(began.Add(time.Duration(n) * time.Second / time.Duration(s.size.Rate))))
		i := changing + n*7919%(s.size.Ingresses-changing)
		switch n % 20 {
		case 0:
			data, _ := s.pair(i)
			return s.at(http.MethodPatch, fmt.Sprintf("%ssecrets/tls%d", shopCore, i), object{"stringData": data})
		case 1, 2, 3:
			return s.at(http.MethodPatch, fmt.Sprintf("%s/i%d", shopNet, i), object{"spec": s.rules(i, "/", fmt.Sprint("/v", n))})
		default:
			i = changing + n*7919%(s.size.Services-changing)
			return s.at(http.MethodPatch, fmt.Sprintf("%s/s%d", shopSlices, i), object{"ports": []any{object{"name": "http", "protocol": "TCP", "port": 8000 + n%100}}})
		}
	})
	s.f.Took, s.f.CPU = time.Since(began).Seconds(), (s.busy() - cpu).Seconds()
	close(stop)
	<-done
	if trouble != nil {
		t.Fatalf("an EndpointSlice beside changes: %v", trouble)
	}
	slice, err := s.slice(0)
	if err != nil {
		t.Fatalf("the last EndpointSlice: %v", err)
	}
	secret, err := s.renew(0)
	if err != nil {
		t.Fatalf("the last Secret: %v", err)
	}
	s.f.Changes, s.f.Beside = int64(total), middle(beside)
	s.f.Lag = [2]int{int(slice.Milliseconds()), int(secret.Milliseconds())}
}

// tell prints the figures, holds a full run to the aims, and writes the file that
// KUBE_SCALE_OUT names.
func (s *kubeScale) tell(full bool) {
	t := s.t
	t.Helper()
	version, err := os.ReadFile("../VERSION")
	if err != nil {
		t.Fatal(err)
	}
	f := &s.f
	f.Date, f.Version, f.Go, f.CPUs, f.Size = time.Now().UTC().Format(time.DateOnly), strings.TrimSpace(string(version)), runtime.Version(), runtime.NumCPU(), s.size
	rate := float64(f.Changes) / f.Took
	var text strings.Builder
	for _, l := range []struct {
		what     string
		is, most float64
		unit     string
	}{
		{"cold start to ready", f.Ready, 20, "s"},
		{"cold start to every certificate in use", f.All, 0, "s"},
		{"processor time of that", f.StartCPU, 0, "s"},
		{"resident memory at the end", float64(f.RSS >> 20), 0, "MiB"},
		{"most that was resident", float64(f.Peak >> 20), 1024, "MiB"},
		{"one EndpointSlice to traffic, p50", float64(f.Slice[0]), 0, "ms"},
		{"one EndpointSlice to traffic, p99", float64(f.Slice[1]), 200, "ms"},
		{"one renewed Secret to handshake, p50", float64(f.Secret[0]), 0, "ms"},
		{"one renewed Secret to handshake, p99", float64(f.Secret[1]), 500, "ms"},
		{"heap", float64(f.Heap[0]) / mebi, 0, "MiB"},
		{"heap with the unused Secrets", float64(f.Heap[1]) / mebi, 0, "MiB"},
		{"one EndpointSlice to traffic beside changes, p50", float64(f.Beside[0]), 0, "ms"},
		{"one EndpointSlice to traffic beside changes, p99", float64(f.Beside[1]), 0, "ms"},
		{"the EndpointSlice after the last change", float64(f.Lag[0]), 2000, "ms"},
		{"the Secret after that", float64(f.Lag[1]), 2000, "ms"},
		{"processor time of a second of changes", f.CPU / f.Took, 0, "s"},
	} {
		aim := ""
		if l.most > 0 {
			aim = fmt.Sprintf("  at most %.0f", l.most)
		}
		fmt.Fprintf(&text, "%-50s %8.1f %-3s%s\n", l.what, l.is, l.unit, aim)
		if full && l.most > 0 && l.is > l.most {
			t.Errorf("%s: %.1f %s; expected at most %.0f", l.what, l.is, l.unit, l.most)
		}
	}
	if full && rate < 0.95*float64(s.size.Rate) {
		t.Errorf("%.1f changes a second were made; expected %d: this machine cannot", rate, s.size.Rate)
	}
	t.Logf("%d Ingresses and TLS Secrets, %d Services, %d endpoints, made in %.1f s; %d Secrets of %d KiB that nobody uses; %.1f changes a second for %.0f s\n%s",
		f.Size.Ingresses, f.Size.Services, f.Size.Endpoints, f.Making, f.Size.Unused, f.Size.Each, rate, f.Took, text.String())
	if out := os.Getenv("KUBE_SCALE_OUT"); out != "" {
		data, err := json.MarshalIndent(f, "", " ")
		if err = cmp.Or(err, os.MkdirAll(filepath.Dir(out), 0o755)); err == nil {
			err = os.WriteFile(out, append(data, '\n'), 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

package integration

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"
)

// pods are three Deployments, each with a Service: of requests, of a TCP stream and of
// datagrams.
const pods = `
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, namespace: shop}
spec:
  replicas: %d
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      containers:
      - name: web
        image: registry.k8s.io/gateway-api/echo-basic:v1.6.3
        env: [{name: POD_NAME, valueFrom: {fieldRef: {fieldPath: metadata.name}}}]
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec: {selector: {app: web}, ports: [{name: http, port: 80, targetPort: 3000}]}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: stream, namespace: shop}
spec:
  selector: {matchLabels: {app: stream}}
  template:
    metadata: {labels: {app: stream}}
    spec:
      containers:
      - name: stream
        image: registry.k8s.io/gateway-api/echo-basic:v1.6.3
        env: [{name: TCP_ECHO_SERVER, value: "1"}, {name: TCP_PORT, value: "8443"}, {name: POD_NAME, valueFrom: {fieldRef: {fieldPath: metadata.name}}}]
---
apiVersion: v1
kind: Service
metadata: {name: stream, namespace: shop}
spec: {selector: {app: stream}, ports: [{name: tcp, port: 9000, targetPort: 8443}]}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: names, namespace: shop}
spec:
  selector: {matchLabels: {app: names}}
  template:
    metadata: {labels: {app: names}}
    spec: {containers: [{name: names, image: registry.k8s.io/coredns/coredns:v1.12.2}]}
---
apiVersion: v1
kind: Service
metadata: {name: names, namespace: shop}
spec: {selector: {app: names}, ports: [{name: dns, port: 53, protocol: UDP}]}
`

const podRoutes = `
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {name: web, namespace: shop}
spec:
  ingressClassName: keyway
  rules: [{host: web.test, http: {paths: [{path: /, pathType: Prefix, backend: {service: {name: web, port: {name: http}}}}]}}]
---
apiVersion: configuration.konghq.com/v1beta1
kind: TCPIngress
metadata: {name: stream, namespace: shop, annotations: {kubernetes.io/ingress.class: keyway}}
spec: {rules: [{port: 8443, backend: {serviceName: stream, servicePort: 9000}}]}
---
apiVersion: configuration.konghq.com/v1beta1
kind: UDPIngress
metadata: {name: names, namespace: shop, annotations: {kubernetes.io/ingress.class: keyway}}
spec: {rules: [{port: 53, backend: {serviceName: names, servicePort: 53}}]}
---
`

// TestPodsAsProcesses serves pods of a cluster, which run as processes: over HTTP by an
// Ingress, over TCP and UDP by the same ports on all addresses that the pods have.
func TestPodsAsProcesses(t *testing.T) {
	if !enclosed(t) {
		return
	}
	c := startCluster(t)
	c.define()
	c.namespace("shop")
	c.controller()
	c.apply(fmt.Sprintf(pods, 2) + "---" + ingressClass + podRoutes)
	g := kubeGateway(t, c.kubeServer, startDNS(t), map[string]string{"KEYWAY_STREAM_LISTEN": "0.0.0.0:8443, 0.0.0.0:53 udp"}, options{})

	web := g.podsSeen(t, 2)
	t.Run("requests", func(t *testing.T) {
		logs, _ := c.text("/api/v1/namespaces/shop/pods/" + web[0] + "/log")
		if !strings.Contains(logs, "Starting server, listening on port 3000") {
			t.Errorf("the log of %s: %q", web[0], logs)
		}
		c.apply(strings.SplitN(fmt.Sprintf(pods, 1), "---", 2)[0])
		if one := g.podsSeen(t, 1); one[0] != web[0] && one[0] != web[1] {
			t.Errorf("%v is left of %v", one, web)
		}
	})
	t.Run("a stream", func(t *testing.T) {
		poll(t, "the pod's stream answers", 20*time.Second, func() bool {
			conn, err := net.DialTimeout("tcp", "127.0.0.1:8443", 5*time.Second)
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = conn.Close() }()
			_ = conn.SetDeadline(time.Now().Add(5 * time.Second))
			r := bufio.NewReader(conn)
			hello, _ := r.ReadString('\n')
			_, _ = io.WriteString(conn, "TEST\n")
			said, _ := r.ReadString('\n')
			return strings.Contains(hello, "TCP Server") && strings.Contains(said, `"pod":"stream-`)
		})
	})
	t.Run("datagrams", func(t *testing.T) {
		if from := asker(t, "127.0.0.1:53"); !strings.HasPrefix(from, "10.64.") {
			t.Errorf("the pod saw a datagram from %q, want the node's end of the pod's link", from)
		}
	})
	t.Run("gone", func(t *testing.T) {
		g.t, c.t = t, t
		c.unapply(strings.SplitN(fmt.Sprintf(pods, 1), "---", 2)[0])
		g.answers(nil, "web.test", "/", 503, "")
		poll(t, "no pod is left", 20*time.Second, func() bool {
			list := c.do(http.MethodGet, "/api/v1/namespaces/shop/pods?labelSelector=app%3Dweb", nil)
			items, _ := list["items"].([]any)
			return len(items) == 0
		})
	})
}

// podsSeen waits until requests are answered by n pods, in turns, and by no other.
func (g *gateway) podsSeen(t *testing.T, n int) []string {
	t.Helper()
	var names []string
	poll(t, fmt.Sprintf("%d pods answer", n), 30*time.Second, func() bool {
		names = nil
		seen := map[string]bool{}
		for range 10 {
			code, body := g.asked(nil, "web.test", "/")
			var said struct{ Pod string }
			if code != http.StatusOK || json.Unmarshal([]byte(body), &said) != nil {
				return false
			}
			if !seen[said.Pod] {
				seen[said.Pod] = true
				names = append(names, said.Pod)
			}
		}
		return len(names) == n
	})
	return names
}

// text gets what the API server has no object for.
func (k *kubeServer) text(path string) (string, int) {
	k.t.Helper()
	resp, err := k.client.Get(k.addr + path)
	if err != nil {
		k.t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		k.t.Fatal(err)
	}
	return string(body), resp.StatusCode
}

// asker asks a server of names that tells who asked, and answers that.
func asker(t *testing.T, server string) (from string) {
	t.Helper()
	q := dnsmessage.Message{
		Header:    dnsmessage.Header{ID: 7, RecursionDesired: true},
		Questions: []dnsmessage.Question{{Name: dnsmessage.MustNewName("foo.bar.com."), Type: dnsmessage.TypeA, Class: dnsmessage.ClassINET}},
	}
	text, err := q.Pack()
	if err != nil {
		t.Fatal(err)
	}
	poll(t, server+" answers", 20*time.Second, func() bool {
		conn, err := net.Dial("udp", server)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = conn.Close() }()
		_ = conn.SetDeadline(time.Now().Add(time.Second))
		if _, err := conn.Write(text); err != nil {
			return false
		}
		buf := make([]byte, 4096)
		n, err := conn.Read(buf)
		var m dnsmessage.Message
		if err != nil || m.Unpack(buf[:n]) != nil || len(m.Additionals) != 1 {
			return false
		}
		a, ok := m.Additionals[0].Body.(*dnsmessage.AResource)
		if ok {
			from = net.IP(a.A[:]).String()
		}
		return ok
	})
	return from
}

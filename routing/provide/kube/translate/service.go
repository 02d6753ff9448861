package translate

import (
	"net"
	"slices"
	"strconv"
	"strings"
)

// backendState is what routes read of a port of a Service. Both texts are reasons for
// answering 503.
type backendState struct {
	Missing string // there is no such thing: the fault is of who refers to it
	Closed  string // the Service is not right
}

// port finds a port of a Service by name or number. A Service for a name elsewhere
// needs to list none.
func (s *Service) port(port string) (ServicePort, bool) {
	number, err := strconv.Atoi(port)
	for _, p := range s.Spec.Ports {
		if p.Name == port || err == nil && p.Port == number {
			return p, true
		}
	}
	return ServicePort{Port: number}, s.Spec.Type == "ExternalName" && err == nil
}

// backend makes the service and the upstream of a port of a Service.
func (w *run) backend() {
	name, port, transport := splitPort(w.self.Name)
	s, ok := w.subject.(*Service)
	if !ok {
		w.say(backendState{Missing: "expected the name of a Service in namespace " + w.self.Namespace + "; there is no '" + name + "'"})
		return
	}
	of, ok := s.port(port)
	if !ok {
		w.say(backendState{Missing: "expected the name or the number of a port of Service " + s.Namespace + "/" + name + "; it has no '" + port + "'"})
		return
	}
	fields := map[string]string{}
	service := map[string]any{"name": serviceName(w.self), "host": upstreamName(w.self), "tags": w.tags(s)}
	upstream := map[string]any{"name": upstreamName(w.self), "tags": service["tags"]}
	w.serviceOptions(&s.Meta, service, upstream, fields)
	w.spoken(s, of, transport, service)
	w.policy(&s.Meta, upstream, fields)
	closed := w.plugins(&s.Meta, "service", []string{serviceID(w.self)})
	if closed != "" && !w.refused {
		w.refused, w.why = true, closed
	}
	if transport != "" {
		w.verifyBackend(s, of, transport, service)
	}
	w.composeBackend(service, upstream, fields)
	w.need(Ref{unitEndpoints, w.self.Namespace, w.self.Name})
}

// spoken sets what a port is spoken to in, by those who lead to it: "" for Ingresses.
func (w *run) spoken(s *Service, port ServicePort, transport string, service map[string]any) {
	annotated, _ := annotated(&s.Meta, "protocol")
	transport, _, _ = strings.Cut(transport, ".")
	switch transport {
	case "":
	case "tcp", "udp", "pass":
		for _, field := range []string{"path", "retries"} {
			delete(service, field)
		}
		if service["protocol"] == "tls" && transport == "tcp" {
			break
		}
		if service["protocol"] = transport; transport == "pass" {
			service["protocol"] = "tls_passthrough"
		}
	case "grpc":
		if delete(service, "path"); annotated == "" {
			service["protocol"] = "grpc"
		}
	default:
		if annotated == "" && port.AppProtocol == "kubernetes.io/h2c" {
			service["x_keyway_upstream_protocol"] = "h2c"
		}
	}
}

// composeBackend makes the entities; what is not right is closed.
func (w *run) composeBackend(service, upstream map[string]any, fields map[string]string) {
	values := map[string][]any{"services": {service}, "upstreams": {upstream}}
	if !w.refused && w.compose(values, fields) {
		w.say(backendState{})
		return
	}
	w.say(backendState{Closed: w.why})
	values["services"] = []any{map[string]any{"name": service["name"], "host": service["host"]}}
	values["upstreams"] = []any{map[string]any{"name": upstream["name"]}}
	w.compose(values, nil)
}

// serviceOptions reads the annotations of a Service.
func (w *run) serviceOptions(m *Meta, service, upstream map[string]any, fields map[string]string) {
	protocol, field := annotated(m, "protocol")
	known := []string{"http", "https", "grpc", "grpcs", "tcp", "tls", "udp"}
	fields["services.protocol"] = field
	switch {
	case protocol == "":
		protocol = "http"
	case !slices.Contains(known, protocol):
		w.refuse(field, "expected one of "+strings.Join(known, ", ")+", not '"+protocol+"'")
	}
	service["protocol"] = protocol
	if path, field := annotated(m, "path"); path != "" {
		service["path"], fields["services.path"] = path, field
	} else if strings.HasPrefix(protocol, "http") {
		service["path"] = "/"
	}
	if host, field := annotated(m, "host-header"); host != "" {
		upstream["host_header"], fields["upstreams.host_header"] = host, field
	}
	for name, to := range map[string]string{"connect-timeout": "connect_timeout", "read-timeout": "read_timeout", "write-timeout": "write_timeout"} {
		w.whole(m, name, 1, 1<<31-2, func(n int) { service[to] = n })
	}
	w.whole(m, "retries", 0, 32767, func(n int) { service["retries"] = n })
	w.serviceTLS(m, service, fields)
}

// serviceTLS reads how a Service is spoken to over TLS.
func (w *run) serviceTLS(m *Meta, service map[string]any, fields map[string]string) {
	if secret, field := annotated(m, "client-cert"); secret != "" {
		fields["services.client_certificate"] = field
		if !objectName(secret) {
			w.refuse(field, "expected the name of a Secret, not '"+secret+"'")
		} else {
			pair := Ref{unitPair, m.Namespace, secret}
			w.need(pair)
			service["client_certificate"] = pairID(pair)
		}
	}
	text, field := annotated(m, "tls-verify")
	fields["services.tls_verify"] = field
	w.guard(field, text, func(yes bool) { service["tls_verify"] = yes })
	w.authorities(m, service, fields)
	w.whole(m, "tls-verify-depth", 0, 64, func(n int) { service["tls_verify_depth"] = n })
}

// objectName says whether a text can name an object.
func objectName(s string) bool {
	return s != "" && len(s) <= 253 && strings.Trim(s, "abcdefghijklmnopqrstuvwxyz0123456789-.") == "" && s[0] != '.' && s[0] != '-'
}

// endpoints makes the targets of a port of a Service. Where no endpoint is ready,
// those that still serve while they end are better than none.
func (w *run) endpoints() {
	s, ok := w.subject.(*Service)
	if !ok {
		return
	}
	name, port, _ := splitPort(w.self.Name)
	p, ok := s.port(port)
	if !ok {
		return
	}
	var ready []target
	switch {
	case s.Spec.Type == "ExternalName":
		ready = []target{{host: s.Spec.ExternalName, port: p.Port}}
	case w.asOne(s):
		ready = []target{{host: name + "." + s.Namespace + ".svc", port: p.Port}}
	default:
		ready = w.ready(s, p)
	}
	slices.SortFunc(ready, target.compare)
	ready = slices.CompactFunc(ready, func(a, b target) bool { return a.address() == b.address() })
	var list []any
	upstream := w.upstreamID()
	for _, t := range ready {
		v := map[string]any{"upstream": upstream, "target": t.address()}
		if t.zone != "" {
			v["x_keyway_zone"] = t.zone
		}
		if t.ending {
			v["weight"] = 0
		}
		list = append(list, v)
	}
	if len(list) > 0 {
		w.compose(map[string][]any{"targets": list}, nil)
	}
}

// asOne says whether a Service is one target, which balances for itself.
func (w *run) asOne(s *Service) bool {
	const name = "ingress.kubernetes.io/service-upstream"
	switch text := s.Annotations[name]; text {
	case "true":
		return true
	case "", "false":
	default:
		w.ignore(annotation(name), "expected true or false, not '"+text+"'")
	}
	return w.parameters().Spec.ServiceUpstream
}

// ready are the endpoints of a port that take requests, and with sticky sessions those
// that end while others are ready, for who is there already.
func (w *run) ready(s *Service, p ServicePort) []target {
	of := Ref{collectSlices, s.Namespace, s.Name}
	w.reads[of] = struct{}{}
	var ready, ending []target
	for _, slice := range w.slices[of] {
		port := -1
		for _, sp := range slice.Ports {
			if sp.Name == p.Name && sp.Port != 0 && (sp.Protocol == "" || p.Protocol == "" || sp.Protocol == p.Protocol) {
				port = sp.Port
			}
		}
		if port < 0 {
			continue
		}
		for i := range slice.Endpoints {
			e := &slice.Endpoints[i]
			if len(e.Addresses) == 0 {
				continue
			}
			t := target{host: e.Addresses[0], port: port, zone: e.Zone, second: slice.AddressType == "IPv6"}
			c := &e.Conditions
			switch {
			case c.Ready == nil || *c.Ready:
				ready = append(ready, t)
			case c.Serving != nil && *c.Serving && c.Terminating != nil && *c.Terminating:
				ending = append(ending, t)
			}
		}
	}
	switch {
	case len(ready) == 0:
		ready = ending
	case len(ending) > 0 && w.sticky(&s.Meta):
		for _, t := range ending {
			t.ending = true
			ready = append(ready, t)
		}
	}
	// A Service of two families has every endpoint twice.
	if first := slices.DeleteFunc(slices.Clone(ready), func(t target) bool { return t.second }); len(first) > 0 {
		return first
	}
	return ready
}

// target is one address.
type target struct {
	host   string
	port   int
	zone   string
	second bool // of the second family of addresses
	ending bool // it gets nobody new
}

func (t target) address() string { return net.JoinHostPort(t.host, strconv.Itoa(t.port)) }

func (t target) compare(o target) int {
	if c := strings.Compare(t.address(), o.address()); c != 0 {
		return c
	}
	return strings.Compare(t.zone, o.zone)
}

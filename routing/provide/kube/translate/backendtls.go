package translate

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"
)

// tlsClaim says that a policy is for a Service, or for one port of it.
type tlsClaim struct {
	Object  Ref
	Created time.Time
	Port    string // name, "" for all
}

// policyState is what is found of a policy by itself.
type policyState struct {
	Accepted, Resolved outcome
	Authorities        []string // ids
	System             bool     // those of the system
	Hostname           string
	Names              []string // that certificates may be for in place of the hostname
}

// backendTLS reads a BackendTLSPolicy and says for which Services it is.
func (w *run) backendTLS() {
	p, ok := w.subject.(*BackendTLS)
	if !ok {
		w.say(policyState{})
		return
	}
	for i, t := range p.Spec.TargetRefs {
		if t.Group != "" || t.Kind != "Service" {
			w.ignore(fmt.Sprintf("spec.targetRefs[%d]", i), "expected a Service, not a "+t.Kind)
			continue
		}
		of := Ref{collectTLS, p.Namespace, t.Name}
		list, _ := w.gives[of].([]tlsClaim)
		w.give(of, append(slices.Clone(list), tlsClaim{RefOf(p), p.CreationTimestamp, or(t.SectionName, "")}))
	}
	v := &p.Spec.Validation
	s := policyState{Hostname: v.Hostname}
	for i := range v.CACertificateRefs {
		ids, why := w.bundle(RefOf(p), &v.CACertificateRefs[i])
		if why.Reason != "" {
			s.Resolved.fail(why.Reason, fmt.Sprintf("spec.validation.caCertificateRefs[%d]: %s", i, why.Message))
			continue
		}
		s.Authorities = append(s.Authorities, ids...)
	}
	switch {
	case v.WellKnown == "System" && len(v.CACertificateRefs) == 0:
		s.System = true
	case v.WellKnown != "":
		s.Accepted.fail("Invalid", "spec.validation.wellKnownCACertificates: expected System, and no caCertificateRefs beside it")
	case len(s.Authorities) == 0:
		s.Accepted.fail("NoValidCACertificate", "spec.validation.caCertificateRefs: expected a ConfigMap with the certificate of an authority")
	}
	for i, n := range v.SubjectAltNames {
		switch {
		case n.Type == "Hostname" && n.Hostname != "":
			s.Names = append(s.Names, n.Hostname)
		case n.Type == "URI" && n.URI != "":
			s.Names = append(s.Names, n.URI)
		default:
			s.Accepted.fail("Invalid", fmt.Sprintf("spec.validation.subjectAltNames[%d]: expected a hostname or a URI", i))
		}
	}
	for _, o := range []outcome{s.Accepted, s.Resolved} {
		if o.Reason != "" {
			field, message, _ := strings.Cut(o.Message, ": ")
			w.find(field, message, Closed)
		}
	}
	w.say(s)
}

// before orders claims of one port: the oldest policy counts, then by name.
func (c *tlsClaim) before(o *tlsClaim) bool {
	return cmp.Or(c.Created.Compare(o.Created), c.Object.compare(o.Object)) < 0
}

// tlsOf finds the policy of a port of a Service, zero for none. One that names the port
// goes before one for the whole Service.
func (w *run) tlsOf(namespace, service, port string) Ref {
	var best *tlsClaim
	for _, s := range w.collected(Ref{collectTLS, namespace, service}) {
		list, _ := s.v.([]tlsClaim)
		for _, c := range list {
			switch {
			case c.Port != "" && c.Port != port:
			case best == nil, (c.Port != "") != (best.Port != "") && c.Port != "", (c.Port != "") == (best.Port != "") && c.before(best):
				best = &c
			}
		}
	}
	if best == nil {
		return Ref{}
	}
	return best.Object
}

// verifyBackend has a service speak TLS as its policy says.
func (w *run) verifyBackend(s *Service, port ServicePort, transport string, service map[string]any) {
	if service["protocol"] == "udp" || service["protocol"] == "tls_passthrough" {
		return // TLS is not spoken here
	}
	of := w.tlsOf(s.Namespace, s.Name, port.Name)
	if of.Kind == "" {
		if w.unreadable(KindBackendTLS, s.Namespace) {
			w.refuse("spec.ports", unreadText(KindBackendTLS)) // nothing is said in clear that was meant for TLS
		}
		return
	}
	p, _ := w.value(Ref{unitBackendTLS, of.Namespace, of.Name}).(policyState)
	if p.Accepted.Reason != "" {
		w.refused, w.why = true, of.String()+": "+p.Accepted.Message
		return
	}
	switch service["protocol"] {
	case "tcp", "tls":
		service["protocol"] = "tls"
	default:
		if service["protocol"] == "grpc" || service["protocol"] == "grpcs" || service["x_keyway_upstream_protocol"] != nil {
			service["x_keyway_upstream_protocol"] = "h2" // and services of gRPC have no verification of their own
		}
		service["protocol"] = "https"
	}
	service["tls_verify"] = true
	if len(p.Authorities) > 0 {
		service["ca_certificates"] = p.Authorities
	}
	service["x_keyway_tls_name"] = p.Hostname
	if len(p.Names) > 0 {
		service["x_keyway_tls_subjects"] = p.Names
	}
	_, client, _ := strings.Cut(transport, ".") // of the Gateway, see spokenBy
	if namespace, name, ok := strings.Cut(client, "."); ok && service["client_certificate"] == nil {
		pair := Ref{unitPair, namespace, name}
		w.need(pair)
		service["client_certificate"] = pairID(pair)
	}
}

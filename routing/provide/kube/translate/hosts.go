package translate

import (
	"time"

	"github.com/keyway-edge/keyway/routing/spec"
)

// claim is what an object says in a collection of which one wins: the oldest.
type claim struct {
	Object  Ref
	Created time.Time
	Secret  string // of a server name
}

// first is the oldest claim, of equal ones the first by name. What the others lose is a
// finding of theirs.
func (w *run) first(all []said, field, what string) *claim {
	best := oldest(all)
	for _, s := range all {
		c, ok := s.v.(claim)
		if !ok || c == *best || c.Secret != "" && c.Secret == best.Secret && c.Object.Namespace == best.Object.Namespace {
			continue
		}
		if o := w.look(c.Object.Kind, c.Object.Namespace, c.Object.Name); o != nil {
			w.findings = append(w.findings, Finding{
				Object: c.Object, UID: o.Common().UID, Field: field, Effect: Ignored,
				Message: "expected nobody before it to ask for " + what + "; " + best.Object.String() + " is older",
			})
		}
	}
	return best
}

// host binds a server name to the certificate of its oldest claim.
func (w *run) host() {
	best := w.first(w.collected(w.self), "spec.tls", "a certificate for "+w.self.Name)
	if best == nil {
		return
	}
	pair := Ref{unitPair, best.Object.Namespace, best.Secret}
	w.need(pair)
	w.compose(map[string][]any{"snis": {map[string]any{"name": w.self.Name, "certificate": pairID(pair)}}}, nil)
}

// pair is a certificate and its key in a Secret, by reference.
func (w *run) pair() {
	w.compose(map[string][]any{"certificates": {map[string]any{
		"id": pairID(w.self), "cert": w.secret(w.self, "tls.crt"), "key": w.secret(w.self, "tls.key"),
		"tags": []string{"k8s-name:" + w.self.Name, "k8s-namespace:" + w.self.Namespace, "k8s-kind:Secret", "k8s-version:v1", "managed-by-ingress-controller"},
	}}}, nil)
}

// secret is a reference to a key of a Secret.
func (w *run) secret(of Ref, key string) string {
	return "{vault://" + w.cfg.Vault + "/" + of.Namespace + "/" + of.Name + "/" + key + "}"
}

func pairID(pair Ref) string {
	return spec.DeriveID("certificates", "kubernetes:"+pair.Namespace+"/"+pair.Name)
}

func (w *run) upstreamID() string { return spec.DeriveID("upstreams", upstreamName(w.self)) }

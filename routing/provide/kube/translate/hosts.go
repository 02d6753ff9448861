package translate

import (
	"cmp"
	"time"

	"github.com/keyway-edge/keyway/routing/spec"
)

// claim is what an object says in a collection of which one wins: the oldest.
type claim struct {
	Object  Ref
	Created time.Time
	Secret  string // of a server name

	Namespace string // of the Secret, "" for the object's
	Implied   bool   // the name is one of the certificate's, or every name: others go before it
}

// pair is the unit of the certificate of a server name.
func (c *claim) pair() Ref {
	return Ref{unitPair, cmp.Or(c.Namespace, c.Object.Namespace), c.Secret}
}

// first is the oldest claim, of equal ones the first by name. What the others lose is a
// finding of theirs.
func (w *run) first(all []said, field, what string) *claim {
	best := oldest(all)
	for _, s := range all {
		c, ok := s.v.(claim)
		if !ok || c == *best || c.Implied || c.Secret != "" && c.pair() == best.pair() {
			continue
		}
		at, effect := field, Ignored
		switch c.Object.Kind {
		case KindGateway, KindListenerSet:
			at = "spec.listeners"
		case KindCustomEntity:
			at, effect = "spec.fields.name", Closed // nothing of it is served
		case KindVault:
			effect = Closed
		}
		w.findOf(c.Object, at, "expected nobody before it to ask for "+what+"; "+best.Object.String()+" is older", effect)
	}
	return best
}

// host binds a server name to the certificate of its oldest claim.
func (w *run) host() {
	best := w.first(w.collected(w.self), "spec.tls", "a certificate for "+w.self.Name)
	if best == nil {
		return
	}
	pair := best.pair()
	w.need(pair)
	values := w.named(pair)
	if values == nil {
		values = map[string]any{"name": w.self.Name, "certificate": pairID(pair)}
	}
	w.compose(map[string][]any{"snis": {values}}, nil)
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

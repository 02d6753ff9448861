package translate

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/pem"
	"slices"
	"strings"
)

const authorityLabel = "konghq.com/ca-cert"

// authority claims the id of an authority's certificate in a Secret or a ConfigMap.
func (w *run) authority() {
	if w.subject == nil || w.subject.Common().Labels[authorityLabel] != "true" || !w.ours(w.subject.Common().Annotations[classAnnotation]) {
		return
	}
	id, has := authorityOf(w.subject)
	switch {
	case !uuid(id):
		w.find("data.id", "expected a UUID, by which services name this authority", Closed)
	case !has:
		w.find("data.cert", "expected the certificate of an authority, PEM", Closed)
	case reference(w.subject):
		w.find("data.cert", "expected the certificate of an authority, PEM, and no reference to one", Closed)
	default:
		c := claim{Object: RefOf(w.subject), Created: w.subject.Common().CreationTimestamp}
		w.give(Ref{unitAuthorityID, "", id}, c)
		if m, ok := w.subject.(*AuthorityMap); ok {
			if digest := digestOf(m.Data["cert"]); digest != "" {
				w.give(Ref{unitAnchor, "", digest}, rooted{c, id})
			}
		}
	}
}

// rooted is the claim of a ConfigMap to be the authority of a certificate, by an id.
type rooted struct {
	claim
	ID string
}

// authorityState is what others read of the authority of an id.
type authorityState struct{ ID string } // of the entity, "" while there is none

// digestOf is that of a certificate, as the units of authorities are called by, "" for none.
func digestOf(text string) string {
	block, _ := pem.Decode([]byte(text))
	if block == nil {
		return ""
	}
	sum := sha256.Sum256(block.Bytes)
	return hex.EncodeToString(sum[:])
}

// authorityOf answers the id of an authority and whether there is a certificate.
func authorityOf(o Object) (id string, has bool) {
	switch o := o.(type) {
	case *Authority:
		return strings.ToLower(o.Plain["id"]), o.Keys["cert"]
	case *AuthorityMap:
		return strings.ToLower(strings.TrimSpace(o.Data["id"])), o.Data["cert"] != ""
	}
	return "", false
}

// reference says whether a ConfigMap has a reference in place of a certificate: what is
// written there must not lead to secrets of others.
func reference(o Object) bool {
	m, ok := o.(*AuthorityMap)
	return ok && strings.Contains(m.Data["cert"], "{vault:")
}

// authorityID makes the certificate of the oldest claim of an id: by reference where it
// is in a Secret. What is in a ConfigMap may be there several times, and in a document once.
func (w *run) authorityID() {
	w.say(authorityState{})
	best := w.first(w.collected(w.self), "data.id", "the id "+w.self.Name)
	if best == nil {
		return
	}
	o := w.look(best.Object.Kind, best.Object.Namespace, best.Object.Name)
	if o == nil {
		return
	}
	w.subject = o
	m, inMap := o.(*AuthorityMap)
	cert := w.secret(best.Object, "cert")
	if inMap {
		cert = m.Data["cert"]
	}
	if !w.composeAuthority(w.self.Name, cert) {
		return
	}
	state := authorityState{w.self.Name}
	if inMap {
		w.doc = nil
		state, _ = w.value(Ref{unitAnchor, "", digestOf(cert)}).(authorityState)
	}
	w.say(state)
}

// composeAuthority makes the entity of the subject's certificate.
func (w *run) composeAuthority(id, cert string) bool {
	return w.compose(map[string][]any{"ca_certificates": {map[string]any{"id": id, "cert": cert, "tags": w.tags(w.subject)}}}, map[string]string{"ca_certificates.cert": "data.cert"})
}

// anchor makes the certificate of an authority, once for all who verify by it: of those who
// gave it an id the oldest, if nobody names it by itself.
func (w *run) anchor() {
	w.say(authorityState{})
	var all []said
	ids := map[Ref]string{}
	for _, s := range w.collected(w.self) {
		switch v := s.v.(type) {
		case string:
			w.compose(map[string][]any{"ca_certificates": {map[string]any{"id": anchorID(w.self), "cert": v, "tags": []string{"managed-by-ingress-controller"}}}}, nil)
			w.say(authorityState{anchorID(w.self)})
			return
		case rooted:
			if has := oldest(w.collected(Ref{unitAuthorityID, "", v.ID})); has != nil && has.Object == v.Object {
				all, ids[v.Object] = append(all, said{s.by, v.claim}), v.ID
			}
		}
	}
	best := oldest(all)
	if best == nil {
		return
	}
	if m, ok := w.look(best.Object.Kind, best.Object.Namespace, best.Object.Name).(*AuthorityMap); ok {
		w.subject = m
		if w.composeAuthority(ids[best.Object], m.Data["cert"]) {
			w.say(authorityState{ids[best.Object]})
		}
		w.findings = nil // which the authority's own unit tells
	}
}

// authorities reads by which authorities a Service is verified. One that is missing
// cannot be left out: with none of them everybody's would do.
func (w *run) authorities(m *Meta, service map[string]any, fields map[string]string) {
	var ids []string
	for _, from := range [][2]string{{"ca-certificates-secrets", KindAuthority}, {"ca-certificates-configmaps", KindAuthorityMap}} {
		text, field := annotated(m, from[0])
		for _, name := range commaList(text) {
			o := w.look(from[1], m.Namespace, name)
			if o == nil {
				w.refuse(field, "expected names of objects in namespace "+m.Namespace+" with the label "+authorityLabel+": \"true\"; there is no '"+name+"'"+w.labelledOnly(from[1]))
				continue
			}
			id, has := authorityOf(o)
			if !has || !uuid(id) || !w.ours(o.Common().Annotations[classAnnotation]) {
				w.refuse(field, "expected '"+name+"' to have a UUID in 'id', a certificate in 'cert' and our class in the annotation "+classAnnotation)
				continue
			}
			state, _ := w.value(Ref{unitAuthorityID, "", id}).(authorityState)
			if state.ID == "" {
				w.refuse(field, "expected '"+name+"' to have the certificate of an authority")
				continue
			}
			if !slices.Contains(ids, state.ID) {
				ids = append(ids, state.ID)
			}
		}
		fields["services.ca_certificates"] = field
	}
	if len(ids) > 0 {
		service["ca_certificates"] = ids
	}
}

// uuid says whether a text is one, in lower case.
func uuid(s string) bool {
	if len(s) != 36 {
		return false
	}
	for i := range len(s) {
		switch dash := i == 8 || i == 13 || i == 18 || i == 23; {
		case dash != (s[i] == '-'):
			return false
		case !dash && !strings.Contains("0123456789abcdef", s[i:i+1]):
			return false
		}
	}
	return true
}

package translate

import "strings"

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
		w.give(Ref{unitAuthorityID, "", id}, claim{Object: RefOf(w.subject), Created: w.subject.Common().CreationTimestamp})
	}
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
// is in a Secret.
func (w *run) authorityID() {
	best := w.first(w.collected(w.self), "data.id", "the id "+w.self.Name)
	if best == nil {
		return
	}
	o := w.look(best.Object.Kind, best.Object.Namespace, best.Object.Name)
	if o == nil {
		return
	}
	w.subject = o
	cert := w.secret(best.Object, "cert")
	if m, ok := o.(*AuthorityMap); ok {
		cert = m.Data["cert"]
	}
	w.compose(map[string][]any{"ca_certificates": {map[string]any{"id": w.self.Name, "cert": cert, "tags": w.tags(o)}}}, map[string]string{"ca_certificates.cert": "data.cert"})
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
				w.refuse(field, "expected names of objects in namespace "+m.Namespace+" with the label "+authorityLabel+": \"true\"; there is no '"+name+"'")
				continue
			}
			id, has := authorityOf(o)
			if !has || !uuid(id) || !w.ours(o.Common().Annotations[classAnnotation]) {
				w.refuse(field, "expected '"+name+"' to have a UUID in 'id', a certificate in 'cert' and our class in the annotation "+classAnnotation)
				continue
			}
			w.need(Ref{unitAuthorityID, "", id})
			ids = append(ids, id)
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

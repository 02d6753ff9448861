package translate

import "strings"

// What cert-manager makes to have a name proved over HTTP (RFC 8555, section 8.3): for
// each challenge a pod that answers it, a Service, and an Ingress or an HTTPRoute with
// the one path of the challenge, which it takes away again. With the annotation
// acme.cert-manager.io/http01-edit-in-place it puts that path into the Ingress that the
// certificate is for.
const (
	challengePath = "/.well-known/acme-challenge/"
	solverLabel   = "acme.cert-manager.io/http01-solver"
	solverService = "cm-acme-http-solver-" // begins the names of its Services
)

// solves says that paths of an object with this backend answer challenges. Such routes
// come before redirects and before every other route of their hosts, so it takes more
// than a label: a path that is not the whole one of a challenge comes first nowhere.
func solves(m *Meta, service string, paths []path) bool {
	if m.Labels[solverLabel] != "true" && !strings.HasPrefix(service, solverService) {
		return false
	}
	for _, p := range paths {
		token, ok := strings.CutPrefix(p.text, challengePath)
		if p.kind != exactPath || !ok || token == "" || strings.Contains(token, "/") {
			return false
		}
	}
	return len(paths) > 0
}

// ofSolver is what is left of an object's options for a route that answers a challenge:
// authorities ask in clear, for the path as it is, and send no header that somebody chose.
// What guards the object guards it too.
func (o *options) ofSolver() *options {
	return &options{fields: map[string]any{}, origins: o.origins, tags: o.tags, closed: o.closed}
}

package admission

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/keyway-edge/keyway/routing/provide/kube/translate"
	"github.com/keyway-edge/keyway/routing/spec"
)

func handler() http.Handler {
	return Handler(translate.Config{Class: "keyway", Controllers: []string{"keyway.dev/ingress"}, Vault: "node.kubernetes", Schemas: spec.Schemas{
		"limit": {Name: "limit", Fields: []spec.Schema{{Name: "minute", Type: spec.Number}}},
	}}, func(o translate.Object) bool { return o.Common().Labels["of"] != "another" }, slog.New(slog.DiscardHandler))
}

func post(t *testing.T, body string) (int, response) {
	t.Helper()
	r := httptest.NewRequest(http.MethodPost, "/", strings.NewReader(body))
	r.Header.Set("Content-Type", "application/json; charset=utf-8")
	w := httptest.NewRecorder()
	handler().ServeHTTP(w, r)
	var v review
	if w.Code == http.StatusOK {
		if err := json.Unmarshal(w.Body.Bytes(), &v); err != nil || v.Kind != "AdmissionReview" || v.APIVersion != "admission.k8s.io/v1" || v.Response == nil {
			t.Fatalf("%v: %s", err, w.Body)
		}
		return w.Code, *v.Response
	}
	return w.Code, response{}
}

func reviewOf(group, kind, object, old string) string {
	return fmt.Sprintf(`{"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": {"uid": "u-1", "kind": {"group": %q, "version": "v1", "kind": %q}, "object": %s, "oldObject": %s}}`, group, kind, object, old)
}

func TestObjectsAreJudged(t *testing.T) {
	const kong = "configuration.konghq.com"
	plugin := func(minute string) string {
		return `{"metadata": {"namespace": "shop", "name": "p"}, "plugin": "limit", "config": {"minute": ` + minute + `}}`
	}
	ingress := func(class, annotation, value string) string {
		return fmt.Sprintf(`{"metadata": {"namespace": "shop", "name": "i", "annotations": {%q: %q}}, "spec": {"ingressClassName": %q}}`, annotation, value, class)
	}
	for _, c := range []struct {
		what, review string
		refused      string // "" for allowed
		warned       string
	}{
		{"a good plugin", reviewOf(kong, "KongPlugin", plugin("5"), "null"), "", ""},
		{"a bad one", reviewOf(kong, "KongPlugin", plugin(`"many"`), "null"), "config.minute: ", ""},
		{"one that this node does not take", reviewOf(kong, "KongPlugin", `{"metadata": {"namespace": "shop", "name": "p", "labels": {"of": "another"}}, "plugin": "limit", "config": {"minute": "many"}}`, "null"), "", ""},
		{"one that gets worse", reviewOf(kong, "KongPlugin", plugin(`"many"`), plugin("5")), "config.minute: ", ""},
		{"one that was bad", reviewOf(kong, "KongPlugin", plugin(`"many"`), plugin(`"many"`)), "", "it was so before"},
		{"one that gets better", reviewOf(kong, "KongPlugin", plugin("5"), plugin(`"many"`)), "", ""},
		{"another controller's", reviewOf(kong, "KongPlugin", `{"metadata": {"namespace": "shop", "name": "p"}, "plugin": "theirs"}`, "null"), "", "plugin: "},
		{"one that is deleted", reviewOf(kong, "KongPlugin", "null", plugin(`"many"`)), "", ""},
		{"one of another form", reviewOf(kong, "KongPlugin", `{"metadata": 5}`, "null"), "form of a KongPlugin", ""},
		{"of another group", reviewOf("other.test", "KongPlugin", plugin(`"many"`), "null"), "", ""},
		{"an Ingress that says less than it means", reviewOf("networking.k8s.io", "Ingress", ingress("keyway", "konghq.com/protocols", "htps"), "null"), "metadata.annotations[konghq.com/protocols]: ", ""},
		{"of another class", reviewOf("networking.k8s.io", "Ingress", ingress("other", "konghq.com/protocols", "htps"), "null"), "", ""},
		{"a value that can be left out", reviewOf("networking.k8s.io", "Ingress", ingress("keyway", "konghq.com/preserve-host", "maybe"), "null"), "", "it is left out"},
		{"a Service that would be spoken to otherwise", reviewOf("", "Service", `{"metadata": {"namespace": "shop", "name": "s", "annotations": {"konghq.com/protocol": "htps"}}, "spec": {"ports": [{"port": 80}]}}`, "null"), "metadata.annotations[konghq.com/protocol]: ", ""},
		{"a route that says less than it means", reviewOf("gateway.networking.k8s.io", "HTTPRoute", `{"metadata": {"namespace": "shop", "name": "r", "annotations": {"konghq.com/protocols": "htps"}}, "spec": {}}`, "null"), "metadata.annotations[konghq.com/protocols]: ", ""},
		{"a Secret, which is nobody's here", reviewOf("", "Credential", `{"metadata": {"name": "s"}}`, "null"), "", ""},
		{"a kind that is not ours", reviewOf("apps", "Deployment", `{"metadata": {"name": "d"}}`, "null"), "", ""},
	} {
		code, got := post(t, c.review)
		switch {
		case code != http.StatusOK || got.UID != "u-1" || got.Allowed != (c.refused == ""):
			t.Errorf("%s: %d %+v", c.what, code, got)
		case !got.Allowed && (got.Status == nil || got.Status.Code != 422 || !strings.Contains(got.Status.Message, c.refused)):
			t.Errorf("%s: refused with %+v; expected %q", c.what, got.Status, c.refused)
		case (len(got.Warnings) > 0) != (c.warned != "") || !strings.Contains(strings.Join(got.Warnings, "\n"), c.warned):
			t.Errorf("%s: warnings %q; expected %q", c.what, got.Warnings, c.warned)
		}
	}
}

func TestWhatIsNoReview(t *testing.T) {
	for body, want := range map[string]int{
		"": 400, "{}": 400, "[1": 400, `{"apiVersion": "admission.k8s.io/v1beta1", "kind": "AdmissionReview", "request": {}}`: 400,
		strings.Repeat(" ", most+1): 413,
	} {
		if code, _ := post(t, body); code != want {
			t.Errorf("%.40s: %d; expected %d", body, code, want)
		}
	}
	w := httptest.NewRecorder()
	handler().ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/", nil))
	if w.Code != http.StatusMethodNotAllowed || w.Header().Get("Allow") != http.MethodPost {
		t.Errorf("GET: %d", w.Code)
	}
	w = httptest.NewRecorder()
	handler().ServeHTTP(w, httptest.NewRequest(http.MethodPost, "/", strings.NewReader("{}")))
	if w.Code != http.StatusUnsupportedMediaType {
		t.Errorf("without a type: %d", w.Code)
	}
}

// FuzzReview: whatever an object says, it is answered.
func FuzzReview(f *testing.F) {
	for _, kind := range []string{"Ingress", "KongPlugin", "KongConsumer", "KongVault", "KongUpstreamPolicy", "KongCustomEntity", "TCPIngress", "Service", "HTTPRoute", "GRPCRoute"} {
		f.Add(kind, `{"metadata": {"namespace": "shop", "name": "x", "annotations": {"kubernetes.io/ingress.class": "keyway", "konghq.com/headers.a": "b"}}, "plugin": "limit", "config": {"minute": 5}, "username": "a"}`)
		f.Add(kind, `{"metadata": {"name": "x"}, "spec": {"ingressClassName": "keyway", "prefix": "abc", "backend": "env", "algorithm": "consistent-hashing", "hashOn": {"header": "x"}, "rules": [{"host": "*.a.test", "port": 9000, "backend": {"serviceName": "a", "servicePort": 1}, "http": {"paths": [{"path": "/~/(a", "pathType": "ImplementationSpecific", "backend": {"service": {"name": "a", "port": {"number": 1}}}}]}}]}}`)
	}
	cfg := translate.Config{Class: "keyway", Controllers: []string{"keyway.dev/ingress"}, Vault: "node.kubernetes", Schemas: spec.Schemas{"limit": {Name: "limit", Fields: []spec.Schema{{Name: "minute", Type: spec.Number}}}}}
	f.Fuzz(func(t *testing.T, kind, object string) {
		if !json.Valid([]byte(object)) {
			t.Skip()
		}
		asked := &request{UID: "u", Object: json.RawMessage(object)}
		asked.Kind.Kind = kind
		asked.Kind.Group = "configuration.konghq.com"
		switch kind {
		case "Ingress":
			asked.Kind.Group = "networking.k8s.io"
		case "Service":
			asked.Kind.Group = ""
		case "HTTPRoute", "GRPCRoute":
			asked.Kind.Group = "gateway.networking.k8s.io"
		}
		if answer := judge(cfg, func(translate.Object) bool { return true }, asked); answer.UID != "u" || answer.Allowed == (answer.Status != nil) {
			t.Errorf("%+v", answer)
		}
	})
}

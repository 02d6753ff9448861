package env_test

import (
	"os"
	"strings"
	"testing"

	"github.com/keyway-edge/keyway/secrets"
	"github.com/keyway-edge/keyway/secrets/env"
	"github.com/keyway-edge/keyway/secrets/secrettest"
)

func TestContract(t *testing.T) {
	secrettest.Contract(t, func(t *testing.T) secrettest.Subject {
		variable := func(name string) string { return "KEYWAY_TEST_" + strings.ToUpper(name) }
		return secrettest.Subject{
			Source: env.New(env.Config{Prefix: "keyway-test-"}),
			Put: func(t *testing.T, name, value string) {
				if old, ok := os.LookupEnv(variable(name)); ok {
					t.Setenv(variable(name)+"_PREVIOUS", old)
				}
				t.Setenv(variable(name), value)
			},
			Remove: func(t *testing.T, name string) {
				t.Setenv(variable(name), "")
				os.Unsetenv(variable(name))
			},
			Previous: true,
			Fixed:    true,
		}
	})
}

func TestNames(t *testing.T) {
	t.Setenv("MY_SECRET", "plain")
	t.Setenv("SSL_MY_SECRET", "prefixed")
	t.Setenv("MY_SECRET_PREVIOUS", "before")
	f := func(prefix string, r secrets.Request, want string) {
		t.Helper()
		l, err := env.New(env.Config{Prefix: prefix}).Fetch(t.Context(), r)
		if err != nil || string(l.Value.Reveal()) != want {
			t.Errorf("%+v with prefix %q: %q, %v; expected %q", r, prefix, l.Value.Reveal(), err, want)
		}
	}
	f("", secrets.Request{Resource: "my-secret"}, "plain")
	f("", secrets.Request{Resource: "my-secret", Version: 2}, "before")
	f("ssl-", secrets.Request{Resource: "my-secret"}, "prefixed")
	f("x_", secrets.Request{Resource: "my-secret", Options: map[string]string{"prefix": "SSL_"}}, "prefixed")
}

func TestParse(t *testing.T) {
	if c, err := env.Parse(map[string]any{"prefix": "A_"}); err != nil || c.Prefix != "A_" {
		t.Errorf("%+v, %v", c, err)
	}
	if c, err := env.Parse(map[string]any{"prefix": nil}); err != nil || c.Prefix != "" {
		t.Errorf("%+v, %v", c, err)
	}
	f := func(field string, v any) {
		t.Helper()
		if _, err := env.Open(map[string]any{field: v}); err == nil || !strings.HasPrefix(err.Error(), "config."+field+": ") {
			t.Errorf("%s: %v is %v", field, v, err)
		}
	}
	f("prefix", 1)
	f("root", "/")
}

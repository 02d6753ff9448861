package secrets_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"github.com/keyway-edge/keyway/secrets"
)

func TestParseRef(t *testing.T) {
	f := func(text, vault, resource, key, query string, version int) {
		t.Helper()
		r, err := secrets.ParseRef(text)
		if err != nil || r.Vault != vault || r.Resource != resource || r.Key != key || r.Query != query || r.Version != version || r.String() != text {
			t.Errorf("%s is vault %q resource %q key %q query %q version %d, %v", text, r.Vault, r.Resource, r.Key, r.Query, r.Version, err)
		}
	}
	f("{vault://env/my-secret}", "env", "my-secret", "", "", 0)
	f("{vault://hcv/pg/username}", "hcv", "pg", "username", "", 0)
	f("{vault://my-prefix/secret/name/key}", "my-prefix", "secret/name", "key", "", 0)
	f("{vault://file/dir/name/}", "file", "dir/name", "", "", 0)
	f("{vault://file/name/}", "file", "name", "", "", 0)
	f("{vault://file/dir%2Fname}", "file", "dir/name", "", "", 0)
	f("{vault://file/dir%2Fname/a%20b}", "file", "dir/name", "a b", "", 0)
	f("{vault://env/x?prefix=SSL_&ttl=60#2}", "env", "x", "", "prefix=SSL_&ttl=60", 2)
	f("{vault://env/x#1}", "env", "x", "", "", 1)
}

func TestParseRefRefuses(t *testing.T) {
	f := func(bad string) {
		t.Helper()
		if r, err := secrets.ParseRef(bad); err == nil || !r.IsZero() || strings.ContainsAny(err.Error(), "\n\x1b") {
			t.Errorf("%q is %+v, %v", bad, r, err)
		}
	}
	f("")
	f("plain")
	f("Bearer {vault://env/x}")
	f("{vault://env/x} ")
	f("{vault://}")
	f("{vault://env}")
	f("{vault://env/}")
	f("{vault:///x}")
	f("{vault://env//x}")
	f("{vault://env/x#new}")
	f("{vault://env/x#-1}")
	f("{vault://env/%zz}")
	f("{vault://env/x/%zz}")
	f("{vault://env/x?a=%zz}")
	f("{vault://env/x?a;b}")
	f("{vault://env/a\nb}")
	f("{vault://env/a\x1b[0mb}")
}

func FuzzParseRef(f *testing.F) {
	for _, s := range []string{"{vault://env/x}", "{vault://a/b/c/d?ttl=1#2}", "{vault://a/%2F/}", "{vault://", "}"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		r, err := secrets.ParseRef(s)
		if err != nil {
			if !r.IsZero() {
				t.Error("an error with a reference")
			}
			return
		}
		if !secrets.IsRef(s) || r.String() != s || r.Vault == "" || r.Resource == "" || r.Version < 0 {
			t.Errorf("%q is %+v", s, r)
		}
	})
}

func TestValueNeverPrints(t *testing.T) {
	v := secrets.NewValue([]byte("canary"))
	holder := struct {
		V secrets.Value
		v secrets.Value
		p *secrets.Value
		m map[string]secrets.Value
	}{v, v, &v, map[string]secrets.Value{"k": v}}
	var out bytes.Buffer
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d"} {
		fmt.Fprintf(&out, verb+verb, v, holder)
	}
	b, err := json.Marshal(holder)
	if err != nil {
		t.Fatal(err)
	}
	out.Write(b)
	slog.New(slog.NewJSONHandler(&out, nil)).Info("m", "v", v, "h", holder)
	slog.New(slog.NewTextHandler(&out, nil)).Info("m", "v", v, "h", holder)
	for _, leak := range []string{"canary", "63616e617279", "99 97 110"} {
		if strings.Contains(out.String(), leak) {
			t.Errorf("printed %q in %s", leak, out.String())
		}
	}
	if string(v.Reveal()) != "canary" || v.IsZero() || !(secrets.Value{}).IsZero() || secrets.NewValue(nil).IsZero() {
		t.Error("the value itself")
	}
}

package acme

import (
	"strings"
	"testing"
)

// TestParse reads configs, and names each field that is wrong, without the HMAC key.
func TestParse(t *testing.T) {
	c, err := Parse(map[string]any{
		Name: "le", "directories": []any{"https://a.test/dir", map[string]any{"url": "https://b.test/dir", "ca_file": "/b.pem"}}, "terms_agreed": true,
		"email": "a@b.test", "eab_kid": "k", "eab_hmac_key": "c2VjcmV0", "ca_file": "/a.pem", "challenges": []any{"http-01"}, "renew_before": 86400.0,
		"on_demand": map[string]any{"allow": "*.shops.test", "ask": "http://127.0.0.1:1/ask", "routes": true},
	})
	if err != nil {
		t.Fatal(err)
	}
	if d := c.Directories; len(d) != 2 || d[0].EABKeyID != "k" || d[0].CAFile != "/a.pem" || d[1].EABKeyID != "" || d[1].CAFile != "/b.pem" {
		t.Errorf("directories %+v", d)
	}
	if len(c.Challenges) != 1 || c.RenewBefore.Hours() != 24 || !c.OnDemand.Enabled() || c.OnDemand.Allow[0] != "*.shops.test" {
		t.Errorf("%+v", c)
	}
	const key = "not base64url!"
	for field, config := range map[string]map[string]any{
		"terms_agreed":        {"terms_agreed": false},
		"directories":         {"directories": 7},
		"directories.1.url":   {"directories": []any{"http://a.test/dir"}},
		"directories.1.eab":   {"directories": []any{map[string]any{"url": "https://a.test", "eab": "x"}}},
		"eab_hmac_key":        {"eab_kid": "k", "eab_hmac_key": key},
		"eab_kid":             {"eab_kid": "k"},
		"ca_file":             {"ca_file": "relative.pem"},
		"challenges":          {"challenges": []any{"dns-01"}},
		"renew_before":        {"renew_before": "soon"},
		"on_demand.allow":     {"on_demand": map[string]any{"allow": []any{"*"}}},
		"on_demand.ask":       {"on_demand": map[string]any{"ask": "ftp://a.test"}},
		"on_demand.everybody": {"on_demand": map[string]any{"everybody": true}},
		"agree":               {"agree": true},
	} {
		full := map[string]any{"directories": "https://a.test/dir", "terms_agreed": true}
		for k, v := range config {
			full[k] = v
		}
		if _, err := Parse(full); err == nil || !strings.Contains(err.Error(), "config."+field+": ") || strings.Contains(err.Error(), key) {
			t.Errorf("%s: %v", field, err)
		}
	}
	if _, err := Parse(map[string]any{}); err == nil || strings.Count(err.Error(), "config.") != 2 {
		t.Errorf("an empty config: %v", err)
	}
}

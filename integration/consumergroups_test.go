package integration

import (
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"
)

const groupsDocument = `
_format_version: "3.0"
services:
- name: s
  url: http://%s
  plugins: [{name: key-auth}, {name: rate-limiting, config: {minute: 3}}]
  routes:
  - {name: open, paths: [/open]}
  - name: narrow
    paths: [/narrow]
    plugins:
    - {name: rate-limiting, config: {minute: 50}}
    - {name: rate-limiting, consumer_group: silver, config: {minute: 7}}
    - {name: acl, config: {allow: [gold], include_consumer_groups: true}}
consumer_groups:
- name: gold
  plugins: [{name: rate-limiting, config: {minute: 9}}]
- name: silver
  consumers: [{username: bob}]
  plugins: [{name: rate-limiting, config: {minute: 5}}]
consumers:
- {username: ann, groups: [{name: gold}], keyauth_credentials: [{key: ann-key}]}
- {username: bob, keyauth_credentials: [{key: bob-key}]}
- {username: cid, groups: [silver, gold], keyauth_credentials: [{key: cid-key}]}
- {username: dan, keyauth_credentials: [{key: dan-key}]}
- {username: eve, groups: [gold], keyauth_credentials: [{key: eve-key}], plugins: [{name: rate-limiting, config: {minute: 1}}]}
`

// asConsumer asks with a key and answers the status, the limit of the minute that was
// told, and what the upstream saw as groups.
func asConsumer(t testing.TB, g *gateway, key, path string) (status, limit int, groups string) {
	t.Helper()
	req, err := http.NewRequest(http.MethodGet, "http://"+g.proxy+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("apikey", key)
	client := http.Client{Timeout: 30 * time.Second}
	resp, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	if _, err := io.Copy(io.Discard, resp.Body); err != nil {
		t.Fatal(err)
	}
	limit, _ = strconv.Atoi(resp.Header.Get("X-RateLimit-Limit-Minute"))
	return resp.StatusCode, limit, resp.Header.Get("Saw-Groups")
}

// TestConsumerGroups has groups with limits of their own: whose limit a request is held to
// follows from the consumer, its groups, the route and the service.
func TestConsumerGroups(t *testing.T) {
	o := origin(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Saw-Groups", r.Header.Get("X-Consumer-Groups"))
	})
	document := fmt.Sprintf(groupsDocument, o)
	g := start(t, options{document: document})
	for _, c := range []struct {
		key, path string
		status    int
		limit     int
		groups    string
	}{
		// A group, and a consumer before it, comes before the service alone.
		{"ann-key", "/open", 200, 9, ""},
		{"bob-key", "/open", 200, 5, ""},
		{"dan-key", "/open", 200, 3, ""},
		{"eve-key", "/open", 200, 1, ""},
		{"cid-key", "/open", 200, 9, ""}, // of two groups the first by name
		{"ann-key", "/narrow", 200, 9, "gold"},
		{"cid-key", "/narrow", 200, 7, "gold, silver"}, // route and group before the group
		{"bob-key", "/narrow", 403, 0, ""},
		{"dan-key", "/narrow", 403, 0, ""},
	} {
		if status, limit, groups := asConsumer(t, g, c.key, c.path); status != c.status || limit != c.limit || groups != c.groups {
			t.Errorf("%s %s: %d with limit %d and groups %q, want %d, %d, %q", c.key, c.path, status, limit, groups, c.status, c.limit, c.groups)
		}
	}
	// The limits are kept, each consumer's by itself: five for bob, nine for ann.
	count := func(key string) (let int) {
		for range 12 {
			if status, _, _ := asConsumer(t, g, key, "/open"); status == 200 {
				let++
			}
		}
		return let
	}
	began := time.Now().Unix() / 60
	ann, bob := count("ann-key"), count("bob-key")
	if minutes := int(time.Now().Unix()/60-began) + 1; ann > 9*minutes || bob > 5*minutes || minutes == 1 && ann <= bob {
		t.Errorf("ann was let through %d times, bob %d times in %d minutes", ann, bob, minutes)
	}
	if out, err := g.run("explain", "http://a.test/narrow", "--consumer", "cid", "--data-dir", g.dir); err != nil || !strings.Contains(out, "groups gold, silver") || !strings.Contains(out, "rate-limiting (route+consumer_group)") {
		t.Errorf("explain: %v\n%s", err, out)
	}
	// Who changes their group is held to the other's limit from then on.
	g.load(strings.Replace(document, "consumers: [{username: bob}]", "consumers: [ann]", 1))
	if _, limit, _ := asConsumer(t, g, "bob-key", "/open"); limit != 3 {
		t.Errorf("bob is in no group any more: limit %d", limit)
	}
	if _, limit, groups := asConsumer(t, g, "ann-key", "/narrow"); limit != 7 || groups != "gold, silver" {
		t.Errorf("ann is in both groups: limit %d, groups %q", limit, groups)
	}
}

package acl

import (
	"fmt"
	"strings"
	"testing"

	"github.com/keyway-edge/keyway/policy"
	"github.com/keyway-edge/keyway/policy/vectortest"
	"github.com/keyway-edge/keyway/routing/spec"
)

// send sends a request of one consumer, "" for nobody, through the chain.
func send(ch *policy.Chain, doc *spec.Document, username string, anonymous bool) string {
	c := vectortest.NewContext("GET", "/", "")
	c.X.Request.Fields.Add("x-consumer-groups", "forged")
	c.X.Request.Fields.Add("x-authenticated-groups", "forged")
	if username != "" {
		identity := &policy.Identity{ID: "k"}
		if anonymous {
			identity = nil
		}
		policy.Authenticate(c, policy.NewDirectory(doc, nil).Consumer(username), identity, anonymous)
	}
	if reply := ch.Access(c); reply != nil {
		return fmt.Sprintf("%d %s", reply.Status, reply.Message)
	}
	if c.X.Request.Fields.Has("X-Authenticated-Groups") {
		return "forged groups go upstream"
	}
	groups, told := c.X.Request.Fields.Lookup("X-Consumer-Groups")
	return fmt.Sprintf("%q %v", groups, told)
}

const (
	unknown = "401 Unauthorized"
	refused = "403 You cannot consume this service"
)

func TestKongDefaults(t *testing.T) { vectortest.Defaults(t, Kind()) }

func TestExample(t *testing.T) {
	doc := vectortest.Example(t, Kind())
	ch := vectortest.FirstChain(t, doc, vectortest.Env(doc), Kind())
	for username, want := range map[string]string{"ann": `"staff, finance" true`, "bob": refused, "": unknown} {
		if got := send(ch, doc, username, false); got != want {
			t.Errorf("%q: got %s, want %s", username, got, want)
		}
	}
}

func TestAccess(t *testing.T) {
	const text = `
_format_version: "3.0"
routes: [{name: r, paths: [/], plugins: [{name: acl, config: %s}]}]
consumers: [{username: ann, groups: [z, b], acls: [{group: a}, {group: b}]}, {username: none}, {username: zed, groups: [z, c]}]
consumer_groups: [{name: z}, {name: b}, {name: c}]
`
	f := func(config, username string, anonymous bool, want string) {
		t.Helper()
		doc := vectortest.LoadAll(t, []policy.Kind{Kind()}, fmt.Sprintf(text, config))
		if got := send(vectortest.FirstChain(t, doc, vectortest.Env(doc), Kind()), doc, username, anonymous); got != want {
			t.Errorf("%s, %q: got %s, want %s", config, username, got, want)
		}
	}
	f(`{allow: [x, b]}`, "ann", false, `"a, b" true`)
	f(`{allow: [x]}`, "ann", false, refused)
	f(`{allow: [x]}`, "ann", true, unknown)
	f(`{allow: [B]}`, "ann", false, refused)
	f(`{deny: [b]}`, "ann", false, refused)
	f(`{deny: [b]}`, "ann", true, unknown)
	f(`{deny: [x]}`, "ann", false, `"a, b" true`)
	f(`{deny: [x]}`, "none", false, `"" true`)
	f(`{deny: [x]}`, "", false, unknown)
	f(`{allow: [z]}`, "zed", false, refused)
	f(`{deny: [z]}`, "zed", false, `"" true`)
	f(`{allow: [z], include_consumer_groups: false}`, "zed", false, refused)
	f(`{allow: [z], include_consumer_groups: true}`, "zed", false, `"c, z" true`)
	f(`{allow: [z], include_consumer_groups: true}`, "ann", false, `"a, b, z" true`)
	f(`{deny: [z], include_consumer_groups: true}`, "zed", false, refused)
	f(`{allow: [a], hide_groups_header: true}`, "ann", false, `"" false`)
}

func TestConfigErrors(t *testing.T) {
	for config, want := range map[string]string{
		`{}`:                           "at least one of these fields must be non-empty: 'config.allow', 'config.deny'",
		`{"allow":["a"],"deny":["b"]}`: "exactly one of these fields must be non-empty: 'config.allow', 'config.deny'",
	} {
		if _, problems := vectortest.Compile(t, Kind(), &policy.Env{}, config); !strings.Contains(problems.Error(), want) {
			t.Errorf("%s: %v, want %s", config, problems, want)
		}
	}
}

// Package keyauth is the plugin key-auth: it names the consumer by an API key in
// a field, the query or the body of the request.
package keyauth

import (
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"time"

	"github.com/keyway-edge/keyway/edge/exchange"
	"github.com/keyway-edge/keyway/policy"
	"github.com/keyway-edge/keyway/routing/spec"
)

// Name is the plugin's name in documents.
const Name = "key-auth"

// Kind is the plugin.
func Kind() policy.Kind {
	return policy.Kind{Schema: schema(), Compile: compile, Authenticates: true}
}

func schema() spec.PluginSchema {
	yes := func(name string, preset bool) spec.Schema {
		return spec.Schema{Name: name, Type: spec.Boolean, Required: true, Default: preset}
	}
	return spec.PluginSchema{
		Name:       Name,
		NoConsumer: true, // it is what finds the consumer
		Fields: []spec.Schema{
			{Name: "key_names", Type: spec.Array, Required: true, Default: []any{"apikey"}, Elements: &spec.Schema{Type: spec.String}},
			yes("hide_credentials", false),
			{Name: "anonymous", Type: spec.String},
			yes("key_in_header", true),
			yes("key_in_query", true),
			yes("key_in_body", false),
			yes("run_on_preflight", true),
			{Name: "realm", Type: spec.String},
		},
		Verify: verify,
	}
}

func verify(conf map[string]any) []spec.FieldError {
	var bad []spec.FieldError
	names, _ := conf["key_names"].([]any)
	for i, x := range names {
		name, _ := x.(string)
		if !isFieldName(name) {
			bad = append(bad, spec.FieldError{
				Field:   "key_names." + strconv.Itoa(i+1),
				Message: "bad header name '" + name + "', allowed characters are A-Z, a-z, 0-9, '_', and '-'",
			})
		}
	}
	return bad
}

func isFieldName(s string) bool {
	for i := range len(s) {
		b := s[i]
		if b != '_' && b != '-' && (b < '0' || b > '9') && (b|0x20 < 'a' || b|0x20 > 'z') {
			return false
		}
	}
	return s != ""
}

type config struct {
	KeyNames       []string `json:"key_names"`
	Hide           bool     `json:"hide_credentials"`
	Anonymous      string   `json:"anonymous"`
	InHeader       bool     `json:"key_in_header"`
	InQuery        bool     `json:"key_in_query"`
	InBody         bool     `json:"key_in_body"`
	RunOnPreflight bool     `json:"run_on_preflight"`
	Realm          string   `json:"realm"`
}

type plugin struct {
	config
	challenge []exchange.Field
}

var (
	errDuplicate = errors.New("the request has more than one API key under one name")
	errAnonymous = errors.New("key-auth: the anonymous consumer of the config does not exist")
)

func compile(_ *policy.Env, p *spec.Plugin) (policy.Instance, error) {
	a := new(plugin)
	if err := spec.Bind(p.Config, &a.config); err != nil {
		return policy.Instance{}, fmt.Errorf("compiling key-auth: %w", err)
	}
	challenge := "Key"
	if a.Realm != "" {
		challenge += ` realm="` + a.Realm + `"`
	}
	a.challenge = []exchange.Field{{Name: "WWW-Authenticate", Value: challenge}}
	return policy.Instance{Access: a.access}, nil
}

func (a *plugin) access(c *policy.Context) *policy.Reply {
	if !a.RunOnPreflight && c.X.Request.Method == http.MethodOptions {
		return nil
	}
	if a.Anonymous != "" && c.Authenticated() {
		return nil // one of several alternatives has succeeded already
	}
	reply := a.authenticate(c)
	if reply == nil || a.Anonymous == "" || reply.Status != http.StatusUnauthorized {
		return reply
	}
	consumer := c.Directory.Consumer(a.Anonymous)
	if consumer == nil {
		reply = policy.ErrorReply(http.StatusInternalServerError, "")
		reply.Err = fmt.Errorf("%w: %q", errAnonymous, a.Anonymous)
		return reply
	}
	policy.Authenticate(c, consumer, nil, true)
	return nil
}

func (a *plugin) authenticate(c *policy.Context) *policy.Reply {
	name, key, err := a.find(c)
	switch {
	case errors.Is(err, errDuplicate):
		return a.refuse("Duplicate API key found")
	case err != nil:
		return badBody(err)
	case name != "" && a.Hide:
		a.hide(c, name) // also an empty or wrong key: an anonymous client's goes no further
	}
	if key == "" {
		return a.refuse("No API key found in request")
	}
	known, ok := c.Directory.Key(key)
	if !ok || expired(known.Credential, c.Now) {
		return a.refuse("Unauthorized")
	}
	policy.Authenticate(c, known.Consumer, known.Identity(), false)
	return nil
}

func (a *plugin) refuse(message string) *policy.Reply {
	return &policy.Reply{Status: http.StatusUnauthorized, Message: message, Fields: a.challenge}
}

// badBody answers for a body that could not be read at all.
func badBody(err error) *policy.Reply {
	status := http.StatusBadRequest
	if b, ok := errors.AsType[*exchange.BodyError](err); ok && b.Status != 0 {
		status = b.Status
	}
	reply := policy.ErrorReply(status, "")
	reply.Err = err
	return reply
}

// expired judges the ttl of a credential, which runs from its creation.
func expired(k *spec.KeyAuth, now time.Time) bool {
	return k.TTL > 0 && k.CreatedAt > 0 && now.Unix() >= k.CreatedAt+k.TTL
}

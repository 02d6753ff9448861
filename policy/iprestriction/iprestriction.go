// Package iprestriction is the plugin ip-restriction: it lets a request through
// by the address of its client.
package iprestriction

import (
	"errors"
	"fmt"
	"net/http"
	"strconv"

	"github.com/keyway-edge/keyway/policy"
	"github.com/keyway-edge/keyway/routing/spec"
)

// Name is the plugin's name in documents.
const Name = "ip-restriction"

// Kind is the plugin.
func Kind() policy.Kind {
	return policy.Kind{Schema: schema(), Compile: compile}
}

func schema() spec.PluginSchema {
	ranges := func(name string) spec.Schema {
		return spec.Schema{Name: name, Type: spec.Array, Elements: &spec.Schema{Type: spec.String}}
	}
	return spec.PluginSchema{
		Name:      Name,
		Protocols: []string{"http", "https", "tcp", "tls", "grpc", "grpcs"},
		Fields: []spec.Schema{
			ranges("allow"),
			ranges("deny"),
			{Name: "status", Type: spec.Number},
			{Name: "message", Type: spec.String},
		},
		Checks: []spec.Check{{Kind: spec.AtLeastOneOf, Fields: []string{"config.allow", "config.deny"}}},
		Verify: verify,
	}
}

func verify(conf map[string]any) []spec.FieldError {
	var bad []spec.FieldError
	for _, name := range []string{"allow", "deny"} {
		list, _ := conf[name].([]any)
		for i, x := range list {
			text, _ := x.(string)
			if _, err := parse(text); err != nil {
				bad = append(bad, spec.FieldError{Field: name + "." + strconv.Itoa(i+1), Message: "invalid ip or cidr range: '" + text + "'"})
			}
		}
	}
	if status, ok := conf["status"].(float64); ok && (status < 200 || status > 599 || status != float64(int(status))) {
		bad = append(bad, spec.FieldError{Field: "status", Message: "expected the status of a response, an integer from 200 to 599"})
	}
	return bad
}

type config struct {
	Allow   []string `json:"allow"`
	Deny    []string `json:"deny"`
	Status  float64  `json:"status"`
	Message string   `json:"message"`
}

type restriction struct {
	allow, deny *set // nil for no list
	status      int
	message     string // "" for the one with the address in it
}

var errNoAddress = errors.New("the client has no IP address: the plugin ip-restriction cannot judge it")

func compile(_ *policy.Env, p *spec.Plugin) (policy.Instance, error) {
	var conf config
	if err := spec.Bind(p.Config, &conf); err != nil {
		return policy.Instance{}, fmt.Errorf("compiling ip-restriction: %w", err)
	}
	r := restriction{status: http.StatusForbidden, message: conf.Message}
	if conf.Status != 0 {
		r.status = int(conf.Status)
	}
	var err error
	if r.allow, err = newSet(conf.Allow); err != nil {
		return policy.Instance{}, fmt.Errorf("compiling ip-restriction: config.allow: %w", err)
	}
	if r.deny, err = newSet(conf.Deny); err != nil {
		return policy.Instance{}, fmt.Errorf("compiling ip-restriction: config.deny: %w", err)
	}
	return policy.Instance{Access: r.access}, nil
}

// access: an address on the deny list is out even when the allow list has it too.
func (r *restriction) access(c *policy.Context) *policy.Reply {
	ip := c.ClientIP.Unmap().WithZone("")
	if !ip.IsValid() {
		reply := policy.ErrorReply(r.status, "the address of the client is not known")
		reply.Err = errNoAddress
		return reply
	}
	if r.deny.has(ip) || r.allow != nil && !r.allow.has(ip) {
		message := r.message
		if message == "" {
			message = "IP address not allowed: " + ip.String()
		}
		return policy.ErrorReply(r.status, message)
	}
	return nil
}

// Package acl is the plugin acl: it lets a consumer through by the groups it is
// in, and tells the upstream which they are.
package acl

import (
	"fmt"
	"net/http"
	"slices"
	"strings"

	"github.com/keyway-edge/keyway/policy"
	"github.com/keyway-edge/keyway/routing/spec"
)

// Name is the plugin's name in documents.
const Name = "acl"

const (
	groupsField = "X-Consumer-Groups"
	// authenticatedField is where upstreams look for groups that an authentication
	// plugin found elsewhere. No plugin here finds any, so what is there is forged.
	authenticatedField = "X-Authenticated-Groups"
)

// Kind is the plugin.
func Kind() policy.Kind {
	return policy.Kind{Schema: schema(), Compile: compile}
}

func schema() spec.PluginSchema {
	groups := func(name string) spec.Schema {
		return spec.Schema{Name: name, Type: spec.Array, Elements: &spec.Schema{Type: spec.String}}
	}
	either := []string{"config.allow", "config.deny"}
	return spec.PluginSchema{
		Name:       Name,
		NoConsumer: true,
		Fields: []spec.Schema{
			groups("allow"),
			groups("deny"),
			{Name: "hide_groups_header", Type: spec.Boolean, Required: true, Default: false},
			{Name: "always_use_authenticated_groups", Type: spec.Boolean, Required: true, Default: false},
			{Name: "include_consumer_groups", Type: spec.Boolean, OmitEmpty: true},
		},
		Checks: []spec.Check{{Kind: spec.OnlyOneOf, Fields: either}, {Kind: spec.AtLeastOneOf, Fields: either}},
	}
}

type config struct {
	Allow      []string `json:"allow"`
	Deny       []string `json:"deny"`
	HideGroups bool     `json:"hide_groups_header"`
	// AlwaysAuthenticated prefers groups that an authentication plugin found
	// outside the document. None of this build's does, and then the consumer's
	// groups are what counts, with and without it.
	AlwaysAuthenticated bool `json:"always_use_authenticated_groups"`
	// ConsumerGroups makes the names of consumer groups groups as well.
	ConsumerGroups bool `json:"include_consumer_groups"`
}

func compile(_ *policy.Env, p *spec.Plugin) (policy.Instance, error) {
	var conf config
	if err := spec.Bind(p.Config, &conf); err != nil {
		return policy.Instance{}, fmt.Errorf("compiling acl: %w", err)
	}
	return policy.Instance{Access: conf.access}, nil
}

func (conf *config) access(c *policy.Context) *policy.Reply {
	if c.Consumer == nil {
		return policy.ErrorReply(http.StatusUnauthorized, "Unauthorized")
	}
	groups := conf.groups(c)
	if !conf.lets(groups) {
		if !c.Authenticated() { // it may be let through once it says who it is
			return policy.ErrorReply(http.StatusUnauthorized, "Unauthorized")
		}
		return policy.ErrorReply(http.StatusForbidden, "You cannot consume this service")
	}
	c.X.Request.Fields.Del(authenticatedField)
	if conf.HideGroups {
		// Why: what the client wrote there would pass for what this plugin found.
		c.X.Request.Fields.Del(groupsField)
		return nil
	}
	c.X.Request.Fields.Set(groupsField, strings.Join(groups, ", "))
	return nil
}

// groups are those of the consumer: its own, then by name the consumer groups that it is in.
func (conf *config) groups(c *policy.Context) []string {
	groups := c.Directory.Groups(c.Consumer.ID)
	if !conf.ConsumerGroups {
		return groups
	}
	groups = slices.Clone(groups)
	for _, g := range c.Directory.ConsumerGroups(c.Consumer.ID) {
		if !slices.Contains(groups, g.Name) {
			groups = append(groups, g.Name)
		}
	}
	return groups
}

func (conf *config) lets(groups []string) bool {
	in := func(list []string) bool {
		return slices.ContainsFunc(groups, func(g string) bool { return slices.Contains(list, g) })
	}
	if len(conf.Deny) > 0 {
		return !in(conf.Deny)
	}
	return in(conf.Allow)
}

package ratelimiting

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/keyway-edge/keyway/routing/spec"
)

func schema() spec.PluginSchema {
	names := make([]string, periods)
	s := spec.PluginSchema{Name: Name}
	for i, name := range periodNames {
		names[i] = "config." + strings.ToLower(name)
		s.Fields = append(s.Fields, spec.Schema{Name: strings.ToLower(name), Type: spec.Number, GT: new(float64)})
	}
	s.Fields = append(s.Fields,
		spec.Schema{
			Name: "limit_by", Type: spec.String, Default: "consumer",
			OneOf: []any{"consumer", "credential", "ip", "service", "header", "path"},
		},
		spec.Schema{Name: "header_name", Type: spec.String},
		spec.Schema{Name: "path", Type: spec.String, StartsWith: "/"},
		spec.Schema{Name: "policy", Type: spec.String, Default: "local", OneOf: []any{"local", "cluster", "redis"}},
		spec.Schema{Name: "fault_tolerant", Type: spec.Boolean, Required: true, Default: true},
		spec.Schema{Name: "redis", Type: spec.Record, Required: true, Fields: redis("", false)},
		spec.Schema{Name: "hide_client_headers", Type: spec.Boolean, Required: true, Default: false},
		spec.Schema{Name: "error_code", Type: spec.Number, Default: 429.0, GT: new(float64)},
		spec.Schema{Name: "error_message", Type: spec.String, Default: "API rate limit exceeded"},
		spec.Schema{Name: "sync_rate", Type: spec.Number, Required: true, Default: -1.0},
	)
	s.Fields = append(s.Fields, redis("redis_", true)...)
	needs := func(field string, value any, needed string) spec.Check {
		return spec.Check{Kind: spec.ConditionalNeeded, Fields: []string{field, needed}, If: value}
	}
	s.Checks = []spec.Check{
		{Kind: spec.AtLeastOneOf, Fields: names},
		needs("config.policy", "redis", "config.redis.host"),
		needs("config.policy", "redis", "config.redis.port"),
		needs("config.policy", "redis", "config.redis.timeout"),
		needs("config.limit_by", "header", "config.header_name"),
		needs("config.limit_by", "path", "config.path"),
	}
	s.Verify = verify
	return s
}

// redis are the fields of a connection to Redis: a record, and its members once
// more under old names beside it.
func redis(prefix string, deprecated bool) []spec.Schema {
	fields := []spec.Schema{
		{Name: "host", Type: spec.String},
		{Name: "port", Type: spec.Integer, Default: 6379.0, Between: &[2]float64{0, 65535}},
		{Name: "timeout", Type: spec.Integer, Default: 2000.0, Between: &[2]float64{0, 2147483646}},
		{Name: "username", Type: spec.String, Referenceable: true},
		{Name: "password", Type: spec.String, LenMin: -1, Referenceable: true, Encrypted: true},
		{Name: "database", Type: spec.Integer, Default: 0.0},
		{Name: "ssl", Type: spec.Boolean, Default: false},
		{Name: "ssl_verify", Type: spec.Boolean, Default: false},
		{Name: "server_name", Type: spec.String},
	}
	for i := range fields {
		fields[i].Name = prefix + fields[i].Name
		fields[i].Deprecated = deprecated
	}
	return fields
}

func unsupported(policy string) string {
	if policy == "local" || policy == "" {
		return ""
	}
	return "expected 'local', which counts on each node by itself: this version of Keyway has no counters for '" + policy +
		"'; with n nodes behind one address set the limits to one n-th"
}

func verify(conf map[string]any) []spec.FieldError {
	var bad []spec.FieldError
	if policy, ok := conf["policy"].(string); ok {
		if message := unsupported(policy); message != "" {
			bad = append(bad, spec.FieldError{Field: "policy", Message: message})
		}
	}
	shorter, least := "", 0.0
	for _, name := range periodNames {
		name = strings.ToLower(name)
		n, ok := conf[name].(float64)
		if !ok {
			continue
		}
		if n < least {
			bad = append(bad, spec.FieldError{Message: fmt.Sprintf(
				"The limit for %s(%s) cannot be lower than the limit for %s(%s)", name, decimal(n), shorter, decimal(least))})
		}
		shorter, least = name, n
	}
	if code, ok := conf["error_code"].(float64); ok && (code > 599 || code != float64(int(code))) {
		bad = append(bad, spec.FieldError{Field: "error_code", Message: "expected the status of a response, an integer of at most 599"})
	}
	return bad
}

// decimal writes a number with at least one digit after the point.
func decimal(f float64) string {
	s := strconv.FormatFloat(f, 'f', -1, 64)
	if !strings.Contains(s, ".") {
		s += ".0"
	}
	return s
}

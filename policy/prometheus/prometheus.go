// Package prometheus is the plugin prometheus: it switches on, where it applies,
// the families of metrics that are kept per service, route and consumer.
package prometheus

import (
	"fmt"

	"github.com/keyway-edge/keyway/policy"
	"github.com/keyway-edge/keyway/routing/spec"
)

// Name is the plugin's name in documents.
const Name = "prometheus"

// Kind is the plugin.
func Kind() policy.Kind {
	return policy.Kind{Schema: schema(), Compile: compile}
}

func schema() spec.PluginSchema {
	s := spec.PluginSchema{Name: Name}
	for _, name := range []string{
		"per_consumer", "status_code_metrics", "ai_metrics", "latency_metrics", "bandwidth_metrics", "upstream_health_metrics",
	} {
		s.Fields = append(s.Fields, spec.Schema{Name: name, Type: spec.Boolean, Default: false})
	}
	s.Fields = append(s.Fields, spec.Schema{Name: "wasm_metrics", Type: spec.Boolean, OmitEmpty: true})
	return s
}

type config struct {
	PerConsumer    bool `json:"per_consumer"`
	StatusCode     bool `json:"status_code_metrics"`
	AI             bool `json:"ai_metrics"` // accepted; nothing here talks to language models
	Latency        bool `json:"latency_metrics"`
	Bandwidth      bool `json:"bandwidth_metrics"`
	UpstreamHealth bool `json:"upstream_health_metrics"`
	WASM           bool `json:"wasm_metrics"` // accepted; nothing here runs WebAssembly filters
}

func compile(env *policy.Env, p *spec.Plugin) (policy.Instance, error) {
	var conf config
	if err := spec.Bind(p.Config, &conf); err != nil {
		return policy.Instance{}, fmt.Errorf("compiling prometheus: %w", err)
	}
	metrics := env.Metrics
	if metrics == nil { // a node without telemetry: there is nowhere to count
		return policy.Instance{}, nil
	}
	observe := policy.Observe{
		PerConsumer: conf.PerConsumer, StatusCode: conf.StatusCode, Latency: conf.Latency,
		Bandwidth: conf.Bandwidth, UpstreamHealth: conf.UpstreamHealth,
	}
	return policy.Instance{Log: func(c *policy.Context) { metrics.ObservePlugin(c, observe) }}, nil
}

package prometheus

import (
	"testing"

	"github.com/keyway-edge/keyway/policy"
	"github.com/keyway-edge/keyway/policy/vectortest"
)

type recorder struct{ seen []policy.Observe }

func (r *recorder) ObservePlugin(_ *policy.Context, o policy.Observe) { r.seen = append(r.seen, o) }

func TestKongDefaults(t *testing.T) { vectortest.Defaults(t, Kind()) }

func TestExample(t *testing.T) {
	doc := vectortest.Example(t, Kind())
	env, metrics := vectortest.Env(doc), new(recorder)
	env.Metrics = metrics
	ch := vectortest.FirstChain(t, doc, env, Kind())
	c := vectortest.NewContext("GET", "/catalogue", "")
	ch.Access(c)
	ch.Header(c)
	if len(metrics.seen) != 0 {
		t.Fatal("it counts before the last byte")
	}
	ch.Log(c)
	if want := (policy.Observe{StatusCode: true, Latency: true}); len(metrics.seen) != 1 || metrics.seen[0] != want {
		t.Errorf("observed %+v, want %+v once", metrics.seen, want)
	}
}

func TestConfig(t *testing.T) {
	env, metrics := vectortest.Env(vectortest.Example(t, Kind())), new(recorder)
	env.Metrics = metrics
	f := func(config string, want policy.Observe) {
		t.Helper()
		i, problems := vectortest.Compile(t, Kind(), env, config)
		if len(problems) > 0 {
			t.Fatal(problems)
		}
		i.Log(nil)
		if got := metrics.seen[len(metrics.seen)-1]; got != want {
			t.Errorf("%s: observed %+v, want %+v", config, got, want)
		}
	}
	f(`{}`, policy.Observe{})
	f(`{"per_consumer":true,"bandwidth_metrics":true,"upstream_health_metrics":true,"ai_metrics":true,"wasm_metrics":true}`,
		policy.Observe{PerConsumer: true, Bandwidth: true, UpstreamHealth: true})
	env.Metrics = nil
	if i, _ := vectortest.Compile(t, Kind(), env, `{}`); i.Log != nil {
		t.Error("without telemetry there is nothing to do in the log phase")
	}
}

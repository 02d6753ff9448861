package correlationid

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/keyway-edge/keyway/edge/exchange"
	"github.com/keyway-edge/keyway/policy"
	"github.com/keyway-edge/keyway/policy/vectortest"
)

func newEnv() *policy.Env {
	shared := map[string]any{}
	return &policy.Env{Shared: func(key string, mk func() any) any {
		if _, ok := shared[key]; !ok {
			shared[key] = mk()
		}
		return shared[key]
	}}
}

const uuid = `[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}`

// The identifiers are random: both sides are compared with what is random masked.
func mask(f *exchange.Fields, names ...string) {
	masks := []struct{ from, to string }{
		{`^` + uuid + `#\d+$`, "<uuid#n>"},
		{`^` + uuid + `$`, "<uuid>"},
		{`^127\.0\.0\.1-18000-\d+-\d+-\d+-\d{10}\.\d{3}$`, "<tracker>"},
	}
	for _, n := range names {
		v, ok := f.Lookup(n)
		if !ok {
			continue
		}
		for _, m := range masks {
			v = regexp.MustCompile(m.from).ReplaceAllString(v, m.to)
		}
		if strings.HasPrefix(v, "<") {
			f.Set(n, v)
		}
	}
}

func TestKongVectors(t *testing.T) {
	vectortest.Open(t, Kind(), newEnv()).Each(t, func(c *vectortest.Case) error {
		c.MaskRecorded(func(f *exchange.Fields) { mask(f, "Kong-Request-ID", "X-Cid") })
		c.Instance.Access(c.C)
		c.Respond()
		if c.Instance.Header != nil {
			c.Instance.Header(c.C)
		}
		mask(&c.C.X.Request.Fields, "Kong-Request-ID", "X-Cid")
		mask(&c.C.X.Response.Fields, "Kong-Request-ID", "X-Cid")
		if err := c.CompareUpstream(t); err != nil {
			return fmt.Errorf("upstream: %w", err)
		}
		return c.CompareResponse(t)
	})
}

func TestKongDefaults(t *testing.T) { vectortest.Defaults(t, Kind()) }

func TestReadmeExample(t *testing.T) {
	doc := vectortest.Example(t, Kind())
	instance, err := Kind().Compile(newEnv(), doc.Plugins[0])
	if err != nil {
		t.Fatal(err)
	}
	c := vectortest.NewContext("GET", "/", "h")
	instance.Access(c)
	instance.Header(c)
	id := c.X.Response.Fields.Get("X-Correlation-ID")
	if !regexp.MustCompile(`^`+uuid+`$`).MatchString(id) || c.X.Request.Fields.Get("X-Correlation-ID") != id {
		t.Errorf("id %q", id)
	}
}

func TestCounterIsExactAcrossInstancesAndReloads(t *testing.T) {
	env := newEnv()
	const workers, each = 8, 200
	seen := make([][]string, workers)
	var wg sync.WaitGroup
	for w := range workers {
		instance, problems := vectortest.Compile(t, Kind(), env, `{}`)
		if len(problems) > 0 {
			t.Fatal(problems)
		}
		wg.Go(func() {
			for range each {
				c := vectortest.NewContext("GET", "/", "h")
				instance.Access(c)
				seen[w] = append(seen[w], c.X.Request.Fields.Get("Kong-Request-ID"))
			}
		})
	}
	wg.Wait()
	all := map[string]bool{}
	for _, ids := range seen {
		for _, id := range ids {
			_, n, _ := strings.Cut(id, "#")
			all[n] = true
		}
	}
	for n := 1; n <= workers*each; n++ {
		if !all[strconv.Itoa(n)] {
			t.Fatalf("number %d is missing of %d", n, len(all))
		}
	}
}

func TestAnsweredBeforeItsTurn(t *testing.T) {
	instance, _ := vectortest.Compile(t, Kind(), newEnv(), `{"echo_downstream":true,"generator":"uuid"}`)
	c := vectortest.NewContext("GET", "/", "h")
	instance.Header(c)
	if !c.X.Response.Fields.Has("Kong-Request-ID") {
		t.Error("no identifier on a response that another plugin made")
	}
}

func TestVerifyRefusesAFieldNameThatIsNone(t *testing.T) {
	if _, problems := vectortest.Compile(t, Kind(), newEnv(), `{"header_name":"a b"}`); len(problems) == 0 {
		t.Error("taken")
	}
}

package secrets

import (
	"math"
	"strings"
	"testing"
	"time"
)

func TestNextWake(t *testing.T) {
	now := time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)
	life := Life{}.withDefaults()
	tests := map[string]struct {
		s           standing
		least, most time.Duration // over rnd 0 to 1
	}{
		"no lease time":             {standing{}, 54 * time.Second, time.Minute},
		"lease":                     {standing{lease: Lease{TTL: time.Hour}}, 36 * time.Minute, 44 * time.Minute},
		"lease shorter than jitter": {standing{lease: Lease{TTL: time.Millisecond}}, 600 * time.Millisecond, 734 * time.Millisecond},
		"lease cut to max_ttl":      {standing{lease: Lease{TTL: 10 * time.Hour}, life: Life{TTL: time.Minute, MaxTTL: time.Hour}}, 36 * time.Minute, 44 * time.Minute},
		"lease raised to min_ttl":   {standing{lease: Lease{TTL: time.Second}, life: Life{TTL: time.Minute, MinTTL: time.Hour}}, 36 * time.Minute, 44 * time.Minute},
		"negative lease":            {standing{lease: Lease{TTL: -time.Hour}}, 54 * time.Second, time.Minute},
		"first failure":             {standing{failures: 1}, wakeLeast, time.Second},
		"third failure":             {standing{failures: 3}, wakeLeast, 4 * time.Second},
		"endless failure":           {standing{failures: math.MaxInt}, wakeLeast, time.Minute},
		"failure of a long lease":   {standing{failures: 1, lease: Lease{TTL: 10 * time.Hour}}, wakeLeast, time.Second},
		"absent":                    {standing{failures: 9, absent: true}, 4500 * time.Millisecond, 5500 * time.Millisecond},
		"throttled":                 {standing{failures: 1, after: 7 * time.Second}, 7 * time.Second, 7700 * time.Millisecond},
		"throttled when absent":     {standing{absent: true, after: time.Hour}, time.Hour, 66 * time.Minute},
		"hard end before ttl":       {standing{lease: Lease{NotAfter: now.Add(30 * time.Second)}}, 18 * time.Second, 20 * time.Second},
		"hard end after ttl":        {standing{lease: Lease{NotAfter: now.Add(time.Hour)}}, 54 * time.Second, time.Minute},
		"hard end now":              {standing{lease: Lease{NotAfter: now.Add(time.Nanosecond)}}, wakeLeast, wakeLeast},
		"already expired":           {standing{lease: Lease{NotAfter: now.Add(-time.Hour)}}, 54 * time.Second, time.Minute},
		"clock jumped back a year":  {standing{lease: Lease{NotAfter: now.AddDate(1, 0, 0)}}, 54 * time.Second, time.Minute},
		"hard end while failing":    {standing{failures: 1, lease: Lease{NotAfter: now.Add(10 * time.Millisecond)}}, wakeLeast, time.Second},
	}
	for name, tt := range tests {
		if tt.s.life == (Life{}) {
			tt.s.life = life
		}
		low, high := time.Duration(math.MaxInt64), time.Duration(0)
		for i := range 101 {
			d := nextWake(tt.s, now, float64(i)/100)
			low, high = min(low, d), max(high, d)
		}
		if low < tt.least || high > tt.most || low > tt.least+tt.least/50 || high < tt.most-tt.most/50 {
			t.Errorf("%s: %v to %v; expected %v to %v", name, low, high, tt.least, tt.most)
		}
	}
}

func TestParseLife(t *testing.T) {
	life, rest, err := ParseLife(map[string]any{"ttl": 60, "neg_ttl": 1.5, "resurrect_ttl": "30", "max_ttl": nil, "prefix": "X_"})
	if err != nil || life != (Life{TTL: time.Minute, NegTTL: 1500 * time.Millisecond, ResurrectTTL: 30 * time.Second}) {
		t.Errorf("%+v, %v", life, err)
	}
	if len(rest) != 1 || rest["prefix"] != "X_" {
		t.Errorf("rest %v", rest)
	}
	if d := (Life{}).withDefaults(); d.ResurrectTTL != 24*time.Hour || d.TTL != time.Minute {
		t.Errorf("defaults %+v", d)
	}
	f := func(field string, v any) {
		t.Helper()
		if _, _, err := ParseLife(map[string]any{field: v, "min_ttl": 10}); err == nil || !strings.HasPrefix(err.Error(), "config."+field+": ") {
			t.Errorf("%s: %v is %v", field, v, err)
		}
	}
	f("ttl", -1)
	f("ttl", "soon")
	f("ttl", true)
	f("ttl", math.NaN())
	f("neg_ttl", 1e12)
	f("resurrect_ttl", []any{1})
	f("max_ttl", 5)
}

func TestFieldNeverQuotesTheSecret(t *testing.T) {
	f := func(secret, key, want string) {
		t.Helper()
		v, err := field(NewValue([]byte(secret)), key)
		if err != nil {
			if !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "canary") {
				t.Errorf("%s of %q: %v; expected %q", key, secret, err, want)
			}
		} else if string(v.Reveal()) != want {
			t.Errorf("%s of %q is %q", key, secret, v.Reveal())
		}
	}
	f(`text`, "", "text")
	f(`{"a":"x"}`, "", `{"a":"x"}`)
	f(`{"a":"x\né"}`, "a", "x\né")
	f(` {"a": "x", "a": "y"}`, "a", "y")
	f(`{"a":"canary"}`, "b", "subfield b not found in JSON secret")
	f(`{"a":true,"b":"canary"}`, "a", "unexpected boolean value in JSON secret for subfield a")
	f(`{"a":["canary"]}`, "a", "unexpected array value in JSON secret for subfield a")
	f(`canary`, "a", "not a JSON object")
	f(`{"a":"canary"`, "a", "not a JSON object")
	f(`null`, "a", "not a JSON object")
	f(`["canary"]`, "0", "not a JSON object")
	f(``, "", "empty")
	f(`{"a":""}`, "a", "empty")
}

func TestPlainReasonIsOneBoundedLine(t *testing.T) {
	s := plain(&Throttled{Err: errText("a\r\nb\x1b[31m\u2028c" + strings.Repeat("é", 500))})
	if strings.ContainsAny(s, "\r\n\x1b\u2028") || len(s) > 310 || !strings.HasPrefix(s, "a  b [31m c") {
		t.Errorf("%q", s)
	}
}

type errText string

func (e errText) Error() string { return string(e) }

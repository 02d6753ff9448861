// Package ratelimiting is the plugin rate-limiting: it lets so many requests of
// one client through in each second, minute, hour, day, month or year.
package ratelimiting

import (
	"crypto/sha256"
	"fmt"
	"math"
	"net/http"
	"strconv"
	"strings"

	"github.com/keyway-edge/keyway/policy"
	"github.com/keyway-edge/keyway/routing/spec"
)

// Name is the plugin's name in documents.
const Name = "rate-limiting"

// Kind is the plugin.
func Kind() policy.Kind {
	return policy.Kind{Schema: schema(), Compile: compile}
}

type config struct {
	Second          *float64       `json:"second"`
	Minute          *float64       `json:"minute"`
	Hour            *float64       `json:"hour"`
	Day             *float64       `json:"day"`
	Month           *float64       `json:"month"`
	Year            *float64       `json:"year"`
	LimitBy         string         `json:"limit_by"`
	HeaderName      string         `json:"header_name"`
	Path            string         `json:"path"`
	Policy          string         `json:"policy"`
	FaultTolerant   bool           `json:"fault_tolerant"` // a local counter does not fail
	Redis           map[string]any `json:"redis"`
	HideHeaders     bool           `json:"hide_client_headers"`
	ErrorCode       float64        `json:"error_code"`
	ErrorMessage    string         `json:"error_message"`
	SyncRate        float64        `json:"sync_rate"`
	RedisHost       any            `json:"redis_host"`
	RedisPort       any            `json:"redis_port"`
	RedisPassword   any            `json:"redis_password"`
	RedisUsername   any            `json:"redis_username"`
	RedisSSL        any            `json:"redis_ssl"`
	RedisSSLVerify  any            `json:"redis_ssl_verify"`
	RedisServerName any            `json:"redis_server_name"`
	RedisTimeout    any            `json:"redis_timeout"`
	RedisDatabase   any            `json:"redis_database"`
}

// limiter is a compiled config. Immutable; what is counted is in store.
type limiter struct {
	config
	id      string // of the plugin entity: its counters are its own
	store   *store
	limits  []limit // shortest period first
	message string
	status  int
}

// limit is one configured period.
type limit struct {
	period        period
	max           int64
	text          string // of max
	limitName     string // "X-RateLimit-Limit-Hour"
	remainingName string
}

func compile(env *policy.Env, p *spec.Plugin) (policy.Instance, error) {
	l := &limiter{id: strings.Clone(p.ID)} // it stays in the store
	if err := spec.Bind(p.Config, &l.config); err != nil {
		return policy.Instance{}, fmt.Errorf("compiling rate-limiting: %w", err)
	}
	if message := unsupported(l.Policy); message != "" {
		return policy.Instance{}, fmt.Errorf("compiling rate-limiting: config.policy: %s", message)
	}
	for i, max := range []*float64{l.Second, l.Minute, l.Hour, l.Day, l.Month, l.Year} {
		if max == nil {
			continue
		}
		// A limit with a fraction lets the next whole request through, as it always has.
		n := int64(math.Ceil(min(*max, math.MaxInt32)))
		name := periodNames[i]
		l.limits = append(l.limits, limit{
			period: period(i), max: n, text: strconv.FormatInt(n, 10),
			limitName: "X-RateLimit-Limit-" + name, remainingName: "X-RateLimit-Remaining-" + name,
		})
	}
	l.status, l.message = http.StatusTooManyRequests, l.ErrorMessage
	if l.ErrorCode != 0 {
		l.status = int(l.ErrorCode)
	}
	// Why shared: a reload must not hand every client a fresh allowance.
	l.store = env.Shared(Name, func() any { return newStore(maxIdentities) }).(*store)
	return policy.Instance{Access: l.access}, nil
}

func (l *limiter) access(c *policy.Context) *policy.Reply {
	k := l.identity(c)
	k.plugin = l.id
	var room [periods]usage
	used := room[:len(l.limits)]
	allowed := l.store.take(k, l.limits, c.Now.Unix(), used)
	if !l.HideHeaders {
		l.tell(c, used, allowed)
	}
	if allowed {
		return nil
	}
	return policy.ErrorReply(l.status, l.message)
}

// identity is who is counted; the client's address for one who has not what
// limit_by asks for.
func (l *limiter) identity(c *policy.Context) key {
	id := ""
	switch l.LimitBy {
	case "consumer":
		if c.Consumer != nil {
			id = c.Consumer.ID
		}
	case "credential":
		if c.Credential != nil {
			id = c.Credential.ID
		}
	case "service":
		if c.Service != nil {
			id = c.Service.ID
		}
	case "header":
		if v, ok := c.X.Request.Fields.Lookup(l.HeaderName); ok {
			return key{id: bounded(v), given: true}
		}
	case "path":
		if c.X.Request.Path == l.Path {
			id = l.Path
		}
	}
	if id != "" {
		return key{id: id, given: true}
	}
	return key{ip: c.ClientIP}
}

// bounded keeps what a client may write at will from filling the memory: a long
// value is counted by its digest.
func bounded(v string) string {
	const longest = 64
	if len(v) <= longest {
		return v
	}
	sum := sha256.Sum256([]byte(v))
	return "sha256:" + string(sum[:])
}

// tell sets the fields that a client paces itself by: one pair for each period,
// and the short form for the period that is nearest to its end.
func (l *limiter) tell(c *policy.Context, used []usage, allowed bool) {
	f := &c.ResponseFields
	nearest, least := 0, int64(math.MaxInt64)
	for i := range l.limits {
		if left := l.limits[i].left(used[i]); left <= least { // of equals the longer period: it ends later
			nearest, least = i, left
		}
	}
	// All numbers are parts of one text.
	var buf [(periods + 1) * 20]byte
	var cuts [periods + 1]int
	text := buf[:0]
	for i := range l.limits {
		text = strconv.AppendInt(text, l.limits[i].left(used[i]), 10)
		cuts[i+1] = len(text)
	}
	text = strconv.AppendInt(text, max(1, used[nearest].end-c.Now.Unix()), 10)
	all := string(text)
	for i := range l.limits {
		x := &l.limits[i]
		f.Add(x.limitName, x.text)
		f.Add(x.remainingName, all[cuts[i]:cuts[i+1]])
	}
	reset := all[cuts[len(l.limits)]:]
	f.Add("RateLimit-Limit", l.limits[nearest].text)
	f.Add("RateLimit-Remaining", all[cuts[nearest]:cuts[nearest+1]])
	f.Add("RateLimit-Reset", reset)
	if !allowed {
		f.Add("Retry-After", reset)
	}
}

// left is how many requests more the window takes.
func (x *limit) left(u usage) int64 { return max(0, x.max-u.count) }

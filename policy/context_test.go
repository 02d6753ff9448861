package policy

import (
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/keyway-edge/keyway/edge/exchange"
	"github.com/keyway-edge/keyway/routing/spec"
)

func withBody(body string, length int64) *Context {
	c := request("http")
	c.X.Request.Body, c.X.Request.Length = strings.NewReader(body), length
	return c
}

func all(t *testing.T, c *Context) string {
	t.Helper()
	b, err := io.ReadAll(c.X.Request.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestRequestBody(t *testing.T) {
	for _, length := range []int64{5, -1} {
		c := withBody("hello", length)
		for range 2 { // the second reader finds it in memory
			if b, err := c.RequestBody(5); err != nil || string(b) != "hello" {
				t.Fatalf("RequestBody(5) = %q, %v", b, err)
			}
		}
		if c.X.Request.Length != 5 {
			t.Errorf("length is %d, want 5", c.X.Request.Length)
		}
		if _, err := c.RequestBody(4); !errors.Is(err, ErrBodyTooLarge) {
			t.Errorf("a smaller limit: %v", err)
		}
		if got := all(t, c); got != "hello" {
			t.Errorf("the upstream would get %q", got)
		}
	}
}

func TestRequestBodyTooLargeStaysWhole(t *testing.T) {
	for _, length := range []int64{5, -1} {
		c := withBody("hello", length)
		if _, err := c.RequestBody(4); !errors.Is(err, ErrBodyTooLarge) {
			t.Fatalf("err = %v", err)
		}
		if got := all(t, c); got != "hello" || c.X.Request.Length != length {
			t.Errorf("the upstream would get %q of length %d", got, c.X.Request.Length)
		}
	}
}

func TestRequestBodyFollowsReplacement(t *testing.T) {
	c := withBody("old", 3)
	if _, err := c.RequestBody(10); err != nil {
		t.Fatal(err)
	}
	c.SetRequestBody([]byte("newer"))
	if b, _ := c.RequestBody(10); string(b) != "newer" || c.X.Request.Length != 5 {
		t.Errorf("after SetRequestBody: %q of length %d", b, c.X.Request.Length)
	}
	c.X.Request.Body, c.X.Request.Length = strings.NewReader("third"), 5
	if b, _ := c.RequestBody(10); string(b) != "third" {
		t.Errorf("after another Body: %q", b)
	}
	c = withBody("", 0)
	if b, err := c.RequestBody(0); b != nil || err != nil {
		t.Errorf("no body: %q, %v", b, err)
	}
}

type brokenBody struct{}

func (brokenBody) Read([]byte) (int, error) {
	return 0, &exchange.BodyError{Status: 400, Err: errors.New("bad chunk")}
}

func TestRequestBodyKeepsTheClientsError(t *testing.T) {
	c := withBody("", -1)
	c.X.Request.Body = brokenBody{}
	_, err := c.RequestBody(10)
	if b, ok := errors.AsType[*exchange.BodyError](err); !ok || b.Status != 400 {
		t.Errorf("err = %v, want a BodyError of status 400", err)
	}
}

func TestSetQuery(t *testing.T) {
	c := request("http")
	f := func(query string, has bool, target string) {
		t.Helper()
		if c.SetQuery(query, has); c.X.Request.Target != target || c.X.Request.Query != query || c.X.Request.HasQuery != has {
			t.Errorf("SetQuery(%q, %v): %+v", query, has, c.X.Request)
		}
	}
	f("a=1", true, "/?a=1")
	f("", true, "/?")
	f("", false, "/")
}

func TestAuthenticate(t *testing.T) {
	c := request("http")
	f := &c.X.Request.Fields
	for _, name := range []string{"x-consumer-id", "X-Consumer-Custom-ID", "X-Consumer-Username", "X-Credential-Identifier", "X-Anonymous-Consumer"} {
		f.Add(name, "forged")
	}
	show := func() string {
		var b strings.Builder
		for x := range f.All() {
			b.WriteString(x.Name + "=" + x.Value + " ")
		}
		return b.String()
	}
	anon := &spec.Consumer{Meta: spec.Meta{ID: "1"}, Username: "anon"}
	Authenticate(c, anon, nil, true)
	if got, want := show(), "X-Consumer-ID=1 X-Consumer-Username=anon X-Anonymous-Consumer=true "; got != want || c.Authenticated() || !c.Anonymous {
		t.Errorf("anonymous: %s", got)
	}
	Authenticate(c, &spec.Consumer{Meta: spec.Meta{ID: "2"}, CustomID: "c"}, &Identity{ID: "k"}, false)
	if got, want := show(), "X-Consumer-ID=2 X-Consumer-Custom-ID=c X-Credential-Identifier=k "; got != want || !c.Authenticated() || c.Anonymous {
		t.Errorf("then known: %s", got)
	}
}

func TestContextReset(t *testing.T) {
	w := newWorld(plugin("acl", "a", "consumer=ann"), plugin("cors", "c", ""))
	ch := w.compile(nil).Chain(routeR, nil)
	c := request("http")
	state := NewState[int]()
	*state.Of(c) = 7
	run(ch, c)
	c.Reset()
	if c.X != nil || c.ResponseFields.Len() != 0 || c.ran != nil || len(c.picked) != 0 || *state.Of(c) != 0 {
		t.Errorf("something of the last request is left: %+v", c)
	}
}

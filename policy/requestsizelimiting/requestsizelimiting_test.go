package requestsizelimiting

import (
	"errors"
	"io"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/keyway-edge/keyway/edge/exchange"
	"github.com/keyway-edge/keyway/policy"
	"github.com/keyway-edge/keyway/policy/vectortest"
	"github.com/keyway-edge/keyway/routing/spec"
)

func TestKongVectors(t *testing.T) {
	vectortest.Open(t, Kind(), nil).Each(t, func(c *vectortest.Case) error { return c.Access(t, nil) })
}

func TestKongDefaults(t *testing.T) { vectortest.Defaults(t, Kind()) }

func TestReadmeExample(t *testing.T) {
	doc := vectortest.Example(t, Kind())
	instance, err := Kind().Compile(nil, doc.Plugins[0])
	if err != nil {
		t.Fatal(err)
	}
	c := vectortest.NewContext("POST", "/", "h")
	c.X.Request.Length = 8<<10 + 1
	if reply := instance.Access(c); reply == nil || reply.Status != 413 {
		t.Errorf("%+v", reply)
	}
	c.X.Request.Length = 8 << 10
	if reply := instance.Access(c); reply != nil {
		t.Errorf("%+v", reply)
	}
}

func chunked(limit string, buffering bool, body io.Reader) func(t *testing.T) (*policy.Context, *policy.Reply) {
	return func(t *testing.T) (*policy.Context, *policy.Reply) {
		t.Helper()
		instance, problems := vectortest.Compile(t, Kind(), nil, `{"size_unit":"bytes","allowed_payload_size":`+limit+`}`)
		if len(problems) > 0 {
			t.Fatal(problems)
		}
		c := vectortest.NewContext("POST", "/", "h")
		c.Route = &spec.Route{RequestBuffering: buffering}
		c.X.Request.Body, c.X.Request.Length = body, -1
		return c, instance.Access(c)
	}
}

func TestStreamIsLimitedWhileItPasses(t *testing.T) {
	f := func(limit, body string, buffering bool, want string, tooLong bool) {
		t.Helper()
		c, reply := chunked(limit, buffering, iotest.OneByteReader(strings.NewReader(body)))(t)
		if reply != nil {
			t.Fatalf("answered %d", reply.Status)
		}
		got, err := io.ReadAll(c.X.Request.Body)
		var be *exchange.BodyError
		if string(got) != want || tooLong != (errors.As(err, &be) && be.Status == 413) {
			t.Errorf("limit %s of %d bytes: got %d bytes, %v", limit, len(body), len(got), err)
		}
		if n, err := c.X.Request.Body.Read(make([]byte, 1)); n != 0 || err == nil {
			t.Errorf("read on after the end: %d, %v", n, err)
		}
	}
	f("5", "hello", false, "hello", false)
	f("4", "hello", false, "hell", true)
	f("0", "h", false, "", true)
	f("0", "", false, "", false)
	long := strings.Repeat("x", lookAhead+10)
	f("2000000", long, true, long, false)
	f("1048577", long, true, long[:1048577], true) // one byte after what is looked at ahead
}

func TestBufferedStreamIsRefusedBeforeTheUpstream(t *testing.T) {
	_, reply := chunked("4", true, strings.NewReader("hello"))(t)
	if reply == nil || reply.Status != 413 || reply.Message != messageTooLong {
		t.Errorf("%+v", reply)
	}
	c, reply := chunked("5", true, strings.NewReader("hello"))(t)
	if reply != nil || c.X.Request.Length != 5 {
		t.Errorf("%+v, length %d", reply, c.X.Request.Length)
	}
}

func TestBrokenBodyIsTheClientsFault(t *testing.T) {
	broken := io.MultiReader(strings.NewReader("he"), iotest.ErrReader(&exchange.BodyError{Status: 408, Err: errors.New("too slow")}))
	if _, reply := chunked("5", true, broken)(t); reply == nil || reply.Status != 408 || reply.Err == nil {
		t.Errorf("%+v", reply)
	}
}

func TestVerifyRefusesSizes(t *testing.T) {
	if _, problems := vectortest.Compile(t, Kind(), nil, `{"allowed_payload_size":-1}`); len(problems) == 0 {
		t.Error("took -1")
	}
}

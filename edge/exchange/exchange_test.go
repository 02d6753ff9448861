package exchange

import (
	"context"
	"crypto/tls"
	"errors"
	"reflect"
	"testing"
	"time"
)

// stuff sets every field that can be set to something that is not zero.
func stuff(v reflect.Value) {
	switch v.Kind() {
	case reflect.Struct:
		if v.Type() == reflect.TypeFor[time.Time]() {
			v.Set(reflect.ValueOf(time.Unix(1, 0)))
			return
		}
		if f, ok := v.Addr().Interface().(*Fields); ok {
			f.Add("A", "b")
			return
		}
		for i := range v.NumField() {
			stuff(v.Field(i))
		}
	case reflect.String:
		v.SetString("x")
	case reflect.Int, reflect.Int64:
		v.SetInt(7)
	case reflect.Bool:
		v.SetBool(true)
	}
}

// TestResetForgets holds Reset to every field that a request or a response has: one that
// is added and left out would be the next request's.
func TestResetForgets(t *testing.T) {
	x := &Exchange{Conn: &Conn{TLS: &tls.ConnectionState{}}, Ctx: context.Background(), Interim: func(int, *Fields) error { return nil }, WatchClient: func() {}}
	conn, ctx := x.Conn, x.Ctx
	stuff(reflect.ValueOf(&x.Request).Elem())
	stuff(reflect.ValueOf(&x.Response).Elem())
	stuff(reflect.ValueOf(x).Elem().FieldByName("BytesIn"))
	x.UpstreamStart, x.UpstreamHead, x.UpstreamReused, x.BytesOut, x.Elapsed, x.Refused = time.Unix(1, 0), time.Unix(1, 0), true, 1, 1, 400
	x.Attempts, x.State, x.RequestID = []Attempt{{Err: errors.New("x")}}, 1, "x"
	x.Request.Body, x.Request.StopBody = nil, func() {}
	x.Response.Body = NoBody
	start := time.Unix(9, 0)
	x.Reset(start)
	if x.Conn != conn || x.Ctx != ctx || x.Interim == nil || x.WatchClient == nil {
		t.Error("what belongs to the connection is gone")
	}
	if x.Request.Fields.Len() != 0 || x.Request.Trailer.Len() != 0 || x.Response.Fields.Len() != 0 || x.Response.Trailer.Len() != 0 || len(x.Attempts) != 0 {
		t.Error("a list is not empty")
	}
	if !x.Start.Equal(start) || !x.HeadDone.Equal(start) || x.Request.Scheme != "https" || x.Request.Body != NoBody {
		t.Errorf("start %v, head %v, scheme %q, body %v", x.Start, x.HeadDone, x.Request.Scheme, x.Request.Body)
	}
	want := Exchange{Conn: x.Conn, Start: start, HeadDone: start, Request: Request{Scheme: "https"}}
	x.Request.Fields, x.Request.Trailer, x.Response.Fields, x.Response.Trailer, x.Attempts = Fields{}, Fields{}, Fields{}, Fields{}, nil
	x.Ctx, x.Interim, x.WatchClient, x.Request.Body = nil, nil, nil, nil
	if !reflect.DeepEqual(*x, want) {
		t.Errorf("something is left:\n%+v\nexpected\n%+v", *x, want)
	}
}

// TestNow counts from the start of the exchange, and needs none.
func TestNow(t *testing.T) {
	for _, start := range []time.Time{{}, time.Now().Add(-time.Hour)} {
		x := &Exchange{Start: start}
		if d := time.Since(x.Now()); d < 0 || d > 10*time.Minute {
			t.Errorf("off by %v", d)
		}
	}
}

// TestTooSlow: a body has ten seconds before its average counts, and a rate that is just
// enough is enough.
func TestTooSlow(t *testing.T) {
	now := time.Now()
	for _, c := range []struct {
		bytes int64
		ago   time.Duration
		least int
		want  bool
	}{
		{0, 9 * time.Second, 240, false},
		{11 * 239, 11 * time.Second, 240, true},
		{12 * 240, 11 * time.Second, 240, false},
		{0, time.Hour, 0, false},
	} {
		if got := TooSlow(c.bytes, now.Add(-c.ago), c.least); got != c.want {
			t.Errorf("%d bytes in %v, at least %d a second: %v", c.bytes, c.ago, c.least, got)
		}
	}
}

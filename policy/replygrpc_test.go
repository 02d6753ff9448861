package policy

import (
	"testing"

	"github.com/keyway-edge/keyway/edge/exchange"
)

func TestGRPCFields(t *testing.T) {
	for _, c := range []struct {
		reply           Reply
		status, message string
	}{
		{Reply{Status: 502}, "13", "An invalid response was received from the upstream server"},
		{Reply{Status: 503, Message: "failure to get a peer"}, "14", "failure to get a peer"},
		{Reply{Status: 504}, "4", "The upstream server is timing out"},
		{Reply{Status: 404, Message: "no Route matched with those values"}, "5", "no Route matched with those values"},
		{Reply{Status: 429, Message: "API rate limit exceeded"}, "8", "API rate limit exceeded"},
		{Reply{Status: 401, Message: "100 % ✓\n"}, "16", "100 %25 %E2%9C%93%0A"},
		{Reply{Status: 418, Body: MessageBody("tea"), ContentType: TypeJSON}, "3", "tea"},
	} {
		f, ok := GRPCFields(&c.reply)
		if !ok || f[0].Value != "application/grpc" || f[1].Value != c.status || f[2].Value != c.message {
			t.Errorf("%d: %v %v", c.reply.Status, f, ok)
		}
	}
	if _, ok := GRPCFields(&Reply{Status: 200, Body: []byte("<p>"), ContentType: TypeHTML}); ok {
		t.Error("a page became an answer of gRPC's")
	}
}

func TestIsGRPC(t *testing.T) {
	for ct, want := range map[string]bool{"application/grpc": true, "application/grpc+proto": true, "application/grpc-web": false, "application/json": false, "": false} {
		for _, version := range []int{exchange.HTTP11, exchange.HTTP2} {
			r := exchange.Request{Version: version}
			r.Fields.Add("Content-Type", ct)
			if IsGRPC(&r) != (want && version == exchange.HTTP2) {
				t.Errorf("%q in version %x", ct, version)
			}
		}
	}
}

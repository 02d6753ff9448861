package policy

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/keyway-edge/keyway/edge/exchange"
)

const testID = "3c342128f089a0755255325d6de7390f"

// recorded reads one file of the recordings, or skips the test where there are none.
func recorded(t *testing.T, name string, into any) {
	t.Helper()
	dir := os.Getenv("KEYWAY_VECTORS")
	if dir == "" {
		dir = filepath.Join("..", "integration", "vectors", "kong")
	}
	b, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil {
		if os.Getenv("KEYWAY_REQUIRE") == "all" {
			t.Fatal(err)
		}
		t.Skipf("no recordings: %v", err)
	}
	if err := json.Unmarshal(b, into); err != nil {
		t.Fatal(err)
	}
}

func TestKongVectorsErrorPages(t *testing.T) {
	var file struct {
		Cases []struct {
			Case    string
			Request struct {
				Method  string
				Headers [][2]string
			}
			Response struct {
				Status  int
				Headers [][2]string
				Body    string
			}
		}
	}
	recorded(t, "lb/error-pages.json", &file)
	messages := map[string]string{
		"empty": "failure to get a peer from the ring-balancer", "zero": "failure to get a peer from the ring-balancer",
		"badhost": "failure to get a peer from the ring-balancer", "dns": "name resolution failed",
		"nosvc": "no Service found with those values", "nomatch": "no Route matched with those values",
		"refused": "", "slow": "", "bad": "",
	}
	passed, run := 0, 0
	for i, c := range file.Cases {
		message, ok := messages[c.Case]
		if c.Request.Method == "" || !ok {
			continue // malformed requests are the engine's to answer
		}
		run++
		req := exchange.Request{Method: c.Request.Method}
		for _, h := range c.Request.Headers {
			req.Fields.Add(h[0], h[1])
		}
		var fields exchange.Fields
		for _, h := range c.Response.Headers {
			fields.Add(h[0], h[1])
		}
		contentType, body := RenderFor(ErrorReply(c.Response.Status, message), &req, testID)
		want := c.Response.Body
		got := strings.ReplaceAll(string(body), testID, "<id>")
		if strings.Contains(want, "<requestid>") { // the one place that the recordings do not mask
			start := strings.Index(want, "<requestid>") + len("<requestid>")
			want = want[:start] + "<id>" + want[start+len(testID):]
		}
		if c.Request.Method == "HEAD" {
			got = ""
		}
		if contentType != fields.Get("Content-Type") || got != want {
			t.Errorf("case %d %s %v:\n got %q %q\nwant %q %q", i, c.Case, c.Request.Headers, contentType, got, fields.Get("Content-Type"), want)
			continue
		}
		passed++
	}
	t.Logf("error pages: %d of %d cases passed", passed, run)
	if run == 0 {
		t.Error("the recording has no case")
	}
}

func TestNegotiate(t *testing.T) {
	f := func(accept, want string) {
		t.Helper()
		if got := negotiate(accept); got != want {
			t.Errorf("negotiate(%q) = %q, want %q", accept, got, want)
		}
	}
	f("", TypeJSON)
	f("text/html;q=0.2, text/plain;q=0.8", TypePlain)
	f("text/plain, text/html", TypePlain)
	f("text/html; charset=utf-8; q=0.4, application/xml;q=0.3", TypeHTML)
	f("text/html;q=0", TypeJSON)
	f("text/html;q=nonsense", TypeHTML)
	f("image/png, application/grpc;q=0.1", typeGRPC)
	f(",;,q=1", TypeJSON)
}

func TestRenderEscapesWhatItQuotes(t *testing.T) {
	f := func(accept, want string) {
		t.Helper()
		_, body := Render(&Reply{Status: 403, Message: `a "<b>" & c`}, accept, testID, "GET")
		if !strings.Contains(string(body), want) {
			t.Errorf("%s: %q does not contain %q", accept, body, want)
		}
	}
	f("application/json", `"message":"a \"<b>\" & c"`)
	f("text/html", `<p>a &#34;&lt;b&gt;&#34; &amp; c.</p>`)
	f("application/xml", `<message>a &#34;&lt;b&gt;&#34; &amp; c</message>`)
	f("text/plain", `a "<b>" & c`+"\n")
}

func TestRenderKeepsABodyOfItsOwn(t *testing.T) {
	req := exchange.Request{Method: "GET"}
	req.Fields.Add("Accept", "text/html")
	contentType, body := RenderFor(&Reply{Status: 418, Message: "not this", Body: []byte{}, ContentType: ""}, &req, testID)
	if contentType != "" || body == nil || len(body) != 0 {
		t.Errorf("got %q %q, want nothing", contentType, body)
	}
}

func TestPlainTextIsOnlyForBareStatuses(t *testing.T) {
	f := func(r *Reply, want string) {
		t.Helper()
		if got, _ := Render(r, "", testID, "GET"); got != want {
			t.Errorf("%d %q: %s, want %s", r.Status, r.Message, got, want)
		}
	}
	f(ErrorReply(413, ""), TypePlain)
	f(ErrorReply(413, "Request size limit exceeded"), TypeJSON)
	f(ErrorReply(500, ""), TypeJSON) // a failing plugin says so in JSON
	f(ErrorReply(599, ""), TypeJSON)
	f(&Reply{Status: 599}, TypePlain)
}

func TestCharset(t *testing.T) {
	f := func(status int, in, want string) {
		t.Helper()
		if got := Charset(status, in); got != want {
			t.Errorf("Charset(%d, %q) = %q, want %q", status, in, got, want)
		}
	}
	f(200, "text/html", "text/html; charset=UTF-8")
	f(404, "text/plain", "text/plain; charset=UTF-8")
	f(301, "text/html", "text/html")
	f(200, "application/json", "application/json")
	f(200, "text/plain; charset=x", "text/plain; charset=x")
}

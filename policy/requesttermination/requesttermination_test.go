package requesttermination

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/keyway-edge/keyway/edge/exchange"
	"github.com/keyway-edge/keyway/policy"
	"github.com/keyway-edge/keyway/policy/vectortest"
)

func newEnv() *policy.Env { return &policy.Env{Node: policy.NodeInfo{ID: "node-1"}} }

// maskEcho puts an echo in one order and takes out what differs from node to node.
func maskEcho(t *testing.T) func(string) string {
	return func(text string) string {
		var e map[string]map[string]any
		var whole map[string]any
		_ = json.Unmarshal([]byte(text), &e) // the message is no object
		if err := json.Unmarshal([]byte(text), &whole); err != nil {
			t.Errorf("not JSON: %q", text)
			return ""
		}
		for _, entity := range []string{"matched_route", "matched_service"} {
			delete(e[entity], "ws_id")
			for _, field := range []string{"created_at", "updated_at"} {
				if _, ok := e[entity][field]; ok {
					e[entity][field] = 0
				}
			}
			whole[entity] = e[entity]
		}
		for field := range e["kong"] {
			e["kong"][field] = "<" + field + ">"
		}
		whole["kong"] = e["kong"]
		out, err := json.Marshal(whole)
		if err != nil {
			t.Fatal(err)
		}
		return string(out)
	}
}

func TestKongVectors(t *testing.T) {
	vectortest.Open(t, Kind(), newEnv()).Each(t, func(c *vectortest.Case) error {
		return c.Access(t, func(reply *policy.Reply) {
			switch {
			case !strings.HasPrefix(string(reply.Body), `{"request"`) && !strings.Contains(string(reply.Body), `"matched_route"`):
			case c.C.X.Request.Method == "HEAD":
				c.MaskBody(func(string) string { return "" }) // its length is that of other ids
			default:
				c.MaskBody(maskEcho(t))
			}
		})
	})
}

func TestKongDefaults(t *testing.T) { vectortest.Defaults(t, Kind()) }

func TestReadmeExample(t *testing.T) {
	doc := vectortest.Example(t, Kind())
	instance, err := Kind().Compile(newEnv(), doc.Plugins[0])
	if err != nil {
		t.Fatal(err)
	}
	reply := instance.Access(vectortest.NewContext("GET", "/", "h"))
	if reply == nil || reply.Status != 503 || string(reply.Body) != `{"message":"Closed until noon"}` {
		t.Errorf("%+v", reply)
	}
}

func TestVerify(t *testing.T) {
	f := func(config, want string) {
		t.Helper()
		_, problems := vectortest.Compile(t, Kind(), newEnv(), config)
		if len(problems) == 0 || !strings.Contains(problems.Error(), want) {
			t.Errorf("%s: got %v, want %q", config, problems, want)
		}
	}
	f(`{"status_code":600}`, "between 100 and 599")
	f(`{"status_code":101}`, "interim")
	f(`{"message":"a","body":"b"}`, "message cannot be used with content_type or body")
	f(`{"content_type":"x"}`, "content_type requires a body")
	f(`{"content_type":"a\r\nX: y","body":"b"}`, "control character")
}

func TestEchoOfEverything(t *testing.T) {
	instance, problems := vectortest.Compile(t, Kind(), newEnv(), `{"echo":true,"message":"m","status_code":200}`)
	if len(problems) > 0 {
		t.Fatal(problems)
	}
	c := vectortest.NewContext("PUT", "/a/7?x=1&x&x=%32&y+z=w", "H.test:81")
	c.X.Request.Fields.Add("X-A", "1")
	c.X.Request.Fields.Add("x-a", "2")
	c.X.Request.Body, c.X.Request.Length = strings.NewReader("raw"), -1
	c.Captures = []exchange.Capture{{Name: "0", Value: "/a/7"}, {Name: "1", Value: "7"}, {Name: "id", Value: "7"}}
	reply := instance.Access(c)
	want := `{"message":"m","request":{"method":"PUT","scheme":"http","host":"h.test","port":18000,"path":"/a/7",` +
		`"query":{"x":["1",true,"2"],"y z":"w"},"headers":{"host":"H.test:81","x-a":["1","2"]},"raw_body":"raw",` +
		`"uri_captures":{"unnamed":["/a/7","7"],"named":{"id":"7"}}},"kong":{"node_id":"node-1",`
	if !strings.HasPrefix(string(reply.Body), want) {
		t.Errorf("got  %s\nwant %s", reply.Body, want)
	}
	if got := vectortest.ReadAll(t, c.X.Request.Body); got != "raw" {
		t.Errorf("the body is gone: %q", got)
	}
}

func TestEchoRefusesALongBody(t *testing.T) {
	instance, _ := vectortest.Compile(t, Kind(), newEnv(), `{"echo":true}`)
	c := vectortest.NewContext("POST", "/", "h")
	c.X.Request.Body, c.X.Request.Length = strings.NewReader(strings.Repeat("x", bodyLimit+1)), -1
	if reply := instance.Access(c); reply == nil || reply.Status != 413 {
		t.Errorf("%+v", reply)
	}
}

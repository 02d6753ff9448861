package sigv4_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/keyway-edge/keyway/edge/sigv4"
)

const empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"

// The signatures are those of the examples in AWS's own documentation and test suite.
func TestSignPublishedExamples(t *testing.T) {
	f := func(c sigv4.Credential, region, service, at string, r sigv4.Request, want string) {
		t.Helper()
		now, err := time.Parse("20060102T150405Z", at)
		if err != nil {
			t.Fatal(err)
		}
		fields := sigv4.New(c, region, service).Sign(r, now)
		last := fields[len(fields)-1]
		if last.Name != "Authorization" || !strings.HasSuffix(last.Value, "Signature="+want) {
			t.Errorf("%s %s?%s: %s, want signature %s", r.Method, r.Path, r.Query, last.Value, want)
		}
	}
	suite := sigv4.Credential{AccessKeyID: "AKIDEXAMPLE", SecretAccessKey: "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"}
	ask := func(method, path, query string) sigv4.Request {
		return sigv4.Request{Method: method, Path: path, Query: query, Host: "example.amazonaws.com", PayloadHash: empty}
	}
	const day = "20150830T123600Z"
	f(suite, "us-east-1", "service", day, ask("GET", "/", ""), "5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31")
	f(suite, "us-east-1", "service", day, ask("POST", "/", ""), "5da7c1a2acd57cee7505fc6676e4e544621c30862966e37dddb68e92efbe5d6b")
	f(suite, "us-east-1", "service", day, ask("GET", "/", "Param2=value2&Param1=value1"), "b97d918cfa904a5beff61c982a1b6f458b799221646efd99d3219ec94cdf2500")

	s3 := sigv4.Credential{AccessKeyID: "AKIAIOSFODNN7EXAMPLE", SecretAccessKey: "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"}
	bucket := func(query string) sigv4.Request {
		return sigv4.Request{Method: "GET", Path: "/", Query: query, Host: "examplebucket.s3.amazonaws.com", PayloadHash: empty}
	}
	const may = "20130524T000000Z"
	f(s3, "us-east-1", "s3", may, bucket("lifecycle"), "fea454ca298b7da1c68078a5d1bdbfbbe0d65c699e0f91ac7a200a0136783543")
	f(s3, "us-east-1", "s3", may, bucket("max-keys=2&prefix=J"), "34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7")
}

func TestSignPrintsNoSecret(t *testing.T) {
	s := sigv4.New(sigv4.Credential{AccessKeyID: "id", SecretAccessKey: "canary", SessionToken: "token"}, "r", "s")
	if text := fmt.Sprintf("%v %+v %#v", s, s, *s); strings.Contains(text, "canary") {
		t.Error("a printed signer tells its secret")
	}
	var names []string
	for _, f := range s.Sign(sigv4.Request{Method: "GET", Path: "/", PayloadHash: sigv4.Hash(nil)}, time.Unix(0, 0)) {
		names = append(names, f.Name)
		if strings.Contains(f.Value, "canary") {
			t.Errorf("%s tells the secret", f.Name)
		}
	}
	if got := strings.Join(names, " "); got != "X-Amz-Date X-Amz-Security-Token Authorization" {
		t.Errorf("fields %s", got)
	}
}

package integration

import (
	"bufio"
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"
)

// profiles of the Gateway API's conformance suite that Keyway claims. Which features it
// claims it says itself, in the status of its GatewayClass.
const profiles = "GATEWAY-HTTP,GATEWAY-GRPC,GATEWAY-TLS,GATEWAY-TCP,GATEWAY-UDP"

// handful are the tests of the suite that run in `make test`.
const handful = "HTTPRouteSimpleSameNamespace|HTTPRouteMatching|HTTPRouteHTTPSListener|HTTPRouteWeight|GRPCRouteWeight|TLSRouteSimpleSameNamespace|TCPRouteWeightedRouting|UDPRoute"

// conformance is the suite's own report.
type conformance struct {
	Profiles []struct {
		Name           string
		Core, Extended struct {
			Statistics struct {
				Passed  int `yaml:"Passed"`
				Failed  int `yaml:"Failed"`
				Skipped int `yaml:"Skipped"`
			}
			Unsupported []string `yaml:"unsupportedFeatures"`
		}
	}
}

// TestConformance runs the conformance suite of the Gateway API, unmodified, against a
// node that serves a cluster whose pods are processes. CONFORMANCE=full runs all of it and
// leaves the suite's report at CONFORMANCE_OUT; else a handful of tests run. CONFORMANCE_RUN
// is a pattern of the names of others, CONFORMANCE_FLAGS are more flags of the suite, and
// CONFORMANCE_LOG is a file for all that it says.
func TestConformance(t *testing.T) {
	if !enclosed(t) {
		return
	}
	c := startCluster(t)
	c.defineGateway("experimental")
	c.controller()
	c.apply(gatewayClass)
	// The suite has up to some thirty Gateways at a time, two of which want the same of one port.
	addresses := []string{"127.0.0.1"}
	for i := range 60 {
		addresses = append(addresses, fmt.Sprintf("127.0.1.%d", i+1))
	}
	kubeGateway(t, c.kubeServer, startDNS(t), map[string]string{"KEYWAY_KUBE_GATEWAY_ADDRESSES": strings.Join(addresses, ",")}, options{})
	poll(t, "the GatewayClass says which features there are", 30*time.Second, func() bool {
		class := c.do("GET", "/apis/gateway.networking.k8s.io/v1/gatewayclasses/keyway", nil)
		status, _ := class["status"].(object)
		features, _ := status["supportedFeatures"].([]any)
		return len(features) > 0
	})

	full := os.Getenv("CONFORMANCE") == "full"
	pattern := cmp.Or(os.Getenv("CONFORMANCE_RUN"), handful)
	if full {
		pattern = ".*"
	}
	c.conforms(t, pattern, full)
}

// conforms runs the tests of the suite whose names match, and says what came of them.
func (c *cluster) conforms(t *testing.T, pattern string, full bool) {
	t.Helper()
	at := cmp.Or(os.Getenv("CONFORMANCE_OUT"), filepath.Join(c.dir, "report.yaml"))
	log := cmp.Or(os.Getenv("CONFORMANCE_LOG"), filepath.Join(c.dir, "suite.log"))
	version, err := os.ReadFile("../VERSION")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(at); err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	said, err := os.Create(log)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = said.Close() }()
	cmd := exec.Command(tool(t, "gateway-conformance.test"), "-test.v", "-test.timeout=2h", "-test.run=^TestConformance$/^("+pattern+")$",
		"-gateway-class=keyway", "-disable-parallel-tests", "-conformance-profiles="+profiles, "-usable-address=127.0.0.1", "-unusable-address=192.0.2.1",
		"-report-output="+at, "-organization=keyway-edge", "-project=keyway", "-url=https://github.com/keyway-edge/keyway", "-version="+strings.TrimSpace(string(version)), "-contact=https://github.com/keyway-edge/keyway/issues")
	cmd.Args = append(cmd.Args, strings.Fields(os.Getenv("CONFORMANCE_FLAGS"))...)
	cmd.Env = append(os.Environ(), "KUBECONFIG="+c.shim)
	cmd.Dir, cmd.Stdout, cmd.Stderr = c.dir, said, said
	began := time.Now()
	err = cmd.Run()
	ran := outcomes(t, log)
	t.Logf("%d tests of the suite in %v: %d passed, %d failed, %d not claimed", len(ran), time.Since(began).Round(time.Second), tally(ran, "PASS"), tally(ran, "FAIL"), tally(ran, "SKIP"))
	for _, r := range ran {
		if r.came == "FAIL" {
			t.Errorf("%s failed:\n%s", r.name, r.said)
		}
	}
	if err != nil || tally(ran, "PASS") == 0 {
		t.Errorf("the suite ended with %v; %s has all that it said", err, log)
	}
	c.reported(t, at, full)
}

// reported looks at the suite's report: nothing failed, and what is not claimed has its
// reason in the documentation.
func (c *cluster) reported(t *testing.T, at string, full bool) {
	t.Helper()
	text, err := os.ReadFile(at)
	if err != nil {
		t.Fatalf("the suite left no report: %v", err)
	}
	reasons, err := os.ReadFile("../docs/conformance.md")
	if err != nil {
		t.Fatal(err)
	}
	var r conformance
	if err := yaml.Unmarshal(text, &r); err != nil {
		t.Fatal(err)
	}
	for _, p := range r.Profiles {
		t.Logf("%s: core %+v, extended %+v", p.Name, p.Core.Statistics, p.Extended.Statistics)
		if full && p.Core.Statistics.Passed == 0 {
			t.Errorf("%s: no test of the core passed", p.Name)
		}
		for _, feature := range p.Extended.Unsupported {
			if !strings.Contains(string(reasons), "`"+feature+"`") {
				t.Errorf("%s: docs/conformance.md does not say why %s is not claimed", p.Name, feature)
			}
		}
	}
}

// ran is what came of one test of the suite.
type ran struct{ name, came, said string }

func tally(all []ran, came string) (n int) {
	for _, r := range all {
		if r.came == came {
			n++
		}
	}
	return n
}

var (
	begun = regexp.MustCompile(`^=== RUN   TestConformance/([^/]+)$`)
	ended = regexp.MustCompile(`^    --- (PASS|FAIL|SKIP): TestConformance/([^/ ]+) `)
)

// outcomes reads what the suite said, in the form of `go test -v`: of each test what came
// of it, and its last lines.
func outcomes(t *testing.T, log string) (all []ran) {
	t.Helper()
	f, err := os.Open(log)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	said := map[string][]string{}
	var now string
	s := bufio.NewScanner(f)
	s.Buffer(nil, 8<<20)
	for s.Scan() {
		line := s.Text()
		if m := begun.FindStringSubmatch(line); m != nil {
			now = m[1]
		}
		if m := ended.FindStringSubmatch(line); m != nil {
			lines := said[m[2]]
			all = append(all, ran{m[2], m[1], strings.Join(lines[max(0, len(lines)-40):], "\n")})
		}
		said[now] = append(said[now], line)
	}
	if err := s.Err(); err != nil {
		t.Fatal(err)
	}
	return all
}

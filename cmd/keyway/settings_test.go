package main

import (
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/keyway-edge/keyway/edge"
	"github.com/keyway-edge/keyway/routing"
)

func settingsFile(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "keyway.yaml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestSettingsDefaults(t *testing.T) {
	s, err := readSettings("", nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(s.ProxyListen, []string{":8000"}) || !slices.Equal(s.ProxyTLSListen, []string{":8443"}) || !slices.Equal(s.AdminListen, []string{"127.0.0.1:8001"}) ||
		!slices.Equal(s.ManagerListen, []string{"127.0.0.1:8002"}) || !slices.Equal(s.StatusListen, []string{"127.0.0.1:8100"}) {
		t.Errorf("listeners %+v", s)
	}
	if s.RequestPolicy != routing.Strict || s.HeaderTimeout != 10*time.Second || s.FieldLimit != 100 || s.HeaderLimit != 32<<10 || !s.UpstreamVerify || s.AllowDebugHeader {
		t.Errorf("defaults must be the safe ones: %+v", s)
	}
	if s.HeadersUpstream != edge.HeaderRequestID || s.Headers&edge.HeaderVia == 0 || s.Headers&edge.HeaderUpstreamStatus != 0 {
		t.Errorf("headers %b, upstream %b", s.Headers, s.HeadersUpstream)
	}
	if !s.development() {
		t.Error("without documents a node is in development mode")
	}
}

func TestSettingsPrecedence(t *testing.T) {
	file := settingsFile(t, "proxy_listen: [':1', ':2']\ngrace: 1s\nlog_level: debug\nreal_ip_recursive: true\nkeepalive_requests: 7\naccess_log_sample: 0.5\ntls_curves:\n")
	env := []string{"KEYWAY_GRACE=2s", "KEYWAY_LOG_LEVEL=warn", "PATH=/bin", "KEYWAY_CACHE=x", "KEYWAY_REQUIRE=all"}
	s, err := readSettings(file, env, map[string]string{"log_level": "error"})
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(s.ProxyListen, []string{":1", ":2"}) || !s.RealIPRecursive || s.KeepaliveMax != 7 || s.AccessLogSample != 0.5 {
		t.Errorf("the file is above the defaults: %+v", s)
	}
	if s.Grace != 2*time.Second {
		t.Errorf("the environment is above the file: %v", s.Grace)
	}
	if s.LogLevel != "error" {
		t.Errorf("a flag is above all: %v", s.LogLevel)
	}
}

func TestSettingsUnknownKeys(t *testing.T) {
	_, err := readSettings(settingsFile(t, "proxy_listn: ':1'\nxyzzy: 1\n"), []string{"KEYWAY_GRACEE=1s"}, nil)
	if err == nil {
		t.Fatal("unknown keys must be refused")
	}
	for _, want := range []string{"unknown setting proxy_listn", "did you mean proxy_listen?", "unknown setting xyzzy", "`keyway config settings` lists all", "KEYWAY_GRACEE", "did you mean grace?"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("the error does not say %q:\n%v", want, err)
		}
	}
	if n := strings.Count(err.Error(), "\n") + 1; n != 3 {
		t.Errorf("%d lines, want one for each fault:\n%v", n, err)
	}
}

// TestSettingsBadValues gives every setting that has a form a value that breaks it.
func TestSettingsBadValues(t *testing.T) {
	bad := map[string]string{
		"dns_resolver": "10.0.0.1",
		"proxy_listen": "8000", "proxy_tls_listen": ":x", "admin_listen": ":99999", "admin_tls_listen": "a", "manager_listen": ":-1", "manager_tls_listen": "c", "status_listen": ":1,b", "status_tls_listen": "b",
		"development": "maybe", "echo_listen": "here", "tls_curves": "P999", "request_policy": "lax", "trusted_ips": "10.0.0.0/99", "real_ip_header": "X Real",
		"real_ip_recursive": "perhaps", "forwarded": "RFC 7239", "headers": "via,nonsense", "headers_upstream": "nonsense", "allow_debug_header": "2", "log_level": "loud", "log_format": "xml", "access_log_sample": "NaN",
		"grace": "30", "upgrade_timeout": "0", "upgrade_stay": "yes", "handshake_timeout": "-1s", "header_timeout": "0s", "body_idle_timeout": "x", "body_min_rate": "-1", "write_stall_timeout": "x", "idle_timeout": "x",
		"keepalive_requests": "0", "header_limit": "10", "header_line_limit": "1", "header_count_limit": "1", "target_limit": "1", "body_limit": "-1", "max_connections": "-1", "max_connections_per_client": "-1", "max_connections_per_listener": "5, :8000=x", "max_requests_per_client": "-1", "max_handshakes": "x",
		"stream_listen": "9000", "stream_udp_sessions": "-1", "http2_streams": "0", "upstream_keepalive_pool_size": "-1", "upstream_keepalive_max_requests": "0", "upstream_keepalive_idle_timeout": "1", "upstream_tls_verify": "x", "canary_window": "1", "canary_failures": "-1", "revoke_at_stop": "x",
		"proxy_protocol": "on", "h2c": "maybe", "max_requests": "-1", "memory_limit": "1MiB", "http3": "maybe", "port_maps": "443", "router_flavor": "modern", "tls_ech_public_name": "edge", "tls_ocsp": "x", "last_known_good": "maybe", "lastgood_key": "relative", "kubernetes": "maybe", "kube_kubeconfig": "relative", "kube_namespaces": "a,B", "kube_ingress_class": "x y", "kube_controllers": "keyway", "kube_gateway_controllers": "gateway", "kube_gateway_addresses": "a.test", "kube_custom_entities": "A", "kube_publish_service": "edge", "kube_publish_address": "a_b", "admission_tls_listen": "443", "vault_hcv_port": "many", "vault_hcv_base64_decode": "perhaps",
		"kube_cert_manager": "maybe", "kube_label_selector": "team in (shop", "kube_namespace_selector": "team=a=b", "kube_secret_selector": "!", "kube_config_map_selector": "a==b c",
	}
	free := []string{"data_dir", "documents", "node_id", "zone", "tls_cert", "tls_key", "access_log", "shared_state", "shared_state_key", "lastgood_dir", "kube_context"} // any text is a path or a name
	var env []string
	for _, x := range settingTable() {
		v, ok := bad[x.key]
		if !ok && !slices.Contains(free, x.key) && !strings.HasPrefix(x.key, hcvPrefix) {
			t.Errorf("setting %s has no bad value in this test", x.key)
		}
		if ok {
			env = append(env, x.env()+"="+v)
		}
	}
	_, err := readSettings("", env, nil)
	if err == nil {
		t.Fatal("nothing was refused")
	}
	lines := strings.Split(err.Error(), "\n")
	if len(lines) != len(bad) {
		t.Errorf("%d lines for %d bad values", len(lines), len(bad))
	}
	for _, key := range slices.Sorted(maps.Keys(bad)) {
		head := "setting " + key + " (from KEYWAY_" + strings.ToUpper(key) + "): "
		i := slices.IndexFunc(lines, func(l string) bool { return strings.HasPrefix(l, head) })
		if i < 0 {
			t.Errorf("%s=%s was not refused", key, bad[key])
			continue
		}
		parts := strings.Split(bad[key], ",")
		if !strings.Contains(lines[i], strings.TrimSpace(parts[len(parts)-1])) || !strings.Contains(lines[i], "; expected ") {
			t.Errorf("the error must name value and expected form: %s", lines[i])
		}
	}
}

func TestSettingsListenerLimits(t *testing.T) {
	env := []string{"KEYWAY_PROXY_LISTEN=:8000,127.0.0.1:9000", "KEYWAY_STREAM_LISTEN=:9100, :9200 udp", "KEYWAY_MAX_CONNECTIONS_PER_LISTENER=50, 127.0.0.1:9000=7,:9100=0"}
	s, err := readSettings("", env, nil)
	if err != nil {
		t.Fatal(err)
	}
	for address, want := range map[string]int{":8000": 50, "127.0.0.1:9000": 7, ":9100": 0} {
		if n := s.MaxPerListener.of(address); n != want {
			t.Errorf("%s may have %d connections, want %d", address, n, want)
		}
	}
	for _, address := range []string{":8001", ":9200"} { // nobody, datagrams
		_, err := readSettings("", append(env[:2:2], "KEYWAY_MAX_CONNECTIONS_PER_LISTENER="+address+"=7"), nil)
		if err == nil || !strings.Contains(err.Error(), strconv.Quote(address)) {
			t.Errorf("a limit of %s: %v", address, err)
		}
	}
}

func TestSettingsAdmissionNeedsACluster(t *testing.T) {
	env := []string{"KEYWAY_ADMISSION_TLS_LISTEN=:8444"}
	if _, err := readSettings("", env, nil); err == nil || !strings.Contains(err.Error(), "admission_tls_listen") {
		t.Errorf("without a cluster: %v", err)
	}
	if s, err := readSettings("", append(env, "KEYWAY_KUBERNETES=on"), nil); err != nil || len(s.Kube.Admission) != 1 {
		t.Errorf("%v", err)
	}
}

func TestSettingsPortMaps(t *testing.T) {
	s, err := readSettings("", []string{"KEYWAY_PORT_MAPS=80:8000, 443:8443"}, nil)
	if err != nil || len(s.PortMaps) != 2 || s.PortMaps[8000] != 80 || s.PortMaps[8443] != 443 {
		t.Errorf("%v, %v", s, err)
	}
	for _, bad := range []string{"443", "443:", ":8443", "0:8443", "443:65536", "x:1", "443:8443, 444:8443"} {
		if _, err := readSettings("", []string{"KEYWAY_PORT_MAPS=" + bad}, nil); err == nil || !strings.Contains(err.Error(), "port_maps") {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

func TestSettingsRequestPolicy(t *testing.T) {
	f := func(v string, def routing.Policy, listener routing.Policy) {
		t.Helper()
		s, err := readSettings("", []string{"KEYWAY_REQUEST_POLICY=" + v, "KEYWAY_PROXY_LISTEN=:8000,127.0.0.1:9000"}, nil)
		if err != nil || s.RequestPolicy != def || s.ListenerPolicies["127.0.0.1:9000"] != listener {
			t.Errorf("%q: %v %v, %v", v, s.RequestPolicy, s.ListenerPolicies, err)
		}
	}
	f("strict", routing.Strict, "")
	f("compatible", routing.Compatible, "")
	f("strict, 127.0.0.1:9000=compatible", routing.Strict, routing.Compatible)
	f("127.0.0.1:9000 = strict,compatible", routing.Compatible, routing.Strict)
	f("", routing.Strict, "")
	_, err := readSettings("", []string{"KEYWAY_REQUEST_POLICY=compatible, :8008=strict"}, nil)
	if err == nil || !strings.Contains(err.Error(), `nothing listens on ":8008"`) {
		t.Errorf("a policy for a listener that does not exist leaves the one meant without it: %v", err)
	}
}

func TestSettingsTrustedIPs(t *testing.T) {
	s, err := readSettings("", []string{"KEYWAY_TRUSTED_IPS=10.1.2.3/8, 192.0.2.7,2001:db8::/32"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	want := []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("192.0.2.7/32"), netip.MustParsePrefix("2001:db8::/32")}
	if !slices.Equal(s.TrustedIPs, want) {
		t.Errorf("got %v", s.TrustedIPs)
	}
}

func TestSettingsFileMistakes(t *testing.T) {
	for text, want := range map[string]string{
		"- a\n":                     "expected a map of settings",
		"grace: {a: b}\n":           "expected a word, a number or a list",
		"grace: 1s\ngrace: 2s\n":    "already defined",
		"tls_cert: /only/one.pem\n": "go together",
	} {
		if _, err := readSettings(settingsFile(t, text), nil, nil); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", text, err, want)
		}
	}
	if _, err := readSettings("/nowhere/keyway.yaml", nil, nil); err == nil || !strings.Contains(err.Error(), "/nowhere/keyway.yaml") {
		t.Errorf("got %v", err)
	}
}

func TestPairOfTheDefaultSlot(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"a/cert.pem", "b/key#1.pem"} {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	s := &settings{TLSCert: filepath.Join(dir, "a/cert.pem"), TLSKey: filepath.Join(dir, "b/key#1.pem")}
	v := &vaults{}
	if root, err := v.pairDir(s); err != nil || root != dir {
		t.Errorf("pairDir is %q, %v; want the deepest common folder %q", root, err, dir)
	}
	cert, key, err := v.defaultPair(s)
	if err != nil || cert.Ref.Resource != "a/cert.pem" || key.Ref.Resource != "b/key#1.pem" || cert.Ref.Vault != settingsVault || cert.Ref.Key != "" {
		t.Errorf("files must become references, to be watched: %+v %+v %v", cert.Ref, key.Ref, err)
	}
	if len(v.always) != 2 || len(v.plan(emptyDocument(t)).Refs) != 2 {
		t.Error("the plan of every document must hold them")
	}

	s = &settings{TLSCert: "{vault://env/c}", TLSKey: "-----BEGIN PRIVATE KEY-----\nx"}
	v = &vaults{}
	cert, key, err = v.defaultPair(s)
	if root, _ := v.pairDir(s); root != "" || err != nil || cert.Ref.String() != "{vault://env/c}" || string(key.Value.Reveal()) != s.TLSKey {
		t.Errorf("a reference and PEM: %+v %v", cert.Ref, err)
	}
	if cert, key, err = (&vaults{}).defaultPair(&settings{}); err != nil || !cert.IsZero() || !key.IsZero() {
		t.Errorf("no pair: %v", err)
	}
	const pasted = "MC4CAQAwBQYDK2VwBCIEIA-secret"
	if _, _, err = (&vaults{}).defaultPair(&settings{TLSCert: "{vault://env/c}", TLSKey: pasted}); err == nil || strings.Contains(err.Error(), pasted) || !strings.Contains(err.Error(), "tls_key") {
		t.Errorf("what is no file may be a key, and must not be shown: %v", err)
	}
}

func TestSettingsProxyProtocol(t *testing.T) {
	s, err := readSettings("", []string{"KEYWAY_PROXY_PROTOCOL=127.0.0.1:9000", "KEYWAY_PROXY_LISTEN=:8000,127.0.0.1:9000", "KEYWAY_TRUSTED_IPS=10.0.0.0/8"}, nil)
	if err != nil || s.proxied(":8000") || !s.proxied("127.0.0.1:9000") {
		t.Errorf("%v, %v", s.ProxyProtocol, err)
	}
	if s, err := readSettings("", []string{"KEYWAY_PROXY_PROTOCOL=all", "KEYWAY_TRUSTED_IPS=10.0.0.0/8"}, nil); err != nil || !s.proxied(":8443") {
		t.Errorf("all: %v", err)
	}
	for value, want := range map[string]string{":8008": `nothing listens on ":8008"`, "all": "trusted_ips"} {
		if _, err := readSettings("", []string{"KEYWAY_PROXY_PROTOCOL=" + value}, nil); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", value, err)
		}
	}
}

func TestStreamListen(t *testing.T) {
	s, err := readSettings("", []string{"KEYWAY_STREAM_LISTEN=127.0.0.1:9000, :9443 ssl proxy_protocol, [::1]:53 udp", "KEYWAY_TRUSTED_IPS=10.0.0.0/8"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	want := []streamAddress{{address: "127.0.0.1:9000"}, {address: ":9443", secure: true, proxied: true}, {address: "[::1]:53", udp: true}}
	if !slices.Equal(s.StreamListen, want) {
		t.Errorf("%+v", s.StreamListen)
	}
	if all := s.streamEndpoints(); len(all) != 2 || all[0].Name != "stream" || all[1].Name != "stream-tls" || !all[1].TLS || !all[1].Proxied || !all[1].Stream {
		t.Errorf("%+v", all)
	}
	for _, bad := range []string{"9000", ":9000 tls", ":9000 udp ssl", ":9000 udp proxy_protocol", ":9000,,:9001", ":9000 proxy_protocol"} {
		if _, err := readSettings("", []string{"KEYWAY_STREAM_LISTEN=" + bad}, nil); err == nil || !strings.Contains(err.Error(), "stream_listen") {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

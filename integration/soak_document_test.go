package integration

import (
	"fmt"
	"strings"
)

const (
	soakCA    = "0e7c8e4e-0000-4000-8000-0000000000aa"
	soakNames = 8 // certificates
	// Names that are their services' own; the first ones are anybody's.
	anyNames, nameGRPC, nameGRPCS, nameWeb = 5, 5, 6, 7
)

// document is what the node serves in a generation: all routes that clients use, with
// weights, limits and a plugin that change each time, and routes that come and go.
func (k *soak) document(generation int) string {
	var b strings.Builder
	p := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	p(`_format_version: "3.0"`)
	p(`vaults: [{name: file, prefix: pairs, config: {root: %s}}, {name: file, prefix: keys, config: {root: %s}}]`, k.fleet.dir, k.keys)
	p(`ca_certificates: [{id: %s, cert: %q}]`, soakCA, k.authority.pem)
	p(`certificates:`)
	for i := range soakNames {
		p(`- {cert: "{vault://pairs/n%d/tls.crt}", key: "{vault://pairs/n%d/tls.key}", snis: [%s]}`, i, i, k.fleet.name(i))
	}
	p(`consumers: [{username: caller, keyauth_credentials: [{key: "{vault://keys/api/}"}, {key: "{vault://sealed/soak-key}"}]}]`)
	p(`upstreams:`)
	const passive = `passive: {type: tcp, unhealthy: {tcp_failures: 1}}`
	active := func(kind string) string {
		return fmt.Sprintf(`active: {type: %s, timeout: 10, http_path: /health, healthy: {interval: 1, successes: 1}, unhealthy: {interval: 1, tcp_failures: 1, timeouts: 5, http_failures: 3}}`, kind)
	}
	for _, pool := range []struct{ name, more string }{
		{"plain", `algorithm: least-connections, healthchecks: {` + active("http") + `, ` + passive + `}`},
		{"tls", `healthchecks: {` + strings.Replace(active("https"), "http_path", "https_verify_certificate: false, http_path", 1) + `, ` + passive + `}`},
		{"h2", `x_keyway_balancing: {recover_after: 1}, healthchecks: {` + passive + `}`},
		{"grpc", `healthchecks: {` + active("tcp") + `, ` + passive + `}`},
		{"tcp", `algorithm: least-connections, healthchecks: {` + active("tcp") + `}`},
		{"through", `x_keyway_balancing: {recover_after: 1}, healthchecks: {` + passive + `}`},
		{"udp", `x_keyway_balancing: {recover_after: 1}, healthchecks: {` + passive + `}`},
	} {
		var targets []string
		for i, x := range k.pools[pool.name] {
			targets = append(targets, fmt.Sprintf(`{target: %q, weight: %d}`, x.addr, 50+50*((generation+i)%3)))
		}
		if pool.name == "plain" && generation%2 == 1 {
			targets = append(targets, fmt.Sprintf(`{target: %q, weight: 20}`, k.spare.addr))
		}
		p(`- {name: %s.up, %s, targets: [%s]}`, pool.name, pool.more, strings.Join(targets, ", "))
	}
	p(`services:`)
	p(`- {name: plain, host: plain.up, retries: %d, routes: [`, 5+generation%3)
	p(`    {name: plain, paths: [/plain]}, {name: live, paths: [/live], request_buffering: false},`)
	p(`    {name: keyed, paths: [/keyed], plugins: [{name: key-auth, config: {hide_credentials: true}}, {name: rate-limiting, config: {second: %d, limit_by: consumer}}]},`, 100000+generation)
	p(`    {name: small, paths: [/small], plugins: [{name: compression, config: {codings: [gzip]}}]},`)
	p(`    {name: shared, paths: [/shared], plugins: [{name: cors, config: {origins: ["https://page.test"], max_age: %d}}]},`, 600+generation)
	p(`    {name: changed, paths: [/changed], plugins: [{name: request-transformer, config: {add: {headers: ["X-Added:%s"]}, remove: {headers: [X-Removed]}}}]},`, "by $(headers.x_number)")
	p(`    {name: spoken, expression: 'http.path ^= "/spoken" && any(http.headers.x_beta) == "on"', priority: 10, plugins: [{name: request-transformer, config: {add: {headers: ["X-Added:spoken"]}}}]},`)
	for i := max(0, generation-2); i <= generation; i++ {
		p(`    {name: generation-%d, paths: [/generation-%d], plugins: [{name: request-termination, config: {status_code: 200, content_type: text/plain, body: "generation %d"}}]},`, i, i, i)
	}
	p(`  ]}`)
	p(`- {name: secure, protocol: https, host: tls.up, port: 443, tls_verify: true, ca_certificates: [%s], routes: [{name: secure, paths: [/secure]}]}`, soakCA)
	p(`- {name: two, protocol: https, host: h2.up, port: 443, x_keyway_upstream_protocol: h2, tls_verify: true, ca_certificates: [%s], routes: [{name: two, paths: [/two]}]}`, soakCA)
	p(`- {name: door, url: "http://%s", x_keyway_upstream_auth: {type: header, name: X-Api-Key, value: "{vault://keys/door/}"}, routes: [{name: door, paths: [/door]}]}`, k.doorAddr)
	p(`- {name: calls, protocol: grpc, host: grpc.up, port: 80, routes: [{name: calls, protocols: [grpc, grpcs], hosts: [%s], paths: [/]}]}`, k.fleet.name(nameGRPC))
	p(`- {name: secure-calls, url: "grpcs://%s", routes: [{name: secure-calls, protocols: [grpc, grpcs], hosts: [%s], paths: [/]}]}`, k.secureCalls.addr, k.fleet.name(nameGRPCS))
	p(`- {name: web-calls, protocol: grpc, host: grpc.up, port: 80, routes: [{name: web-calls, protocols: [http, https], hosts: [%s], paths: [/grpc.testing.TestService], plugins: [{name: grpc-web}]}]}`, k.fleet.name(nameWeb))
	p(`- {name: tcp, protocol: tcp, host: tcp.up, port: 1, routes: [{name: tcp, protocols: [tcp], destinations: [{port: %s}]}, {name: ended, protocols: [tls], snis: [%s]}]}`, portOf(k.tcp), strings.Join(k.fleet.names(anyNames), ", "))
	p(`- {name: through, protocol: tls_passthrough, host: through.up, port: 1, routes: [{name: through, protocols: [tls_passthrough], snis: [%s]}]}`, throughName)
	p(`- {name: udp, protocol: udp, host: udp.up, port: 1, read_timeout: 3000, routes: [{name: udp, protocols: [udp], destinations: [{port: %s}]}]}`, portOf(k.udp))
	return b.String()
}

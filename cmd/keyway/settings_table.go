package main

import (
	"slices"
	"strings"
	"time"

	"github.com/keyway-edge/keyway/certs"
	"github.com/keyway-edge/keyway/edge"
	"github.com/keyway-edge/keyway/routing/spec"
)

// Short names keep the table readable.
type (
	dur           = time.Duration
	edgeHeaderSet = edge.HeaderSet
)

// settingTable lists every node setting, in the order in which they are shown.
func settingTable() []setting {
	return slices.Concat(listenSettings(), sourceSettings(), requestSettings(), logSettings(), limitSettings(), upstreamSettings(), kubeSettings(), selectorSettings(), certManagerSettings(), hcvSettings())
}

const listForm = "a comma list of host:port, or off"

func listenSettings() []setting {
	return []setting{
		{key: "proxy_listen", def: ":8000", form: listForm, meaning: "where requests in clear are served", apply: addresses(func(s *settings) *[]string { return &s.ProxyListen })},
		{key: "proxy_tls_listen", def: ":8443", form: listForm, meaning: "where requests over TLS are served", apply: addresses(func(s *settings) *[]string { return &s.ProxyTLSListen })},
		{key: "stream_listen", def: "off", form: "a comma list of host:port, each followed by none or some of ssl, udp and proxy_protocol, or off", meaning: "where streams are served that no requests are spoken on: TCP, TLS with ssl, datagrams with udp; proxy_protocol as the setting of that name", apply: streamAddresses},
		{key: "admin_listen", def: "127.0.0.1:8001", form: listForm, meaning: "where the node's read-only admin facts are served, in clear", apply: addresses(func(s *settings) *[]string { return &s.AdminListen })},
		{key: "admin_tls_listen", def: "off", form: listForm, meaning: "the same over TLS, with the default certificate", apply: addresses(func(s *settings) *[]string { return &s.AdminTLSListen })},
		{key: "manager_listen", def: "127.0.0.1:8002", form: listForm, meaning: "where the manager page is served", apply: addresses(func(s *settings) *[]string { return &s.ManagerListen })},
		{key: "manager_tls_listen", def: "off", form: listForm, meaning: "the same over TLS, with the default certificate", apply: addresses(func(s *settings) *[]string { return &s.ManagerTLSListen })},
		{key: "status_listen", def: "127.0.0.1:8100", form: listForm, meaning: "where status, readiness and metrics are served, in clear", apply: addresses(func(s *settings) *[]string { return &s.StatusListen })},
		{key: "status_tls_listen", def: "off", form: listForm, meaning: "the same over TLS, with the default certificate", apply: addresses(func(s *settings) *[]string { return &s.StatusTLSListen })},
	}
}

func sourceSettings() []setting {
	return []setting{
		{key: "data_dir", def: defaultDataDir(), form: "a folder", meaning: "the node's own data: ledger, sealed store, control socket, development CA; made with mode 0700", apply: text(func(s *settings) *string { return &s.DataDir })},
		{key: "documents", def: "", form: "a comma list of files or folders", meaning: "the declarative documents to serve; none starts development mode with a starter document", apply: func(s *settings, v string) error {
			s.Documents = commaList(v)
			return nil
		}},
		{key: "development", def: "auto", form: "auto, on or off", meaning: "issue certificates from a development CA for localhost and configured names that have none; auto means on when there are no documents", apply: oneOf(func(s *settings) *string { return &s.Development }, "auto", "on", "off")},
		{key: "echo_listen", def: "127.0.0.1:8090", form: "host:port, or off", meaning: "the built-in echo upstream of development mode", apply: func(s *settings, v string) error {
			s.EchoListen = v
			if v == "off" {
				return nil
			}
			return hostPort(v)
		}},
		{key: "node_id", def: "", form: "a UUID", meaning: "this node's id; made once and kept in the data folder when empty", apply: text(func(s *settings) *string { return &s.NodeID })},
		{key: "zone", def: "", form: "a name", meaning: "where this node runs; upstreams with zone_preference prefer targets whose x_keyway_zone it is", apply: text(func(s *settings) *string { return &s.Zone })},
		{key: "dns_resolver", def: "", form: "comma list of host:port", meaning: "DNS servers that names of upstreams are asked of; the system's when empty", apply: addresses(func(s *settings) *[]string { return &s.DNSResolver })},
		{key: "tls_cert", def: "", form: "a file, PEM, or a {vault://...} reference", meaning: "certificate chain of the default slot: of unknown names, and of admin and status over TLS", apply: text(func(s *settings) *string { return &s.TLSCert })},
		{key: "tls_key", def: "", form: "a file, PEM, or a {vault://...} reference", meaning: "private key of the default slot", apply: text(func(s *settings) *string { return &s.TLSKey })},
		{key: "last_known_good", def: "on", form: "on or off", meaning: "keep the last good document and credentials, sealed, and start from them when documents are bad or sources away", apply: boolean(func(s *settings) *bool { return &s.LastKnownGood })},
		{key: "lastgood_key", def: "", form: "the absolute path of a file with one line: KEYWAY-LASTGOOD-KEY-1, a space, 32 bytes in base64; or transit:<mount>/<key> in the node's own Vault", meaning: "key of the last known good state; when empty one is made in the data folder, which guards copies of the sealed file alone", apply: func(s *settings, v string) error {
			if strings.HasPrefix(v, "transit:") {
				s.LastGoodKey = v
				return nil
			}
			return absolute(func(s *settings) *string { return &s.LastGoodKey })(s, v)
		}},
		{key: "lastgood_dir", def: "", form: "a folder of this node alone", meaning: "where the last known good state is kept; when empty last-good in the data folder", apply: text(func(s *settings) *string { return &s.LastGoodDir })},
		{key: "canary_window", def: "1m", form: "a duration such as 1m", meaning: "how long the uses of a new version of a credential are watched for failures", apply: duration(func(s *settings) *dur { return &s.CanaryWindow })},
		{key: "canary_failures", def: "5", form: "a whole number", meaning: "failed uses of a new version, if they are half of all, after which the version before is used again; 0 for never", apply: integer(func(s *settings) *int { return &s.CanaryFailures }, 0)},
		{key: "revoke_at_stop", def: "off", form: "on or off", meaning: "give leases back to their sources at an orderly end; off, they end with their time, and the last known good state may still use them", apply: boolean(func(s *settings) *bool { return &s.RevokeAtStop })},
		{key: "shared_state", def: "", form: "a folder, or hcv:<mount>/<path> in the node's own Vault (kv v2)", meaning: "what replicas share, sealed: session ticket keys, ECH keys, issued certificates, revocations; on a volume that all of them mount, or empty for a folder of this node alone in data_dir", apply: text(func(s *settings) *string { return &s.SharedState })},
		{key: "shared_state_key", def: "", form: "a file", meaning: "the key that shared_state is sealed with, the same for all replicas; empty is shared.key in data_dir, made where there is none", apply: text(func(s *settings) *string { return &s.SharedStateKey })},
		{key: "tls_ech_public_name", def: "", form: "the name of a host", meaning: "turns Encrypted Client Hello on: the server name that is seen on the wire, which needs a certificate here", apply: func(s *settings, v string) error {
			s.ECHPublicName = v
			if v == "" {
				return nil
			}
			_, err := certs.NewECH(v, nil)
			return err
		}},
		{key: "tls_ocsp", def: "on", form: "on or off", meaning: "ask the responders that certificates name for their status, in the background: staples, and leaving what was revoked", apply: boolean(func(s *settings) *bool { return &s.TLSOCSP })},
		{key: "tls_curves", def: "", form: "a comma list of X25519MLKEM768, X25519, P256, P384, P521", meaning: "key exchange groups; empty leaves the safe default of the TLS library", advanced: true, apply: func(s *settings, v string) error {
			s.TLSCurves = commaList(v)
			_, err := curves(s.TLSCurves)
			return err
		}},
	}
}

func requestSettings() []setting {
	return []setting{
		{key: "request_policy", def: "strict", form: "strict or compatible, and address=policy for listeners that differ", meaning: "how doubtful paths and headers are treated", apply: requestPolicy},
		{key: "router_flavor", def: spec.FlavorExpressions, form: "expressions, traditional_compatible or traditional", meaning: "what routes may say of when they match: fields or expressions, beside each other, or fields alone", apply: oneOf(func(s *settings) *string { return &s.RouterFlavor }, spec.FlavorCompatible, spec.FlavorTraditional, spec.FlavorExpressions)},
		{key: "trusted_ips", def: "", form: "a comma list of addresses and CIDRs", meaning: "peers whose X-Forwarded-* and real_ip_header are believed", apply: trustedIPs},
		{key: "proxy_protocol", def: "", form: "a comma list of addresses as in proxy_listen and proxy_tls_listen, or all", meaning: "listeners on which peers of trusted_ips begin each connection with a PROXY protocol header, version 1 or 2, that names the client", apply: func(s *settings, v string) error {
			if v == "all" {
				s.ProxyProtocol = []string{v}
				return nil
			}
			return addresses(func(s *settings) *[]string { return &s.ProxyProtocol })(s, v)
		}},
		{key: "h2c", def: "", form: "a comma list of addresses as in proxy_listen, or all", meaning: "listeners in clear on which clients may begin with HTTP/2 at once (prior knowledge), beside HTTP/1.1", apply: func(s *settings, v string) error {
			if v == "all" {
				s.H2C = []string{v}
				return nil
			}
			return addresses(func(s *settings) *[]string { return &s.H2C })(s, v)
		}},
		{key: "http3", def: "", form: "a comma list of addresses as in proxy_tls_listen, or all, or clear", meaning: "listeners that serve HTTP/3 too, over UDP at the same port, and tell clients so; clear has clients forget it", apply: func(s *settings, v string) error {
			if v == "all" || v == "clear" {
				s.HTTP3 = []string{v}
				return nil
			}
			return addresses(func(s *settings) *[]string { return &s.HTTP3 })(s, v)
		}},
		{key: "port_maps", def: "", form: "a comma list of pairs such as 443:8443", meaning: "ports that clients see, each with the port of a listener that it leads to: what X-Forwarded-Port and Alt-Svc say", apply: portMaps},
		{key: "real_ip_header", def: "X-Real-IP", form: "a header name", meaning: "where a trusted peer says who the client is; Forwarded is read as RFC 7239 has it, and instead of X-Forwarded-*", apply: headerName(func(s *settings) *string { return &s.RealIPHeader })},
		{key: "real_ip_recursive", def: "off", form: "on or off", meaning: "take the last address of the list that is not itself trusted", apply: boolean(func(s *settings) *bool { return &s.RealIPRecursive })},
		{key: "headers", def: "server_tokens, latency_tokens, X-Kong-Request-Id", form: "off, or a comma list of header names and groups", meaning: "headers that are added to responses", apply: headerSet(func(s *settings) *edgeHeaderSet { return &s.Headers })},
		{key: "headers_upstream", def: "X-Kong-Request-Id", form: "off, or X-Kong-Request-Id", meaning: "headers that are added to upstream requests", apply: headerSet(func(s *settings) *edgeHeaderSet { return &s.HeadersUpstream })},
		{key: "forwarded", def: "off", form: "on or off", meaning: "send upstreams Forwarded (RFC 7239) beside X-Forwarded-*", apply: boolean(func(s *settings) *bool { return &s.UpstreamForwarded })},
		{key: "allow_debug_header", def: "off", form: "on or off", meaning: "answer Kong-Debug: 1 with the names of route and service", apply: boolean(func(s *settings) *bool { return &s.AllowDebugHeader })},
	}
}

func logSettings() []setting {
	return []setting{
		{key: "log_level", def: "info", form: "debug, info, warn or error", meaning: "least level of the node's log, on standard error", apply: oneOf(func(s *settings) *string { return &s.LogLevel }, "debug", "info", "warn", "error")},
		{key: "log_format", def: "json", form: "json or text", meaning: "form of the node's log", apply: oneOf(func(s *settings) *string { return &s.LogFormat }, "json", "text")},
		{key: "access_log", def: "stdout", form: "stdout, off, or a file", meaning: "where a line is written for each request; a file is reopened on SIGUSR1", apply: text(func(s *settings) *string { return &s.AccessLog })},
		{key: "access_log_sample", def: "1", form: "a number between 0 and 1", meaning: "share of requests that are logged; answers of 500 and above always are", apply: fraction(func(s *settings) *float64 { return &s.AccessLogSample })},
	}
}

func limitSettings() []setting {
	const d, n = "a duration such as 10s", "a whole number"
	return []setting{
		{key: "grace", def: "30s", form: d, meaning: "how long requests in flight may take to finish at a shutdown", apply: duration(func(s *settings) *dur { return &s.Grace })},
		{key: "upgrade_timeout", def: "90s", form: d, meaning: "how long the process of a hot upgrade may take until it could serve; then it is ended and the running one serves on", apply: duration(func(s *settings) *dur { return &s.UpgradeTimeout })},
		{key: "upgrade_stay", def: "auto", form: "auto, on or off", meaning: "whether the process that an upgrade replaces stays as the parent of the new one, passes signals on and ends as it does; auto means on for the first process of a container", apply: oneOf(func(s *settings) *string { return &s.UpgradeStay }, "auto", "on", "off")},
		{key: "handshake_timeout", def: "10s", form: d, meaning: "longest TLS handshake", apply: duration(func(s *settings) *dur { return &s.HandshakeTimeout })},
		{key: "header_timeout", def: "10s", form: d, meaning: "longest time to send a request head", apply: duration(func(s *settings) *dur { return &s.HeaderTimeout })},
		{key: "body_idle_timeout", def: "30s", form: d, meaning: "longest silence inside a request body", apply: duration(func(s *settings) *dur { return &s.BodyIdle })},
		{key: "body_min_rate", def: "240", form: n, meaning: "bytes a second that a request body must average after its first 10 s; 0 for none", apply: integer(func(s *settings) *int { return &s.MinBodyRate }, 0)},
		{key: "write_stall_timeout", def: "30s", form: d, meaning: "longest time without progress in writing to a client", apply: duration(func(s *settings) *dur { return &s.WriteStall })},
		{key: "idle_timeout", def: "75s", form: d, meaning: "how long a client connection may idle between requests", apply: duration(func(s *settings) *dur { return &s.IdleTimeout })},
		{key: "keepalive_requests", def: "1000", form: n, meaning: "requests on one HTTP/1.1 connection before it is closed", apply: integer(func(s *settings) *int { return &s.KeepaliveMax }, 1)},
		{key: "header_limit", def: "32768", form: n, meaning: "bytes of a request head, 431 above", apply: integer(func(s *settings) *int { return &s.HeaderLimit }, 1024)},
		{key: "header_line_limit", def: "8192", form: n, meaning: "bytes of one header line, 431 above", apply: integer(func(s *settings) *int { return &s.LineLimit }, 256)},
		{key: "header_count_limit", def: "100", form: n, meaning: "header lines of a request, 431 above", apply: integer(func(s *settings) *int { return &s.FieldLimit }, 8)},
		{key: "target_limit", def: "8192", form: n, meaning: "bytes of a request target, 414 above", apply: integer(func(s *settings) *int { return &s.TargetLimit }, 256)},
		{key: "body_limit", def: "0", form: n, meaning: "bytes of a request body, 413 above; 0 for no limit", apply: integer(func(s *settings) *int64 { return &s.BodyLimit }, 0)},
		{key: "max_connections", def: "0", form: n, meaning: "client connections at a time, more are refused; 0 for no limit", apply: integer(func(s *settings) *int { return &s.MaxConnections }, 0)},
		{key: "max_connections_per_listener", def: "0", form: "a whole number, and address=number for listeners that differ", meaning: "client connections at a time of each listener, more are refused; 0 for no limit of its own", apply: perListener},
		{key: "max_connections_per_client", def: "0", form: n, meaning: "connections at a time of one client address, or of one /64 of IPv6, more are refused; 0 for no limit", apply: integer(func(s *settings) *int { return &s.MaxPerClient }, 0)},
		{key: "max_requests", def: "0", form: n, meaning: "requests in flight at a time, more are answered 503; 0 for no limit", apply: integer(func(s *settings) *int { return &s.MaxInFlight }, 0)},
		{key: "max_requests_per_client", def: "0", form: n, meaning: "requests in flight at a time of one client address, or of one /64 of IPv6, more are answered 503; 0 for no limit", apply: integer(func(s *settings) *int { return &s.MaxOfClient }, 0)},
		{key: "memory_limit", def: "auto", form: "auto, off, or a size such as 512MiB", meaning: "memory that the process may take: from nine tenths on new requests are answered 503 and new connections closed; auto is the container's limit, or GOMEMLIMIT", apply: memoryLimit},
		{key: "max_handshakes", def: "0", form: n, meaning: "TLS handshakes at a time, more are refused; 0 for no limit", apply: integer(func(s *settings) *int { return &s.MaxHandshakes }, 0)},
		{key: "stream_udp_sessions", def: "10000", form: n, meaning: "clients of udp listeners that have a session at a time, datagrams of more are dropped; 0 for no limit", apply: integer(func(s *settings) *int { return &s.MaxUDPSessions }, 0)},
		{key: "http2_streams", def: "100", form: n, meaning: "concurrent streams of an HTTP/2 connection", apply: integer(func(s *settings) *int { return &s.HTTP2Streams }, 1)},
	}
}

func upstreamSettings() []setting {
	return []setting{
		{key: "upstream_keepalive_pool_size", def: "512", form: "a whole number", meaning: "idle upstream connections kept for each target", apply: integer(func(s *settings) *int { return &s.UpstreamPool }, 0)},
		{key: "upstream_keepalive_max_requests", def: "10000", form: "a whole number", meaning: "requests on one upstream connection before it is closed", apply: integer(func(s *settings) *int { return &s.UpstreamRequests }, 1)},
		{key: "upstream_keepalive_idle_timeout", def: "60s", form: "a duration such as 10s", meaning: "how long an upstream connection may idle", apply: duration(func(s *settings) *dur { return &s.UpstreamIdle })},
		{key: "upstream_tls_verify", def: "on", form: "on or off", meaning: "verify upstream certificates where the service does not say", apply: boolean(func(s *settings) *bool { return &s.UpstreamVerify })},
	}
}

package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
)

// Ids of the authorities that client certificates must come from.
const (
	idClientCA  = "5a1f0c86-8a55-4f0e-9d7c-1f6f3a1c0001"
	idClientCA2 = "5a1f0c86-8a55-4f0e-9d7c-1f6f3a1c0002"
)

type object map[string]any

// pems reads the probe's certificates and keys, and keeps the first error.
type pems struct {
	dir string
	err error
}

func (p *pems) read(name string) string {
	b, err := os.ReadFile(filepath.Join(p.dir, name))
	if err != nil && p.err == nil {
		p.err = fmt.Errorf("reading the probe's certificates: %w", err)
	}
	return string(b)
}

// pair is a certificate entry for the pair of files called stem and its names,
// all of which are under the TLS policy, if one is named.
func (p *pems) pair(stem, tlsPolicy string, names ...string) object {
	var snis []object
	for _, n := range names {
		sni := object{"name": n}
		if tlsPolicy != "" {
			sni["x_keyway_tls_policy"] = tlsPolicy
		}
		snis = append(snis, sni)
	}
	return object{"cert": p.read(stem + ".crt"), "key": p.read(stem + ".key"), "snis": snis}
}

// document is what the probe expects to meet: an origin, a prefix that is denied,
// one certificate for each of its slots, and two names that want client
// certificates, each from an authority of its own.
func document(fixtures string, originPort int) ([]byte, error) {
	p := &pems{dir: fixtures}
	edge := p.pair("edge-ecdsa", "", "edge.test")
	edge["cert_alt"], edge["key_alt"] = p.read("edge-rsa.crt"), p.read("edge-rsa.key")
	doc := object{
		"_format_version": "3.0",
		"services": []object{{
			"name": "origin", "protocol": "http", "host": "127.0.0.1", "port": originPort,
			"routes": []object{
				{"name": "open", "paths": []string{"/"}, "strip_path": false, "preserve_host": true},
				{
					// The probe's judge reads paths without regard to case, as some origins do.
					"name": "deny", "paths": []string{"/admin", "~/(?i:admin)"}, "strip_path": false, "preserve_host": true,
					"plugins": []object{{"name": "request-termination", "config": object{"status_code": 403, "message": "not here"}}},
				},
			},
		}},
		"certificates": []object{
			edge,
			p.pair("exact", "", "a.wild.test"),
			p.pair("wild", "", "*.wild.test"),
			p.pair("deep", "", "*.deep.wild.test"),
			p.pair("idn", "", "xn--bcher-kva.test"),
			p.pair("shared", "", "shared.test", "other.test"),
			p.pair("mtls", "clients", "mtls.test"),
			p.pair("mtlswild", "other-clients", "*.mtlswild.test"),
		},
		"ca_certificates": []object{
			{"id": idClientCA, "cert": p.read("client-ca.crt")},
			{"id": idClientCA2, "cert": p.read("client-ca2.crt")},
		},
		"x_keyway_tls_policies": []object{
			{"name": "clients", "client_auth": "required", "ca_certificates": []string{idClientCA}},
			{"name": "other-clients", "client_auth": "required", "ca_certificates": []string{idClientCA2}},
		},
	}
	if p.err != nil {
		return nil, p.err
	}
	return json.MarshalIndent(doc, "", " ")
}

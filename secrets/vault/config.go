package vault

import (
	"errors"
	"fmt"
	"maps"
	"net/url"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/keyway-edge/keyway/secrets"
)

// Text is a setting that may be secret: a literal, or a reference that is looked up
// whenever it is needed.
type Text struct {
	Ref     secrets.Ref
	Literal secrets.Value
}

// IsZero says that the setting is not there.
func (t Text) IsZero() bool { return t.Ref.IsZero() && t.Literal.IsZero() }

// Config is the settings of a vault entity. The names are those of the format's
// hcv vault, with Keyway's own beside them.
type Config struct {
	Address    string // of the server, a URL
	ServerName string // tls_server_name: the name that its certificate must have, "" for the address's
	CA         Text   // ca_cert: PEM; else ca_file; else the system's authorities
	CAFile     string
	ClientCert Text // client_cert and client_key: shown to the server when it asks
	ClientKey  Text
	Namespace  string
	Timeout    time.Duration

	Mount  string // of the engine kv
	KV     string // v1, v2
	Engine string // kv, generic
	Base64 bool   // base64_decode: strings of the engine kv are decoded

	Auth Auth
}

// Auth is how this node logs in.
type Auth struct {
	Method string // token, approle, kubernetes, cert, jwt

	Token     Text
	TokenFile string

	AppRolePath  string
	RoleID       Text
	SecretID     Text
	SecretIDFile string
	Wrapped      bool // the secret-id is a wrapping token, to be unwrapped once

	KubePath, KubeRole, KubeTokenFile string

	CertPath, CertRole string
	Cert, CertKey      Text

	JWTPath, JWTRole, JWTFile string
	JWT                       Text
}

// setting reads one field of a config.
type setting func(c *Config, v any) error

func text(at func(*Config) *string) setting {
	return func(c *Config, v any) error {
		s, ok := v.(string)
		if !ok {
			return errors.New("expected a text")
		}
		*at(c) = s
		return nil
	}
}

func word(at func(*Config) *string, words ...string) setting {
	return func(c *Config, v any) error {
		s, ok := v.(string)
		if !ok || !slices.Contains(words, s) {
			return fmt.Errorf("expected one of: %s", strings.Join(words, ", "))
		}
		*at(c) = s
		return nil
	}
}

func file(at func(*Config) *string) setting {
	return func(c *Config, v any) error {
		s, ok := v.(string)
		if !ok || s != "" && !filepath.IsAbs(s) {
			return errors.New("expected the absolute path of a file")
		}
		*at(c) = s
		return nil
	}
}

func secret(at func(*Config) *Text) setting {
	return func(c *Config, v any) error {
		s, ok := v.(string)
		if !ok || s == "" {
			return errors.New("expected a text or a {vault://...} reference")
		}
		if !strings.HasPrefix(s, "{vault://") {
			*at(c) = Text{Literal: secrets.NewValue([]byte(s))}
			return nil
		}
		r, err := secrets.ParseRef(s)
		if err != nil {
			return err
		}
		*at(c) = Text{Ref: r}
		return nil
	}
}

func flag(at func(*Config) *bool) setting {
	return func(c *Config, v any) error {
		b, ok := v.(bool)
		if !ok {
			return errors.New("expected true or false")
		}
		*at(c) = b
		return nil
	}
}

// settings are the fields of a config, but for protocol, host, port and address.
func settings() map[string]setting {
	return map[string]setting{
		"tls_server_name": text(func(c *Config) *string { return &c.ServerName }),
		"ca_cert":         secret(func(c *Config) *Text { return &c.CA }),
		"ca_file":         file(func(c *Config) *string { return &c.CAFile }),
		"client_cert":     secret(func(c *Config) *Text { return &c.ClientCert }),
		"client_key":      secret(func(c *Config) *Text { return &c.ClientKey }),
		"namespace":       text(func(c *Config) *string { return &c.Namespace }),
		"mount":           text(func(c *Config) *string { return &c.Mount }),
		"kv":              word(func(c *Config) *string { return &c.KV }, "v1", "v2"),
		"engine":          word(func(c *Config) *string { return &c.Engine }, "kv", "generic"),
		"base64_decode":   flag(func(c *Config) *bool { return &c.Base64 }),
		"auth_method":     word(func(c *Config) *string { return &c.Auth.Method }, "token", "approle", "kubernetes", "cert", "jwt"),

		"token":      secret(func(c *Config) *Text { return &c.Auth.Token }),
		"token_file": file(func(c *Config) *string { return &c.Auth.TokenFile }),

		"approle_auth_path":         text(func(c *Config) *string { return &c.Auth.AppRolePath }),
		"approle_role_id":           secret(func(c *Config) *Text { return &c.Auth.RoleID }),
		"approle_secret_id":         secret(func(c *Config) *Text { return &c.Auth.SecretID }),
		"approle_secret_id_file":    file(func(c *Config) *string { return &c.Auth.SecretIDFile }),
		"approle_response_wrapping": flag(func(c *Config) *bool { return &c.Auth.Wrapped }),

		"kube_auth_path":      text(func(c *Config) *string { return &c.Auth.KubePath }),
		"kube_role":           text(func(c *Config) *string { return &c.Auth.KubeRole }),
		"kube_api_token_file": file(func(c *Config) *string { return &c.Auth.KubeTokenFile }),

		"cert_auth_path":      text(func(c *Config) *string { return &c.Auth.CertPath }),
		"cert_auth_role_name": text(func(c *Config) *string { return &c.Auth.CertRole }),
		"cert_auth_cert":      secret(func(c *Config) *Text { return &c.Auth.Cert }),
		"cert_auth_cert_key":  secret(func(c *Config) *Text { return &c.Auth.CertKey }),

		"jwt_auth_path": text(func(c *Config) *string { return &c.Auth.JWTPath }),
		"jwt_role":      text(func(c *Config) *string { return &c.Auth.JWTRole }),
		"jwt_file":      file(func(c *Config) *string { return &c.Auth.JWTFile }),
		"jwt":           secret(func(c *Config) *Text { return &c.Auth.JWT }),
	}
}

// FieldError is a fault of one setting.
type FieldError struct {
	Field string // of the config
	Err   error  // what was expected
}

// Error names the field.
func (e *FieldError) Error() string { return "config." + e.Field + ": " + e.Err.Error() }

// Unwrap is what was expected.
func (e *FieldError) Unwrap() error { return e.Err }

func bad(field, format string, args ...any) error {
	return &FieldError{field, fmt.Errorf(format, args...)}
}

// Parse reads the settings of a vault entity, without those of its life. Its error is
// a *FieldError, or several joined.
func Parse(config map[string]any) (Config, error) {
	c := Config{
		Mount: "secret", KV: "v1", Engine: "kv", Timeout: 5 * time.Second,
		Auth: Auth{
			Method: "token", AppRolePath: "approle", KubePath: "kubernetes", CertPath: "cert", JWTPath: "jwt",
			KubeTokenFile: "/run/secrets/kubernetes.io/serviceaccount/token",
		},
	}
	known := settings()
	address := map[string]any{}
	var errs []error
	for _, name := range slices.Sorted(maps.Keys(config)) {
		v := config[name]
		switch {
		case v == nil:
		case slices.Contains([]string{"address", "protocol", "host", "port"}, name):
			address[name] = v
		case name == "timeout":
			d, ok := number(v)
			if !ok || d <= 0 || d > 300 {
				errs = append(errs, bad(name, "expected a number of seconds from 0 to 300"))
				continue
			}
			c.Timeout = time.Duration(d * float64(time.Second))
		case known[name] == nil:
			errs = append(errs, bad(name, "unknown field; expected one of: %s", strings.Join(slices.Sorted(maps.Keys(known)), ", ")))
		default:
			if err := known[name](&c, v); err != nil {
				errs = append(errs, &FieldError{name, err})
			}
		}
	}
	errs = append(errs, c.locate(address), c.complete())
	return c, errors.Join(errs...)
}

func number(v any) (float64, bool) {
	switch n := v.(type) {
	case int:
		return float64(n), true
	case float64:
		return n, true
	}
	return 0, false
}

// locate makes the address of one URL, or of its three parts.
func (c *Config) locate(parts map[string]any) error {
	if v, ok := parts["address"]; ok {
		s, _ := v.(string)
		u, err := url.Parse(s)
		if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.Path != "" && u.Path != "/" || u.User != nil {
			return bad("address", "expected the URL of a server, such as https://vault.internal:8200")
		}
		if len(parts) > 1 {
			return bad("address", "expected nothing beside it: it stands for protocol, host and port")
		}
		c.Address = strings.TrimSuffix(s, "/")
		return nil
	}
	protocol, host, port := "http", "127.0.0.1", 8200.0
	if v, ok := parts["protocol"]; ok {
		if protocol, _ = v.(string); protocol != "http" && protocol != "https" {
			return bad("protocol", "expected one of: http, https")
		}
	}
	if v, ok := parts["host"]; ok {
		if host, _ = v.(string); host == "" || strings.ContainsAny(host, "/@ ") {
			return bad("host", "expected a host name or an address")
		}
	}
	if v, ok := parts["port"]; ok {
		if port, ok = number(v); !ok || port < 1 || port > 65535 || port != float64(int(port)) {
			return bad("port", "expected a number from 1 to 65535")
		}
	}
	if strings.Contains(host, ":") && !strings.HasPrefix(host, "[") {
		host = "[" + host + "]"
	}
	c.Address = protocol + "://" + host + ":" + strconv.Itoa(int(port))
	return nil
}

// complete checks that what the login needs is there.
func (c *Config) complete() error {
	a := &c.Auth
	var errs []error
	need := func(ok bool, field, what string) {
		if !ok {
			errs = append(errs, bad(field, "it is missing; expected %s, since auth_method is %s", what, a.Method))
		}
	}
	switch a.Method {
	case "token":
		need(!a.Token.IsZero() || a.TokenFile != "", "token", "a token, a reference to one, or token_file")
	case "approle":
		need(!a.RoleID.IsZero(), "approle_role_id", "the role's id")
		need(!a.SecretID.IsZero() || a.SecretIDFile != "", "approle_secret_id", "a secret-id, a reference to one, or approle_secret_id_file")
	case "kubernetes":
		need(a.KubeRole != "", "kube_role", "the name of a role")
	case "cert":
		need(!a.Cert.IsZero(), "cert_auth_cert", "a certificate in PEM or a reference to one")
		need(!a.CertKey.IsZero(), "cert_auth_cert_key", "its private key in PEM or a reference to one")
		need(strings.HasPrefix(c.Address, "https:"), "protocol", "https")
	case "jwt":
		need(a.JWTRole != "", "jwt_role", "the name of a role")
		need(!a.JWT.IsZero() || a.JWTFile != "", "jwt", "a token, a reference to one, or jwt_file")
	}
	if c.ClientCert.IsZero() != c.ClientKey.IsZero() {
		errs = append(errs, bad("client_cert", "client_cert and client_key go together: set both or neither"))
	}
	return errors.Join(errs...)
}

// Fields are the names of every setting, in order.
func Fields() []string {
	names := append(slices.Collect(maps.Keys(settings())), "address", "protocol", "host", "port", "timeout")
	slices.Sort(names)
	return names
}

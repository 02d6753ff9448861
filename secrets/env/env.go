// Package env is the source of secrets in environment variables.
//
// {vault://env/my-secret} is the variable MY_SECRET: the prefix, then the name,
// in upper case with "-" as "_". #2 is the variable with _PREVIOUS at its end. A
// variable that holds a JSON object has its strings as keys. The environment of
// a process never changes from outside, so this source has no hints to give.
package env

import (
	"context"
	"fmt"
	"os"
	"strings"

	"github.com/keyway-edge/keyway/secrets"
)

// Config is the settings of the source.
type Config struct {
	Prefix string // put before every name, "" for none
}

// Parse reads the settings of a vault. Its error names the field and what was expected.
func Parse(config map[string]any) (Config, error) {
	var c Config
	for name, v := range config {
		if name != "prefix" {
			return Config{}, fmt.Errorf("config.%s: unknown field; expected prefix", name)
		}
		s, ok := v.(string)
		if !ok && v != nil {
			return Config{}, fmt.Errorf("config.prefix: it is no text; expected the beginning of variable names, such as SSL_")
		}
		c.Prefix = s
	}
	return c, nil
}

// Open is the secrets.Opener of this kind.
func Open(config map[string]any) (secrets.Source, error) {
	c, err := Parse(config)
	if err != nil {
		return nil, err
	}
	return New(c), nil
}

// Source reads environment variables.
type Source struct{ cfg Config }

// New makes a Source.
func New(c Config) *Source { return &Source{c} }

// Fetch answers a variable's value. The option prefix stands in for the setting.
func (s *Source) Fetch(_ context.Context, r secrets.Request) (secrets.Lease, error) {
	prefix := s.cfg.Prefix
	for name, v := range r.Options {
		if name != "prefix" {
			return secrets.Lease{}, fmt.Errorf("reading the environment: unknown option %s; expected prefix", name)
		}
		prefix = v
	}
	variable := strings.ToUpper(strings.ReplaceAll(prefix+r.Resource, "-", "_"))
	switch r.Version {
	case 0, 1:
	case 2:
		variable += "_PREVIOUS"
	default:
		return secrets.Lease{}, fmt.Errorf("reading version %d of variable %s: %w; expected #1, the current one, or #2, the one before", r.Version, variable, secrets.ErrNotFound)
	}
	value, ok := os.LookupEnv(variable)
	if !ok {
		return secrets.Lease{}, fmt.Errorf("reading variable %s: %w; set it before the process starts", variable, secrets.ErrNotFound)
	}
	return secrets.Lease{Value: secrets.NewValue([]byte(value))}, nil
}

package spec

import (
	"slices"
	"strings"
)

// Type is a schema type, by the names that the format's users know.
type Type string

// The types.
const (
	String  Type = "string"
	Integer Type = "integer"
	Number  Type = "number"
	Boolean Type = "boolean"
	Array   Type = "array"
	SetType Type = "set"
	Map     Type = "map"
	Record  Type = "record"
)

// Schema describes one field of a plugin's config; the config itself is a
// Record. Plain data: plugins fill it, cmd passes it in, decoding obeys it.
type Schema struct {
	Name          string
	Type          Type
	Default       any // nil for none; in the shapes of Plugin.Config
	Required      bool
	OneOf         []any
	Between       *[2]float64 // inclusive
	GT            *float64    // greater than
	LenMin        int         // least length of a string, array, set or map; 0 for the type's default (1 for a string, else none), -1 for none
	Match         string      // RE2 expression that the whole rule is
	StartsWith    string
	Elements      *Schema  // of Array and SetType
	Keys          *Schema  // of Map
	Values        *Schema  // of Map
	Fields        []Schema // of Record
	Referenceable bool     // may hold a {vault://...} reference
	Encrypted     bool
	Deprecated    bool
	OmitEmpty     bool // left out of a config that does not write it, instead of null or a default
}

// Check is a rule over several fields of an entity, as data.
type Check struct {
	Kind   CheckKind
	Fields []string // dotted, from the entity: "config.minute"
	// Of Conditional: if Fields[0] equals If, then Fields[1] must be set.
	If  any
	Err string // message instead of the default one
}

// CheckKind is a kind of Check.
type CheckKind string

// The kinds.
const (
	AtLeastOneOf      CheckKind = "at_least_one_of"
	OnlyOneOf         CheckKind = "only_one_of"
	MutuallyRequired  CheckKind = "mutually_required"
	ConditionalNeeded CheckKind = "conditional" // If on Fields[0] makes Fields[1] required
)

// PluginSchema is what the document's decoder must know of one plugin.
type PluginSchema struct {
	Name       string
	Fields     []Schema // of config
	Checks     []Check
	Protocols  []string // default protocols; nil for grpc, grpcs, http, https, and then no others are allowed
	NoConsumer bool     // may not be scoped to a consumer
	NoRoute    bool
	NoService  bool
	// Verify judges a complete config beyond what data can say, for example that
	// an expression compiles; nil for none. It answers field and message pairs.
	Verify func(config map[string]any) []FieldError
}

// FieldError is one thing wrong with one field of a config.
type FieldError struct {
	Field   string // dotted from the config: "allow.1"
	Message string // what was expected
}

// Schemas are the plugins known to a node, by name. Kinds of vaults and types of
// issuers stand among them as "vaults/<kind>" and "x_keyway_issuers/<type>", of
// which only Verify is looked at.
type Schemas map[string]PluginSchema

// Plugins are the names of the plugins, in order.
func (s Schemas) Plugins() []string {
	return slices.DeleteFunc(sortedKeys(s), func(name string) bool { return strings.Contains(name, "/") })
}

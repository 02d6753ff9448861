package translate

import (
	"encoding/json"
	"strings"
)

// Kinds of objects of configuration.konghq.com, and of what belongs to them.
const (
	KindPlugin         = "KongPlugin"
	KindClusterPlugin  = "KongClusterPlugin"
	KindConsumer       = "KongConsumer"
	KindConsumerGroup  = "KongConsumerGroup"
	KindUpstreamPolicy = "KongUpstreamPolicy"
	KindVault          = "KongVault"
	KindCustomEntity   = "KongCustomEntity"
	KindKongIngress    = "KongIngress"
	KindTCPIngress     = "TCPIngress"
	KindUDPIngress     = "UDPIngress"
	KindGrant          = "ReferenceGrant"

	// Secrets and ConfigMaps come as what they are to us.
	KindCredential   = "Credential"   // a Secret with the label konghq.com/credential
	KindAuthority    = "Authority"    // a Secret with the label konghq.com/ca-cert
	KindAuthorityMap = "AuthorityMap" // a ConfigMap with that label
	KindSecret       = "Secret"       // a Secret that a plugin's config is in: one of State.Wanted
)

// Plugin is a KongPlugin or a KongClusterPlugin.
type Plugin struct {
	Meta `json:"metadata"`
	Conditioned
	cluster      bool
	Plugin       string         `json:"plugin"`
	Config       map[string]any `json:"config"`
	ConfigFrom   *ConfigSource  `json:"configFrom"`
	Patches      []ConfigPatch  `json:"configPatches"`
	Disabled     bool           `json:"disabled"`
	InstanceName string         `json:"instance_name"`
	Protocols    []string       `json:"protocols"`
	Ordering     map[string]any `json:"ordering"`
	ConsumerRef  string         `json:"consumerRef"`
}

// ConfigSource is a key of a Secret. A KongPlugin's is of its own namespace.
type ConfigSource struct {
	SecretKeyRef struct {
		Namespace string `json:"namespace"`
		Name      string `json:"name"`
		Key       string `json:"key"`
	} `json:"secretKeyRef"`
}

// ConfigPatch puts the value of a key of a Secret into a config.
type ConfigPatch struct {
	Path      string       `json:"path"`
	ValueFrom ConfigSource `json:"valueFrom"`
}

// Consumer is a KongConsumer.
type Consumer struct {
	Meta `json:"metadata"`
	Conditioned
	Username    string   `json:"username"`
	CustomID    string   `json:"custom_id"`
	Credentials []string `json:"credentials"`
	Groups      []string `json:"consumerGroups"`
}

// ConsumerGroup is a KongConsumerGroup.
type ConsumerGroup struct {
	Meta `json:"metadata"`
	Conditioned
	Spec struct {
		Name string   `json:"name"`
		Tags []string `json:"tags"`
	} `json:"spec"`
}

// UpstreamPolicy is a KongUpstreamPolicy.
type UpstreamPolicy struct {
	Meta `json:"metadata"`
	Spec struct {
		Algorithm      string         `json:"algorithm"`
		Slots          *int           `json:"slots"`
		HashOn         *HashInput     `json:"hashOn"`
		HashOnFallback *HashInput     `json:"hashOnFallback"`
		Healthchecks   map[string]any `json:"healthchecks"`
		StickySessions *struct {
			Cookie     string `json:"cookie"`
			CookiePath string `json:"cookiePath"`
		} `json:"stickySessions"`
	} `json:"spec"`
	Status struct {
		Ancestors []AncestorStatus `json:"ancestors"`
	} `json:"status"`
}

// HashInput is what of a request is hashed.
type HashInput struct {
	Input      string `json:"input"`
	Header     string `json:"header"`
	Cookie     string `json:"cookie"`
	CookiePath string `json:"cookiePath"`
	QueryArg   string `json:"queryArg"`
	URICapture string `json:"uriCapture"`
}

// KongVault of v1alpha1.
type KongVault struct {
	Meta `json:"metadata"`
	Conditioned
	Spec struct {
		Backend     string   `json:"backend"`
		Prefix      string   `json:"prefix"`
		Description string   `json:"description"`
		Config      any      `json:"config"`
		Tags        []string `json:"tags"`
	} `json:"spec"`
}

// CustomEntity is a KongCustomEntity of v1alpha1.
type CustomEntity struct {
	Meta `json:"metadata"`
	Conditioned
	Spec struct {
		Type           string         `json:"type"`
		Fields         any            `json:"fields"`
		ControllerName string         `json:"controllerName"`
		ParentRef      map[string]any `json:"parentRef"`
	} `json:"spec"`
}

// KongIngress of v1, of which only the upstream still means something.
type KongIngress struct {
	Meta     `json:"metadata"`
	Upstream map[string]any `json:"upstream"`
	Proxy    map[string]any `json:"proxy"`
	Route    map[string]any `json:"route"`
}

// StreamIngress is a TCPIngress or a UDPIngress.
type StreamIngress struct {
	Meta `json:"metadata"`
	Balanced
	datagram bool
	Spec     struct {
		Rules []struct {
			Host    string `json:"host"`
			Port    int    `json:"port"`
			Backend struct {
				ServiceName string `json:"serviceName"`
				ServicePort int    `json:"servicePort"`
			} `json:"backend"`
		} `json:"rules"`
		TLS []IngressTLS `json:"tls"`
	} `json:"spec"`
}

// Grant is a ReferenceGrant of gateway.networking.k8s.io.
type Grant struct {
	Meta `json:"metadata"`
	Spec struct {
		From []struct {
			Group     string `json:"group"`
			Kind      string `json:"kind"`
			Namespace string `json:"namespace"`
		} `json:"from"`
		To []struct {
			Group string  `json:"group"`
			Kind  string  `json:"kind"`
			Name  *string `json:"name"`
		} `json:"to"`
	} `json:"spec"`
}

// Credential is what may be known of a Secret with a credential: which kind it is of
// and what fields it has. Values that are secret are not kept.
type Credential struct {
	Meta  `json:"metadata"`
	Keys  map[string]bool   // that have a value
	Plain map[string]string // of fields that are not secret: ttl, group, id
}

// UnmarshalJSON keeps names of fields, and values that are no secrets.
func (c *Credential) UnmarshalJSON(data []byte) error {
	var read struct {
		Meta Meta              `json:"metadata"`
		Data map[string][]byte `json:"data"`
	}
	if err := json.Unmarshal(data, &read); err != nil {
		return err
	}
	*c = Credential{Meta: read.Meta, Keys: make(map[string]bool, len(read.Data)), Plain: map[string]string{}}
	for k, v := range read.Data {
		c.Keys[k] = len(v) > 0
		switch k {
		case "ttl", "group", "id":
			c.Plain[k] = strings.TrimSpace(string(v))
		}
	}
	return nil
}

// Authority is a Secret with the certificate of an authority.
type Authority struct{ Credential }

// AuthorityMap is a ConfigMap with the certificate of an authority.
type AuthorityMap struct {
	Meta `json:"metadata"`
	Data map[string]string `json:"data"`
}

// Secret is a Secret that the config of a plugin is in.
type Secret struct {
	Meta `json:"metadata"`
	Data map[string][]byte `json:"data"`
}

// Kind is "KongPlugin" or "KongClusterPlugin".
func (p *Plugin) Kind() string {
	if p.cluster {
		return KindClusterPlugin
	}
	return KindPlugin
}

// Kind is "KongConsumer".
func (*Consumer) Kind() string { return KindConsumer }

// Kind is "KongConsumerGroup".
func (*ConsumerGroup) Kind() string { return KindConsumerGroup }

// Kind is "KongUpstreamPolicy".
func (*UpstreamPolicy) Kind() string { return KindUpstreamPolicy }

// Kind is "KongVault".
func (*KongVault) Kind() string { return KindVault }

// Kind is "KongCustomEntity".
func (*CustomEntity) Kind() string { return KindCustomEntity }

// Kind is "KongIngress".
func (*KongIngress) Kind() string { return KindKongIngress }

// Kind is "TCPIngress" or "UDPIngress".
func (s *StreamIngress) Kind() string {
	if s.datagram {
		return KindUDPIngress
	}
	return KindTCPIngress
}

// Kind is "ReferenceGrant".
func (*Grant) Kind() string { return KindGrant }

// Kind is "Credential".
func (*Credential) Kind() string { return KindCredential }

// Kind is "Authority".
func (*Authority) Kind() string { return KindAuthority }

// Kind is "AuthorityMap".
func (*AuthorityMap) Kind() string { return KindAuthorityMap }

// Kind is "Secret".
func (*Secret) Kind() string { return KindSecret }

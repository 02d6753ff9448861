package translate

import (
	"bytes"
	"crypto/tls"
	"encoding/json"
	"strings"
)

// Kinds of objects of gateway.networking.k8s.io, and of what belongs to them.
const (
	KindGatewayClass = "GatewayClass"
	KindGateway      = "Gateway"
	KindListenerSet  = "ListenerSet"
	KindHTTPRoute    = "HTTPRoute"
	KindGRPCRoute    = "GRPCRoute"
	KindTLSRoute     = "TLSRoute"
	KindTCPRoute     = "TCPRoute"
	KindUDPRoute     = "UDPRoute"
	KindBackendTLS   = "BackendTLSPolicy"
	KindNamespace    = "Namespace"

	KindPair   = "Pair"   // a Secret with a certificate that a listener names: one of State.Wanted
	KindBundle = "Bundle" // a ConfigMap with authorities: one of State.Wanted
)

const gatewayGroup = "gateway.networking.k8s.io"

// GatewayClass of gateway.networking.k8s.io.
type GatewayClass struct {
	Meta `json:"metadata"`
	Spec struct {
		ControllerName string          `json:"controllerName"`
		ParametersRef  json.RawMessage `json:"parametersRef"`
	} `json:"spec"`
	Status struct {
		Conditions        []Condition `json:"conditions"`
		SupportedFeatures []Feature   `json:"supportedFeatures"`
	} `json:"status"`
}

// Feature is one that a GatewayClass says its controller has.
type Feature struct {
	Name string `json:"name"`
}

// Gateway of gateway.networking.k8s.io.
type Gateway struct {
	Meta `json:"metadata"`
	Spec struct {
		GatewayClassName string     `json:"gatewayClassName"`
		Listeners        []Listener `json:"listeners"`
		Addresses        []struct {
			Type  string `json:"type"`
			Value string `json:"value"`
		} `json:"addresses"`
		Infrastructure *struct {
			ParametersRef json.RawMessage `json:"parametersRef"`
		} `json:"infrastructure"`
		AllowedListeners struct {
			Namespaces Namespaces `json:"namespaces"`
		} `json:"allowedListeners"`
		TLS struct {
			Backend struct {
				ClientCertificateRef *ObjectReference `json:"clientCertificateRef"`
			} `json:"backend"`
			Frontend Frontend `json:"frontend"`
		} `json:"tls"`
	} `json:"spec"`
	Status GatewayStatus `json:"status"`
}

// Frontend is how the clients of a Gateway are verified.
type Frontend struct {
	Default FrontendTLS `json:"default"`
	PerPort []struct {
		Port int         `json:"port"`
		TLS  FrontendTLS `json:"tls"`
	} `json:"perPort"`
}

// FrontendTLS is how the clients of a port are verified.
type FrontendTLS struct {
	Validation *struct {
		CACertificateRefs []ObjectReference `json:"caCertificateRefs"`
		Mode              string            `json:"mode"`
	} `json:"validation"`
}

// Listener is one of a Gateway or a ListenerSet.
type Listener struct {
	Name     string `json:"name"`
	Hostname string `json:"hostname"`
	Port     int    `json:"port"`
	Protocol string `json:"protocol"`
	TLS      *struct {
		Mode            string            `json:"mode"`
		CertificateRefs []ObjectReference `json:"certificateRefs"`
	} `json:"tls"`
	AllowedRoutes struct {
		Namespaces Namespaces  `json:"namespaces"`
		Kinds      []GroupKind `json:"kinds"`
	} `json:"allowedRoutes"`
}

// Namespaces are those that something may come from.
type Namespaces struct {
	From     string         `json:"from"` // All, Same, Selector, None
	Selector *LabelSelector `json:"selector"`
}

// GroupKind is a kind of objects.
type GroupKind struct {
	Group *string `json:"group,omitempty"`
	Kind  string  `json:"kind"`
}

// LabelSelector chooses by labels.
type LabelSelector struct {
	MatchLabels      map[string]string `json:"matchLabels"`
	MatchExpressions []struct {
		Key      string   `json:"key"`
		Operator string   `json:"operator"`
		Values   []string `json:"values"`
	} `json:"matchExpressions"`
}

// ObjectReference names an object, of another namespace perhaps.
type ObjectReference struct {
	Group     *string `json:"group,omitempty"`
	Kind      *string `json:"kind,omitempty"`
	Namespace *string `json:"namespace,omitempty"`
	Name      string  `json:"name"`
}

// GatewayStatus is the status of a Gateway and, but for addresses, of a ListenerSet.
type GatewayStatus struct {
	Addresses            []StatusAddress  `json:"addresses,omitempty"`
	Conditions           []Condition      `json:"conditions"`
	Listeners            []ListenerStatus `json:"listeners"`
	AttachedListenerSets *int             `json:"attachedListenerSets,omitempty"`
}

// StatusAddress is where a Gateway is reached.
type StatusAddress struct {
	Type  string `json:"type"`
	Value string `json:"value"`
}

// ListenerStatus is the status of one listener.
type ListenerStatus struct {
	Name           string      `json:"name"`
	SupportedKinds []GroupKind `json:"supportedKinds"`
	AttachedRoutes int         `json:"attachedRoutes"`
	Conditions     []Condition `json:"conditions"`
}

// ListenerSet of gateway.networking.k8s.io.
type ListenerSet struct {
	Meta `json:"metadata"`
	Spec struct {
		ParentRef ObjectReference `json:"parentRef"`
		Listeners []Listener      `json:"listeners"`
	} `json:"spec"`
	Status GatewayStatus `json:"status"`
}

// Route is an HTTPRoute, GRPCRoute, TLSRoute, TCPRoute or UDPRoute.
type Route struct {
	Meta `json:"metadata"`
	kind string
	Spec struct {
		ParentRefs []ParentRef `json:"parentRefs"`
		Hostnames  []string    `json:"hostnames"`
		Rules      []RouteRule `json:"rules"`
	} `json:"spec"`
	Status struct {
		Parents []ParentStatus `json:"parents"`
	} `json:"status"`
}

// ParentRef is what a route attaches to, and what a policy is said to be of.
type ParentRef struct {
	ObjectReference
	SectionName *string `json:"sectionName,omitempty"`
	Port        *int    `json:"port,omitempty"`
}

// ParentStatus is what one controller says of a route at one parent.
type ParentStatus struct {
	ParentRef      ParentRef   `json:"parentRef"`
	ControllerName string      `json:"controllerName"`
	Conditions     []Condition `json:"conditions"`
}

// RouteRule is one rule of a route.
type RouteRule struct {
	Name        string        `json:"name"`
	Matches     []RouteMatch  `json:"matches"`
	Filters     []RouteFilter `json:"filters"`
	BackendRefs []BackendRef  `json:"backendRefs"`
	Timeouts    *struct {
		Request        string `json:"request"`
		BackendRequest string `json:"backendRequest"`
	} `json:"timeouts"`
	Retry *struct {
		Codes    []int  `json:"codes"`
		Attempts *int   `json:"attempts"`
		Backoff  string `json:"backoff"`
	} `json:"retry"`
	SessionPersistence json.RawMessage `json:"sessionPersistence"`
}

// RouteMatch is one alternative of a rule.
type RouteMatch struct {
	Path        *ValueMatch  `json:"path"`
	Headers     []ValueMatch `json:"headers"`
	QueryParams []ValueMatch `json:"queryParams"`
	Method      MethodMatch  `json:"method"`
}

// ValueMatch compares a text.
type ValueMatch struct {
	Type  string `json:"type"`
	Name  string `json:"name"`
	Value string `json:"value"`
}

// MethodMatch is a method of HTTP, which is a text, or one of gRPC.
type MethodMatch struct {
	Name                  string
	GRPC                  bool
	Type, Service, Method string
}

// UnmarshalJSON reads either form.
func (m *MethodMatch) UnmarshalJSON(data []byte) error {
	if bytes.HasPrefix(bytes.TrimSpace(data), []byte(`"`)) {
		return json.Unmarshal(data, &m.Name)
	}
	var read *struct{ Type, Service, Method string }
	if err := json.Unmarshal(data, &read); err != nil || read == nil {
		return err
	}
	*m = MethodMatch{GRPC: true, Type: read.Type, Service: read.Service, Method: read.Method}
	return nil
}

// RouteFilter is one filter of a rule or of a backend.
type RouteFilter struct {
	Type                   string           `json:"type"`
	RequestHeaderModifier  *HeaderModifier  `json:"requestHeaderModifier"`
	ResponseHeaderModifier *HeaderModifier  `json:"responseHeaderModifier"`
	RequestMirror          *MirrorFilter    `json:"requestMirror"`
	RequestRedirect        *RedirectFilter  `json:"requestRedirect"`
	URLRewrite             *RewriteFilter   `json:"urlRewrite"`
	CORS                   *CORSFilter      `json:"cors"`
	ExtensionRef           *ObjectReference `json:"extensionRef"`
}

// HeaderModifier changes header fields.
type HeaderModifier struct {
	Set    []HeaderValue `json:"set"`
	Add    []HeaderValue `json:"add"`
	Remove []string      `json:"remove"`
}

// HeaderValue is a header field.
type HeaderValue struct {
	Name  string `json:"name"`
	Value string `json:"value"`
}

// MirrorFilter copies requests to another backend.
type MirrorFilter struct {
	BackendRef BackendRef `json:"backendRef"`
	Percent    *int       `json:"percent"`
	Fraction   *struct {
		Numerator   int  `json:"numerator"`
		Denominator *int `json:"denominator"`
	} `json:"fraction"`
}

// PathModifier is another path.
type PathModifier struct {
	Type               string  `json:"type"`
	ReplaceFullPath    *string `json:"replaceFullPath"`
	ReplacePrefixMatch *string `json:"replacePrefixMatch"`
}

// RedirectFilter answers with a redirect.
type RedirectFilter struct {
	Scheme     string        `json:"scheme"`
	Hostname   string        `json:"hostname"`
	Path       *PathModifier `json:"path"`
	Port       *int          `json:"port"`
	StatusCode *int          `json:"statusCode"`
}

// RewriteFilter changes what the origin is asked for.
type RewriteFilter struct {
	Hostname string        `json:"hostname"`
	Path     *PathModifier `json:"path"`
}

// CORSFilter answers preflights and says who may read answers.
type CORSFilter struct {
	AllowOrigins     []string `json:"allowOrigins"`
	AllowCredentials bool     `json:"allowCredentials"`
	AllowMethods     []string `json:"allowMethods"`
	AllowHeaders     []string `json:"allowHeaders"`
	ExposeHeaders    []string `json:"exposeHeaders"`
	MaxAge           int      `json:"maxAge"`
}

// BackendRef is a port of a Service, with its share.
type BackendRef struct {
	ObjectReference
	Port    *int          `json:"port"`
	Weight  *int          `json:"weight"`
	Filters []RouteFilter `json:"filters"`
}

// BackendTLS is a BackendTLSPolicy.
type BackendTLS struct {
	Meta `json:"metadata"`
	Spec struct {
		TargetRefs []struct {
			Group       string  `json:"group"`
			Kind        string  `json:"kind"`
			Name        string  `json:"name"`
			SectionName *string `json:"sectionName"`
		} `json:"targetRefs"`
		Validation struct {
			CACertificateRefs []ObjectReference `json:"caCertificateRefs"`
			WellKnown         string            `json:"wellKnownCACertificates"`
			Hostname          string            `json:"hostname"`
			SubjectAltNames   []struct {
				Type     string `json:"type"`
				Hostname string `json:"hostname"`
				URI      string `json:"uri"`
			} `json:"subjectAltNames"`
		} `json:"validation"`
	} `json:"spec"`
	Status struct {
		Ancestors []AncestorStatus `json:"ancestors"`
	} `json:"status"`
}

// AncestorStatus is what one controller says of a policy at one Gateway.
type AncestorStatus struct {
	AncestorRef    ParentRef   `json:"ancestorRef"`
	ControllerName string      `json:"controllerName"`
	Conditions     []Condition `json:"conditions"`
}

// Namespace of v1, of which labels are read.
type Namespace struct {
	Meta `json:"metadata"`
}

// Pair is what may be known of a Secret with a certificate: what is wrong with it.
// Beside the names that the certificate is for nothing of its content is kept.
type Pair struct {
	Meta  `json:"metadata"`
	Wrong string   // "" for nothing
	Names []string // in lower case
}

// UnmarshalJSON judges the pair and forgets it.
func (p *Pair) UnmarshalJSON(data []byte) error {
	var read struct {
		Meta Meta              `json:"metadata"`
		Data map[string][]byte `json:"data"`
	}
	if err := json.Unmarshal(data, &read); err != nil {
		return err
	}
	*p = Pair{Meta: read.Meta}
	switch pair, err := tls.X509KeyPair(read.Data["tls.crt"], read.Data["tls.key"]); {
	case len(read.Data["tls.crt"]) == 0 || len(read.Data["tls.key"]) == 0:
		p.Wrong = "expected a certificate in tls.crt and its key in tls.key"
	case err != nil: // which may quote what it read
		p.Wrong = "expected a certificate in tls.crt and the key that belongs to it in tls.key, PEM"
	case pair.Leaf != nil:
		for _, name := range pair.Leaf.DNSNames {
			if name = strings.ToLower(name); sniName(name) {
				p.Names = append(p.Names, name)
			}
		}
	}
	return nil
}

// Bundle is a ConfigMap with certificates of authorities.
type Bundle struct {
	Meta `json:"metadata"`
	Data map[string]string `json:"data"`
}

// newOfGateway is New for these kinds.
func newOfGateway(kind string) Object {
	switch kind {
	case KindGatewayClass:
		return &GatewayClass{}
	case KindGateway:
		return &Gateway{}
	case KindListenerSet:
		return &ListenerSet{}
	case KindHTTPRoute, KindGRPCRoute, KindTLSRoute, KindTCPRoute, KindUDPRoute:
		return &Route{kind: kind}
	case KindBackendTLS:
		return &BackendTLS{}
	case KindNamespace:
		return &Namespace{}
	case KindPair:
		return &Pair{}
	case KindBundle:
		return &Bundle{}
	}
	return nil
}

// Kind is "GatewayClass".
func (*GatewayClass) Kind() string { return KindGatewayClass }

// Kind is "Gateway".
func (*Gateway) Kind() string { return KindGateway }

// Kind is "ListenerSet".
func (*ListenerSet) Kind() string { return KindListenerSet }

// Kind is "HTTPRoute" or that of another route.
func (r *Route) Kind() string { return r.kind }

// Kind is "BackendTLSPolicy".
func (*BackendTLS) Kind() string { return KindBackendTLS }

// Kind is "Namespace".
func (*Namespace) Kind() string { return KindNamespace }

// Kind is "Pair".
func (*Pair) Kind() string { return KindPair }

// Kind is "Bundle".
func (*Bundle) Kind() string { return KindBundle }

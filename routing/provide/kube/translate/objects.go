package translate

import "time"

// Meta is what is read of every object's metadata.
type Meta struct {
	Name              string            `json:"name"`
	Namespace         string            `json:"namespace"`
	UID               string            `json:"uid"`
	ResourceVersion   string            `json:"resourceVersion"`
	Generation        int64             `json:"generation"`
	CreationTimestamp time.Time         `json:"creationTimestamp"`
	Labels            map[string]string `json:"labels"`
	Annotations       map[string]string `json:"annotations"`
}

// Common is the part that every object has.
func (m *Meta) Common() *Meta { return m }

// Object is one object of the cluster. The types of this package are the only ones,
// and they are not changed once they were put into a State.
type Object interface {
	Common() *Meta
	Kind() string
}

// Ref names an object. It is also the name of a unit and of a collection, whose kinds
// begin with a small letter.
type Ref struct{ Kind, Namespace, Name string }

// String is "Ingress shop/web".
func (r Ref) String() string {
	if r.Namespace == "" {
		return Shown(r.Kind) + " " + r.Name
	}
	return Shown(r.Kind) + " " + r.Namespace + "/" + r.Name
}

// RefOf names an object.
func RefOf(o Object) Ref {
	m := o.Common()
	return Ref{o.Kind(), m.Namespace, m.Name}
}

// Kinds of objects.
const (
	KindIngress       = "Ingress"
	KindIngressClass  = "IngressClass"
	KindParameters    = "IngressClassParameters"
	KindService       = "Service"
	KindEndpointSlice = "EndpointSlice"
)

// Ingress of networking.k8s.io/v1.
type Ingress struct {
	Meta `json:"metadata"`
	Spec struct {
		IngressClassName *string         `json:"ingressClassName"`
		DefaultBackend   *IngressBackend `json:"defaultBackend"`
		TLS              []IngressTLS    `json:"tls"`
		Rules            []IngressRule   `json:"rules"`
	} `json:"spec"`
	Balanced
}

// IngressTLS binds hosts to a Secret.
type IngressTLS struct {
	Hosts      []string `json:"hosts"`
	SecretName string   `json:"secretName"`
}

// IngressRule is the paths of one host.
type IngressRule struct {
	Host string `json:"host"`
	HTTP *struct {
		Paths []IngressPath `json:"paths"`
	} `json:"http"`
}

// IngressPath leads one path to a backend.
type IngressPath struct {
	Path     string         `json:"path"`
	PathType *string        `json:"pathType"`
	Backend  IngressBackend `json:"backend"`
}

// IngressBackend is a port of a Service, or another object.
type IngressBackend struct {
	Service *struct {
		Name string `json:"name"`
		Port struct {
			Name   string `json:"name"`
			Number int    `json:"number"`
		} `json:"port"`
	} `json:"service"`
	Resource *struct {
		APIGroup string `json:"apiGroup"`
		Kind     string `json:"kind"`
		Name     string `json:"name"`
	} `json:"resource"`
}

// Condition is one of an object's status.
type Condition struct {
	Type               string `json:"type"`
	Status             string `json:"status"`
	Reason             string `json:"reason"`
	Message            string `json:"message"`
	ObservedGeneration int64  `json:"observedGeneration,omitempty"`
	LastTransitionTime string `json:"lastTransitionTime"`
}

// Conditioned is the status of objects that have conditions.
type Conditioned struct {
	Status struct {
		Conditions []Condition `json:"conditions"`
	} `json:"status"`
}

// Conditions are those of the object.
func (c *Conditioned) Conditions() []Condition { return c.Status.Conditions }

// Balanced is the status of objects that say where they are reached.
type Balanced struct {
	Status struct {
		LoadBalancer struct {
			Ingress []Address `json:"ingress"`
		} `json:"loadBalancer"`
	} `json:"status"`
}

// Address is where a load balancer is.
type Address struct {
	IP       string `json:"ip,omitempty"`
	Hostname string `json:"hostname,omitempty"`
}

// IngressClass of networking.k8s.io/v1.
type IngressClass struct {
	Meta `json:"metadata"`
	Spec struct {
		Controller string `json:"controller"`
		Parameters *struct {
			APIGroup  string `json:"apiGroup"`
			Kind      string `json:"kind"`
			Name      string `json:"name"`
			Namespace string `json:"namespace"`
		} `json:"parameters"`
	} `json:"spec"`
}

// Parameters are the IngressClassParameters of configuration.konghq.com/v1alpha1.
type Parameters struct {
	Meta `json:"metadata"`
	Spec struct {
		ServiceUpstream            bool `json:"serviceUpstream"`
		EnableLegacyRegexDetection bool `json:"enableLegacyRegexDetection"`
	} `json:"spec"`
}

// Service of v1.
type Service struct {
	Meta `json:"metadata"`
	Spec struct {
		Type         string        `json:"type"`
		ClusterIP    string        `json:"clusterIP"`
		ExternalName string        `json:"externalName"`
		Ports        []ServicePort `json:"ports"`
	} `json:"spec"`
	Balanced
}

// ServicePort is one port of a Service.
type ServicePort struct {
	Name        string `json:"name"`
	Protocol    string `json:"protocol"`
	Port        int    `json:"port"`
	AppProtocol string `json:"appProtocol"`
}

// EndpointSlice of discovery.k8s.io/v1.
type EndpointSlice struct {
	Meta        `json:"metadata"`
	AddressType string `json:"addressType"`
	Ports       []struct {
		Name     string `json:"name"`
		Protocol string `json:"protocol"`
		Port     int    `json:"port"`
	} `json:"ports"`
	Endpoints []Endpoint `json:"endpoints"`
}

// Endpoint is one backend of an EndpointSlice.
type Endpoint struct {
	Addresses  []string `json:"addresses"`
	Zone       string   `json:"zone"`
	Conditions struct {
		Ready       *bool `json:"ready"`
		Serving     *bool `json:"serving"`
		Terminating *bool `json:"terminating"`
	} `json:"conditions"`
}

// Kind is "Ingress".
func (*Ingress) Kind() string { return KindIngress }

// Kind is "IngressClass".
func (*IngressClass) Kind() string { return KindIngressClass }

// Kind is "IngressClassParameters".
func (*Parameters) Kind() string { return KindParameters }

// Kind is "Service".
func (*Service) Kind() string { return KindService }

// Kind is "EndpointSlice".
func (*EndpointSlice) Kind() string { return KindEndpointSlice }

// ServiceName is the Service that a slice is of.
func (s *EndpointSlice) ServiceName() string { return s.Labels["kubernetes.io/service-name"] }

// New makes an empty object of a kind, to be read from JSON; nil for an unknown kind.
func New(kind string) Object {
	switch kind {
	case KindIngress:
		return &Ingress{}
	case KindIngressClass:
		return &IngressClass{}
	case KindParameters:
		return &Parameters{}
	case KindService:
		return &Service{}
	case KindEndpointSlice:
		return &EndpointSlice{}
	case KindPlugin, KindClusterPlugin:
		return &Plugin{cluster: kind == KindClusterPlugin}
	case KindConsumer:
		return &Consumer{}
	case KindConsumerGroup:
		return &ConsumerGroup{}
	case KindUpstreamPolicy:
		return &UpstreamPolicy{}
	case KindVault:
		return &KongVault{}
	case KindCustomEntity:
		return &CustomEntity{}
	case KindKongIngress:
		return &KongIngress{}
	case KindTCPIngress, KindUDPIngress:
		return &StreamIngress{datagram: kind == KindUDPIngress}
	case KindGrant:
		return &Grant{}
	case KindCredential:
		return &Credential{}
	case KindAuthority:
		return &Authority{}
	case KindAuthorityMap:
		return &AuthorityMap{}
	case KindSecret:
		return &Secret{}
	}
	return newOfGateway(kind)
}

// Followed says whether objects of a kind are watched one by one, as State.Wanted says.
func Followed(kind string) bool {
	return kind == KindSecret || kind == KindPair || kind == KindBundle
}

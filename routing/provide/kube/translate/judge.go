package translate

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"strings"
)

// Judge answers what would be refused of an object by itself, by the rules by which it
// would be translated. What it refers to is taken for right and there, since objects
// come in any order; what is of another class, or of none, is right too.
func Judge(cfg Config, o Object) []Finding {
	s := NewState(cfg)
	s.alone = true
	class := &IngressClass{Meta: Meta{Name: cfg.Class}}
	class.Spec.Controller = cfg.Controllers[0]
	s.Put(class)
	m := *o.Common()
	m.Name = cmp.Or(m.Name, "new")
	m.Annotations = maps.Clone(m.Annotations)
	for _, prefix := range []string{kongPrefix, ownPrefix} {
		delete(m.Annotations, prefix+"plugins")
	}
	beside := &stub{services: map[string]*Service{}, namespace: m.Namespace}
	switch x := o.(type) {
	case *Ingress:
		y := *x
		y.Meta = m
		beside.ofIngress(&y)
		o = &y
	case *StreamIngress:
		y := *x
		y.Meta = m
		for _, rule := range y.Spec.Rules {
			protocol := "TCP"
			if y.datagram {
				protocol = "UDP"
			}
			beside.port(rule.Backend.ServiceName, ServicePort{Port: rule.Backend.ServicePort, Protocol: protocol})
		}
		o = &y
	case *Consumer:
		y := *x
		y.Meta, y.Credentials, y.Groups = m, nil, nil
		o = &y
	case *Plugin:
		if x.ConfigFrom != nil || len(x.Patches) > 0 {
			return nil // what it says is in Secrets
		}
		y := *x
		y.Meta = m
		o = &y
	case *UpstreamPolicy:
		y := *x
		y.Meta = m
		o = &y
		beside.use(s, cfg.Class, m)
	case *CustomEntity:
		y := *x
		y.Meta = m
		o = &y
	case *KongVault:
		y := *x
		y.Meta = m
		o = &y
	case *Service:
		o = judgedService(s, cfg.Class, x, m)
	case *Route:
		if x.kind != KindHTTPRoute && x.kind != KindGRPCRoute {
			return nil
		}
		y := *x
		y.Meta, y.Spec.ParentRefs = m, stubGateway(s, m.Namespace)
		o = &y
	default:
		return nil
	}
	for _, service := range beside.services {
		s.Put(service)
	}
	s.Put(o)
	s.Document()
	return foundOf(s, cfg, o)
}

// foundOf are the findings about the object itself.
func foundOf(s *State, cfg Config, o Object) []Finding {
	var list []Finding
	for _, f := range s.Findings() {
		if f.Object != RefOf(o) {
			continue
		}
		switch x := o.(type) {
		case *Plugin:
			if _, known := cfg.Schemas[x.Plugin]; !known {
				f.Effect = Ignored // another controller may serve it
			}
		case *CustomEntity:
			if f.Field == "metadata.namespace" {
				f.Effect = Ignored // another node of the class may serve it
			}
		case *Route:
			if !x.asksUs(f.Field) {
				continue
			}
		}
		list = append(list, f)
	}
	return list
}

// judgedService is a Service without what it names, which comes later, and an Ingress
// that leads to it.
func judgedService(s *State, class string, x *Service, m Meta) *Service {
	y := *x
	y.Meta = m
	for _, prefix := range []string{kongPrefix, ownPrefix} {
		for _, name := range []string{"upstream-policy", "override", "ca-certificates-secrets", "ca-certificates-configmaps"} {
			delete(y.Annotations, prefix+name)
		}
	}
	if len(y.Spec.Ports) == 0 {
		y.Spec.Ports = []ServicePort{{Port: 80}}
	}
	leadTo(s, class, y.Namespace, y.Name, y.Spec.Ports[0].Port)
	return &y
}

// stub is what an object refers to, made up.
type stub struct {
	namespace string
	services  map[string]*Service
}

// port adds a port of a Service.
func (b *stub) port(service string, p ServicePort) {
	s := b.services[service]
	if s == nil {
		s = &Service{Meta: Meta{Namespace: b.namespace, Name: service}}
		b.services[service] = s
	}
	s.Spec.Ports = append(s.Spec.Ports, p)
}

func (b *stub) ofIngress(o *Ingress) {
	backend := func(x *IngressBackend) {
		if x != nil && x.Service != nil {
			b.port(x.Service.Name, ServicePort{Name: x.Service.Port.Name, Port: x.Service.Port.Number})
		}
	}
	backend(o.Spec.DefaultBackend)
	for i := range o.Spec.Rules {
		if http := o.Spec.Rules[i].HTTP; http != nil {
			for j := range http.Paths {
				backend(&http.Paths[j].Backend)
			}
		}
	}
}

// use makes a Service that uses a policy, and an Ingress that uses it.
func (b *stub) use(s *State, class string, policy Meta) {
	b.port("stub", ServicePort{Port: 80})
	b.services["stub"].Annotations = map[string]string{kongPrefix + "upstream-policy": policy.Name}
	leadTo(s, class, b.namespace, "stub", 80)
}

// leadTo makes an Ingress whose backend is a Service.
func leadTo(s *State, class, namespace, service string, port int) {
	user := &Ingress{}
	text := `{"metadata": {"name": "stub"}, "spec": {"defaultBackend": {"service": {}}}}`
	if json.Unmarshal([]byte(text), user) != nil {
		return // the text is right
	}
	user.Namespace, user.Spec.IngressClassName = namespace, &class
	to := user.Spec.DefaultBackend.Service
	to.Name, to.Port.Number = service, port
	s.Put(user)
}

// stubGateway makes a Gateway that lets in every route of a namespace, and answers what
// such a route says of it.
func stubGateway(s *State, namespace string) []ParentRef {
	const controller = "stub/gateway"
	s.cfg.GatewayControllers = []string{controller}
	class := &GatewayClass{Meta: Meta{Name: "stub"}}
	class.Spec.ControllerName = controller
	g := &Gateway{Meta: Meta{Name: "stub", Namespace: namespace}}
	g.Spec.GatewayClassName, g.Spec.Listeners = class.Name, []Listener{{Name: "stub", Port: 80, Protocol: "HTTP"}}
	s.Put(class)
	s.Put(g)
	return []ParentRef{{ObjectReference: ObjectReference{Name: g.Name}}}
}

// asksUs says whether a field is for controllers of this kind: an annotation, or a filter
// that names an object of theirs. Of the rest it is not known whose the route is, which
// its Gateway says.
func (r *Route) asksUs(field string) bool {
	if strings.HasPrefix(field, "metadata.annotations[") {
		return true
	}
	for i := range r.Spec.Rules {
		rule := &r.Spec.Rules[i]
		for j := range rule.Filters {
			ref := rule.Filters[j].ExtensionRef
			if ref != nil && ref.group("") == konghq && field == fmt.Sprintf("spec.rules[%d].filters[%d].extensionRef", i, j) {
				return true
			}
		}
	}
	return false
}

package translate

import (
	"cmp"
	"encoding/json"
	"maps"
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
	case *KongVault:
		y := *x
		y.Meta = m
		o = &y
	default:
		return nil
	}
	for _, service := range beside.services {
		s.Put(service)
	}
	s.Put(o)
	s.Document()
	var list []Finding
	for _, f := range s.Findings() {
		if f.Object != RefOf(o) {
			continue
		}
		if p, ok := o.(*Plugin); ok {
			if _, known := cfg.Schemas[p.Plugin]; !known {
				f.Effect = Ignored // another controller may serve it
			}
		}
		list = append(list, f)
	}
	return list
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
	user := &Ingress{}
	text := `{"metadata": {"name": "stub"}, "spec": {"defaultBackend": {"service": {"name": "stub", "port": {"number": 80}}}}}`
	if json.Unmarshal([]byte(text), user) != nil {
		return // the text is right
	}
	user.Namespace, user.Spec.IngressClassName = b.namespace, &class
	s.Put(user)
}

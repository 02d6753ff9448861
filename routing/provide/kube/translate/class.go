package translate

import "slices"

const (
	classAnnotation   = "kubernetes.io/ingress.class"
	defaultAnnotation = "ingressclass.kubernetes.io/is-default-class"
)

// class answers our IngressClass, nil for none: one of another controller is not ours.
// known is false where there is one and it is another's.
func (w *run) class() (class *IngressClass, known bool) {
	o, _ := w.look(KindIngressClass, "", w.cfg.Class).(*IngressClass)
	if o != nil && !slices.Contains(w.cfg.Controllers, o.Spec.Controller) {
		return nil, false
	}
	return o, true
}

// ours says whether an object is of our class: it names it, or it names none and
// ours is the default.
func (w *run) ours(name string) bool {
	class, known := w.class()
	switch {
	case !known:
		return false
	case name == "":
		return class != nil && class.Annotations[defaultAnnotation] == "true"
	}
	return name == w.cfg.Class
}

// className is the class that an Ingress names. The annotation is from before the
// field, and stands where the field does not.
func (i *Ingress) className() string {
	if i.Spec.IngressClassName != nil {
		return *i.Spec.IngressClassName
	}
	return i.Annotations[classAnnotation]
}

// parameters are those of our IngressClass.
func (w *run) parameters() *Parameters {
	class, _ := w.class()
	if class == nil || class.Spec.Parameters == nil {
		return &Parameters{}
	}
	p := class.Spec.Parameters
	if p.Kind != KindParameters || p.APIGroup != "configuration.konghq.com" {
		return &Parameters{}
	}
	if found, ok := w.look(KindParameters, p.Namespace, p.Name).(*Parameters); ok {
		return found
	}
	return &Parameters{}
}

// parametersUnread says that nobody knows what the parameters are.
func (w *run) parametersUnread() bool {
	class, _ := w.class()
	if class == nil {
		return w.unreadable(KindIngressClass, "")
	}
	p := class.Spec.Parameters
	return p != nil && w.look(KindParameters, p.Namespace, p.Name) == nil && w.unreadable(KindParameters, p.Namespace)
}

// Ours says whether an object is served here: it is of our class, or used by what is.
func (s *State) Ours(o Object) bool {
	w := &run{State: s, unit: unit{reads: map[Ref]struct{}{}}}
	switch o := o.(type) {
	case *Ingress:
		return w.ours(o.className())
	case *Plugin:
		return len(s.collections[Ref{collectUses, o.Namespace, o.Name}]) > 0
	case *CustomEntity:
		return w.ours(o.Spec.ControllerName)
	case *Consumer, *ConsumerGroup, *KongVault, *StreamIngress:
		return w.ours(o.Common().Annotations[classAnnotation])
	}
	return false
}

package translate

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// Types of entities that a KongCustomEntity may be: those that no other kind of objects makes.
const (
	typePolicy = "x_keyway_tls_policies"
	typeSNI    = "snis"
)

// instead says what makes the entities of the other types.
func instead(kind string) string {
	switch kind {
	case "services", "upstreams", "targets", "certificates":
		return "Services, EndpointSlices and Secrets make those"
	case "routes":
		return "Ingresses and the routes of Gateway API make those"
	case "plugins":
		return "KongPlugins and KongClusterPlugins make those"
	case "consumers", "consumer_groups":
		return "KongConsumers and KongConsumerGroups make those"
	case "keyauth_credentials", "acls":
		return "Secrets with the label " + credentialLabel + " make those"
	case "ca_certificates":
		return "Secrets and ConfigMaps with the label " + authorityLabel + " make those"
	case "vaults":
		return "KongVaults make those"
	case "x_keyway_listeners":
		return "Gateways make those"
	case "x_keyway_issuers":
		return "they are for documents of files, or use cert-manager"
	}
	return "there is no such type here"
}

// entityState is what others read of a KongCustomEntity.
type entityState struct {
	Closed string         // it is not right
	Policy string         // id of the entity that it makes
	Values map[string]any // of a server name, which is made by the name
}

// customEntity claims the name of an entity.
func (w *run) customEntity() {
	o, ok := w.subject.(*CustomEntity)
	if !ok || !w.ours(o.Spec.ControllerName) {
		return
	}
	name, secret := w.customNames(o)
	if w.refused {
		return
	}
	c := claim{Object: RefOf(o), Created: o.CreationTimestamp}
	if o.Spec.Type == typeSNI {
		c.Secret = secret
		w.give(Ref{unitHost, "", name}, c)
	} else {
		w.give(Ref{collectTLSPolicy, o.Namespace, name}, c)
	}
	w.need(Ref{unitEntity, o.Namespace, o.Name})
}

// customNames are the name of an entity and, of a server name, the Secret with its pair.
func (w *run) customNames(o *CustomEntity) (name, secret string) {
	switch fields, ok := o.Spec.Fields.(map[string]any); {
	case o.Spec.Type != typePolicy && o.Spec.Type != typeSNI:
		w.refuse("spec.type", "expected "+typePolicy+" or "+typeSNI+", not '"+o.Spec.Type+"': "+instead(o.Spec.Type))
	case !w.servesEntities(o.Namespace):
		w.refuse("metadata.namespace", "expected a namespace that the setting kube_custom_entities of the node names")
	case o.Spec.ParentRef != nil:
		w.refuse("spec.parentRef", "expected none: "+o.Spec.Type+" are of no plugin")
	case !ok:
		w.refuse("spec.fields", "expected an object with the fields of the entity")
	case fields["id"] != nil:
		w.refuse("spec.fields.id", "expected none: the id follows from the name")
	case o.Spec.Type == typePolicy:
		if name, _ = fields["name"].(string); name == "" {
			w.refuse("spec.fields.name", "expected a name, by which "+typeSNI+" of the namespace name this policy")
		}
	default:
		name, _ = fields["name"].(string)
		if name = strings.ToLower(name); !sniName(name) {
			w.refuse("spec.fields.name", "expected the name of a host, of which the first label may be *, or *")
		}
		if secret, _ = fields["certificate"].(string); !objectName(secret) {
			w.refuse("spec.fields.certificate", "expected the name of a Secret of namespace "+o.Namespace+" with a certificate and its key")
		}
	}
	return name, secret
}

// servesEntities says whether KongCustomEntities of a namespace are served.
func (s *State) servesEntities(namespace string) bool {
	return slices.Contains(s.cfg.CustomEntities, "*") || slices.Contains(s.cfg.CustomEntities, namespace)
}

// entity makes what a KongCustomEntity says, if it has its name for itself.
func (w *run) entity() {
	o, ok := w.subject.(*CustomEntity)
	if !ok {
		return
	}
	name, secret := w.customNames(o)
	state := entityState{}
	if !w.refused {
		fields, _ := o.Spec.Fields.(map[string]any)
		values := maps.Clone(fields)
		w.entityTags(o, values)
		if o.Spec.Type == typeSNI {
			state = w.serverName(o, name, secret, values)
		} else {
			state = w.tlsPolicy(o, name, values)
		}
	}
	if w.refused {
		w.doc, state = nil, entityState{Closed: w.why}
	}
	w.say(state)
}

// entityTags adds the tags that name the object to those that it says.
func (w *run) entityTags(o *CustomEntity, values map[string]any) {
	own, ok := values["tags"].([]any)
	if !ok && values["tags"] != nil {
		return // which is refused as what it is
	}
	list := slices.Clone(own)
	for _, tag := range w.tags(o) {
		list = append(list, tag)
	}
	values["tags"] = list
}

// composeEntity makes an entity of the object's fields.
func (w *run) composeEntity(kind string, values map[string]any) bool {
	fields := map[string]string{kind + ".@entity": "spec.fields"}
	for k := range values {
		fields[kind+"."+k] = "spec.fields." + k
	}
	return w.compose(map[string][]any{kind: {values}}, fields)
}

// tlsPolicy makes a TLS policy, whose name is one of the namespace.
func (w *run) tlsPolicy(o *CustomEntity, name string, values map[string]any) entityState {
	if best := oldest(w.collected(Ref{collectTLSPolicy, o.Namespace, name})); best == nil || best.Object != RefOf(o) {
		w.find("spec.fields.name", "expected a name that no other policy of the namespace has; one that is older has it", Closed)
		return entityState{}
	}
	values["name"] = "kongcustomentity." + o.Namespace + "." + name
	if list, ok := values["ca_certificates"].([]any); ok {
		ids := make([]any, len(list))
		for i, v := range list {
			ids[i] = w.ownAuthority(o, v, fmt.Sprintf("spec.fields.ca_certificates[%d]", i))
		}
		values["ca_certificates"] = ids
	}
	if w.refused || !w.composeEntity(typePolicy, values) {
		return entityState{}
	}
	p := w.doc.TLSPolicies[0]
	w.permitted(p, "crls")
	return entityState{Policy: p.ID}
}

// ownAuthority is the id of the entity of an authority of the object's namespace, which it names by its id.
func (w *run) ownAuthority(o *CustomEntity, v any, field string) string {
	id, text := v.(string)
	id = strings.ToLower(id)
	if w.alone && text {
		return id
	}
	unit := Ref{unitAuthorityID, "", id}
	best := oldest(w.collected(unit))
	if best == nil || best.Object.Namespace != o.Namespace {
		w.refuse(field, "expected the id of an authority in a Secret or ConfigMap of namespace "+o.Namespace+" with the label "+authorityLabel)
		return ""
	}
	state, _ := w.value(unit).(authorityState)
	if state.ID == "" {
		w.refuse(field, "expected "+best.Object.String()+" to have the certificate of an authority")
	}
	return state.ID
}

// serverName reads what a server name is served with; the name makes it, if the object has it.
func (w *run) serverName(o *CustomEntity, name, secret string, values map[string]any) entityState {
	values["name"], values["certificate"] = name, pairID(Ref{unitPair, o.Namespace, secret})
	if policy := values["x_keyway_tls_policy"]; policy != nil {
		const field = "spec.fields.x_keyway_tls_policy"
		called, _ := policy.(string)
		if w.alone && called != "" {
			delete(values, "x_keyway_tls_policy")
			w.composeEntity(typeSNI, values)
			return entityState{}
		}
		best := oldest(w.collected(Ref{collectTLSPolicy, o.Namespace, called}))
		if best == nil {
			w.refuse(field, "expected the name of an entity of type "+typePolicy+" in namespace "+o.Namespace+"; there is no '"+called+"', or it is not right")
			return entityState{}
		}
		state, _ := w.value(Ref{unitEntity, best.Object.Namespace, best.Object.Name}).(entityState)
		if state.Closed != "" {
			w.refuse(field, best.Object.String()+" is not right ("+state.Closed+")")
			return entityState{}
		}
		values["x_keyway_tls_policy"] = state.Policy
	}
	w.composeEntity(typeSNI, values)
	w.doc = nil
	return entityState{Values: values}
}

// named answers how a server name with a pair is served where a KongCustomEntity says so: of
// several the oldest. What is not right cannot be left out, without which clients might not be
// verified: then nobody is let in. nil stands for nothing said.
func (w *run) named(pair Ref) map[string]any {
	var all []said
	for _, s := range w.collected(w.self) {
		if c, ok := s.v.(claim); ok && c.Object.Kind == KindCustomEntity && c.pair() == pair {
			all = append(all, s)
		}
	}
	if len(all) == 0 && w.servesEntities(pair.Namespace) && w.unreadable(KindCustomEntity, pair.Namespace) {
		return w.closedName(pair)
	}
	best := oldest(all)
	if best == nil {
		return nil
	}
	for _, s := range all {
		if c, ok := s.v.(claim); ok && c.Object != best.Object {
			w.findOf(c.Object, "spec.fields.name", "expected nobody before it to ask for "+w.self.Name+"; "+best.Object.String()+" is older", Closed)
		}
	}
	state, _ := w.value(Ref{unitEntity, best.Object.Namespace, best.Object.Name}).(entityState)
	if state.Values == nil {
		return w.closedName(pair)
	}
	return state.Values
}

// closedName is a server name under the policy that lets nobody in.
func (w *run) closedName(pair Ref) map[string]any {
	w.need(Ref{Kind: unitNobody})
	return map[string]any{"name": w.self.Name, "certificate": pairID(pair), "x_keyway_tls_policy": policyID(nobodyPolicy)}
}

// nobodyPolicy cannot be the name of one that objects name: theirs has a namespace.
const nobodyPolicy = "kongcustomentity..nobody"

// nobody makes the policy that lets nobody in: the key of its authority was not kept, and
// without a list of what that revoked its certificates would not do.
func (w *run) nobody() {
	anchor := Ref{unitAnchor, "", digestOf(nobodyCA)}
	w.give(anchor, nobodyCA)
	w.compose(map[string][]any{typePolicy: {map[string]any{
		"id": policyID(nobodyPolicy), "name": nobodyPolicy, "client_auth": "required", "ca_certificates": []string{anchorID(anchor)}, "crl_required": true, "tags": []string{"managed-by-ingress-controller"},
	}}}, nil)
}

const nobodyCA = `-----BEGIN CERTIFICATE-----
MIIBVDCB+6ADAgECAgEBMAoGCCqGSM49BAMCMBExDzANBgNVBAMTBm5vYm9keTAg
Fw0wMDAxMDEwMDAwMDBaGA85OTk5MTIzMTIzNTk1OVowETEPMA0GA1UEAxMGbm9i
b2R5MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEy9aGHVOGoDZIODH1QGGMPYd0
939k5fZgZV97VjWj4rB8PdQ9d+llogl3eNxnMyuYiiSy0Wi8YqPeY06CbBM/ZKNC
MEAwDgYDVR0PAQH/BAQDAgEGMA8GA1UdEwEB/wQFMAMBAf8wHQYDVR0OBBYEFBPO
e8piy4vPd7RhxYDVEn+j6ufZMAoGCCqGSM49BAMCA0gAMEUCIFbvDEZGiYyJraVW
00qeGfgBZIfX5UnJGmXwLMMDWbUtAiEAhL72/bCzvnXjMvHqgSCgBdLiViVRA3u6
9EQiV1dXEkI=
-----END CERTIFICATE-----
`

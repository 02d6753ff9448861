package kube

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"net/http"
	"time"
)

// Notice is something to be told of an object, as an Event on it.
type Notice struct {
	APIVersion, Kind, Namespace, Name, UID string // of the object

	Field           string // of it, "" for none
	Reason, Message string
	Effect          string // what comes of it, "" for nothing
}

// Notify says what there is to be told of objects that are not this provider's: until it
// is called again the replica that writes tells each once. A notice that says something
// else is another one.
func (p *Provider) Notify(list []Notice) {
	p.mu.Lock()
	p.notices = list
	p.mu.Unlock()
}

func (p *Provider) noticed() []Notice {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.notices
}

// event is the Event of a notice. Its name says what it tells, so that no replica tells
// it twice.
func (n *Notice) event(identity string) write {
	data, _ := json.Marshal(n) // of texts, which always encode
	sum := sha256.Sum256(data)
	key := hex.EncodeToString(sum[:8])
	namespace := n.Namespace
	if namespace == "" {
		namespace = "default"
	}
	now := time.Now().UTC().Format(time.RFC3339)
	message := n.Message
	if len(message) > 1000 {
		message = message[:1000]
	}
	if n.Effect != "" {
		message += " (" + n.Effect + ")"
	}
	return write{
		method: http.MethodPost, path: "api/v1/namespaces/" + namespace + "/events", object: n.Kind + " " + n.Namespace + "/" + n.Name, tells: *n,
		body: map[string]any{
			"apiVersion": "v1", "kind": "Event", "metadata": map[string]any{"name": n.Name + "." + key, "namespace": namespace},
			"involvedObject": map[string]any{"kind": n.Kind, "namespace": n.Namespace, "name": n.Name, "uid": n.UID, "apiVersion": n.APIVersion, "fieldPath": n.Field},
			"type":           "Warning", "reason": n.Reason, "message": message,
			"source": map[string]any{"component": "keyway", "host": identity}, "reportingComponent": "keyway.dev/controller", "reportingInstance": identity,
			"firstTimestamp": now, "lastTimestamp": now, "count": 1,
		},
	}
}

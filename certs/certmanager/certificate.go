package certmanager

import (
	"fmt"
	"strings"
	"time"
)

// State is how the issuance of a Certificate stands.
type State string

// The states, the worst last.
const (
	Issued   State = "issued"    // it is as its specification says
	Issuing  State = "issuing"   // cert-manager is at it
	NotReady State = "not_ready" // it differs from its specification, and nothing is under way
	Failing  State = "failing"   // the last try failed, or the one under way does not end
	Overdue  State = "overdue"   // it should have been renewed by now
	Expired  State = "expired"   // it has ended
)

// States are all of them.
func States() []State { return []State{Issued, Issuing, NotReady, Failing, Overdue, Expired} }

// Bad says that somebody has to look.
func (s State) Bad() bool { return s == Failing || s == Overdue || s == Expired }

// stalled is how long an issuance may take before it counts as failing: cert-manager
// waits for issuers that are not there without an end.
const stalled = 10 * time.Minute

// Condition is one that a Certificate says of itself.
type Condition struct {
	True            bool
	Reason, Message string
	Since           time.Time
}

// Certificate is what is used of a Certificate. It is not changed.
type Certificate struct {
	Namespace, Name, UID string
	Secret               string // that it is written to
	Issuer               string // "ClusterIssuer ca"
	Temporary            bool   // a stand-in serves until the issuer has answered
	Created              time.Time
	NotAfter             time.Time // of the pair that was issued last, zero for none
	Renewal              time.Time // when cert-manager means to renew it, zero for never
	Ready, Issuing       Condition
	Attempts             int // to issue it that failed since one did not
	LastFailure          time.Time
	Rivals               []string // other Certificates of the same Secret
}

// String is "Certificate shop/web".
func (c *Certificate) String() string { return "Certificate " + c.Namespace + "/" + c.Name }

// object is a Certificate as the API server has it.
type object struct {
	Metadata struct {
		Name              string            `json:"name"`
		Namespace         string            `json:"namespace"`
		UID               string            `json:"uid"`
		ResourceVersion   string            `json:"resourceVersion"`
		CreationTimestamp time.Time         `json:"creationTimestamp"`
		Annotations       map[string]string `json:"annotations"`
	} `json:"metadata"`
	Spec struct {
		SecretName string `json:"secretName"`
		IssuerRef  struct {
			Name  string `json:"name"`
			Kind  string `json:"kind"`
			Group string `json:"group"`
		} `json:"issuerRef"`
	} `json:"spec"`
	Status struct {
		Conditions []struct {
			Type               string    `json:"type"`
			Status             string    `json:"status"`
			Reason             string    `json:"reason"`
			Message            string    `json:"message"`
			LastTransitionTime time.Time `json:"lastTransitionTime"`
		} `json:"conditions"`
		NotAfter               time.Time `json:"notAfter"`
		RenewalTime            time.Time `json:"renewalTime"`
		LastFailureTime        time.Time `json:"lastFailureTime"`
		FailedIssuanceAttempts int       `json:"failedIssuanceAttempts"`
	} `json:"status"`
}

// group is that of cert-manager's own issuers.
const group = "cert-manager.io"

func (o *object) certificate() *Certificate {
	m, st := &o.Metadata, &o.Status
	c := &Certificate{
		Namespace: m.Namespace, Name: m.Name, UID: m.UID, Secret: o.Spec.SecretName, Created: m.CreationTimestamp,
		Temporary: m.Annotations[group+"/issue-temporary-certificate"] == "true",
		NotAfter:  st.NotAfter, Renewal: st.RenewalTime, Attempts: st.FailedIssuanceAttempts, LastFailure: st.LastFailureTime,
	}
	kind := o.Spec.IssuerRef.Kind
	if kind == "" {
		kind = "Issuer"
	}
	if g := o.Spec.IssuerRef.Group; g != "" && g != group {
		kind += "." + g
	}
	c.Issuer = kind + " " + o.Spec.IssuerRef.Name
	for _, x := range st.Conditions {
		to := map[string]*Condition{"Ready": &c.Ready, "Issuing": &c.Issuing}[x.Type]
		if to != nil {
			*to = Condition{True: x.Status == "True", Reason: x.Reason, Message: strings.Join(strings.Fields(x.Message), " "), Since: x.LastTransitionTime}
		}
	}
	return c
}

// State answers how the issuance stands and what there is to say of it.
func (c *Certificate) State(now time.Time) (State, string) {
	state, why := c.state(now)
	if len(c.Rivals) > 0 {
		why = strings.TrimPrefix(why+"; ", "; ") + "its Secret is written by other Certificates too: " + strings.Join(c.Rivals, ", ")
	}
	return state, why
}

func (c *Certificate) state(now time.Time) (State, string) {
	trouble := c.trouble(now)
	also := ""
	if trouble != "" {
		also = "; " + trouble
	}
	switch {
	case !c.NotAfter.IsZero() && now.After(c.NotAfter):
		return Expired, "it ended at " + stamp(c.NotAfter) + also
	case trouble != "":
		return Failing, trouble
	case !c.Renewal.IsZero() && now.After(c.late()):
		return Overdue, "it was to be renewed at " + stamp(c.Renewal) + " and ends at " + stamp(c.NotAfter)
	case c.Issuing.True:
		return Issuing, said(&c.Issuing)
	case !c.Ready.True:
		return NotReady, said(&c.Ready)
	}
	return Issued, ""
}

// late is when a renewal that did not come is told of: half of the time between it and
// the end is gone.
func (c *Certificate) late() time.Time {
	return c.Renewal.Add(c.NotAfter.Sub(c.Renewal) / 2)
}

// trouble says why the issuance counts as failing, "" while it does not.
func (c *Certificate) trouble(now time.Time) string {
	switch {
	case c.Attempts > 0:
		text := fmt.Sprintf("failed %d times, last at %s", c.Attempts, stamp(c.LastFailure))
		switch why := said(&c.Issuing); {
		case c.Issuing.True: // which says why it is tried, and no more why it failed
			text += "; tried again since " + stamp(c.Issuing.Since) + ": " + why
		case why != "":
			text += ": " + why
		}
		return text
	case c.Issuing.True && !c.Issuing.Since.IsZero() && now.Sub(c.Issuing.Since) > stalled:
		return "under way since " + stamp(c.Issuing.Since) + ": " + said(&c.Issuing)
	}
	return ""
}

func said(c *Condition) string {
	if c.Reason == "" && c.Message == "" {
		return ""
	}
	return c.Reason + ": " + c.Message
}

func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }

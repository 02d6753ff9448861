package translate

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"
)

// ofPolicy is what the status of a policy says of each Service: "web Accepted=False/Invalid".
func ofPolicy(t *testing.T, s *State, name string) string {
	t.Helper()
	s.Document()
	p, ok := s.Object(Ref{KindUpstreamPolicy, "shop", name}).(*UpstreamPolicy)
	if !ok {
		t.Fatalf("no policy %s", name)
	}
	v := s.Status(p, nil, nil, time.Unix(1, 0))
	var out []string
	list, _ := v["ancestors"].([]AncestorStatus)
	for _, a := range list {
		if a.ControllerName != "keyway.dev/gateway" {
			continue
		}
		text := a.AncestorRef.Name
		for _, c := range a.Conditions {
			text += " " + c.Type + "=" + c.Status + "/" + c.Reason + " " + c.Message
		}
		out = append(out, strings.TrimSpace(text))
	}
	if v == nil {
		return "as it is"
	}
	// Once it is written there is nothing more to write.
	text, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	again := *p
	if err := json.Unmarshal(text, &again.Status); err != nil {
		t.Fatal(err)
	}
	if s.Status(&again, nil, nil, time.Unix(2, 0)) != nil {
		t.Errorf("%s: the same status is written again", name)
	}
	return strings.Join(out, "; ")
}

func TestStatusOfUpstreamPolicies(t *testing.T) {
	const policy = "kind: KongUpstreamPolicy\nmetadata: {name: %s, namespace: shop}\nspec: {%s}\n---\n"
	const good, bad = "Accepted=True/Accepted  Programmed=True/Programmed", "Accepted=False/Invalid %[1]s Programmed=False/Invalid %[1]s"
	why := fmt.Sprintf(bad, "spec.stickySessions.cookie: expected the name of a cookie, since algorithm is sticky-sessions")
	conflict := "the Service names KongUpstreamPolicy 'p' in keyway.dev/upstream-policy, which counts"
	for _, c := range []struct{ annotations, p, q, ofP, ofQ string }{
		{"konghq.com/upstream-policy: p", "algorithm: latency", "slots: 20", "web " + good, "as it is"},
		{"konghq.com/upstream-policy: p", "algorithm: sticky-sessions", "slots: 20", "web " + why, "as it is"},
		{"konghq.com/upstream-policy: p", "slots: 1", "slots: 20", "web " + fmt.Sprintf(bad, "slots: value should be between 10 and 65536"), "as it is"},
		{
			"konghq.com/upstream-policy: q, keyway.dev/upstream-policy: p", "slots: 30", "slots: 20", "web " + good,
			"web Accepted=False/Conflicted " + conflict + " Programmed=False/Pending " + conflict,
		},
	} {
		s := state(t, with(classes, "Service", "web", c.annotations)+fmt.Sprintf(policy, "p", c.p)+fmt.Sprintf(policy, "q", c.q)+ingress("/", "Prefix"))
		if got := ofPolicy(t, s, "p"); strings.Join(strings.Fields(got), " ") != strings.Join(strings.Fields(c.ofP), " ") {
			t.Errorf("%s, p: %s", c.annotations, got)
		}
		if got := ofPolicy(t, s, "q"); strings.Join(strings.Fields(got), " ") != strings.Join(strings.Fields(c.ofQ), " ") {
			t.Errorf("%s, q: %s", c.annotations, got)
		}
	}
	// What another controller says stays, what is ours and over goes.
	text := strings.Replace(fmt.Sprintf(policy, "p", "slots: 20"), "spec:", `status: {ancestors: [{ancestorRef: {name: x}, controllerName: other}, {ancestorRef: {name: y}, controllerName: keyway.dev/gateway}]}
spec:`, 1)
	s := state(t, classes+text+ingress("/", "Prefix"))
	s.Document()
	list, _ := s.Status(s.Object(Ref{KindUpstreamPolicy, "shop", "p"}), nil, nil, time.Unix(1, 0))["ancestors"].([]AncestorStatus)
	if len(list) != 1 || list[0].ControllerName != "other" {
		t.Errorf("%+v", list)
	}
}
